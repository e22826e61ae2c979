"""Ranking losses in every form against their equations in float64: values, gradients, and what they refuse.

Legend: M candidates, C classes, K pools, δ half the width of the soft step.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from tests.losses.test_pools import FORMS, LOSSES, Problem, graded, loss
from torch import Tensor

from rankdet.losses import Implementation, Pools

from .fuzzing import Fuzz, Verdict, refused

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
DELTAS = (0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 1e4)
IMPLEMENTATIONS: list[Implementation] = ["torch", "auto"]
if find_spec("numba") is not None:
    IMPLEMENTATIONS.append("numba")
MISTAKES = {
    "δ is negative": "delta",
    "δ is no number": "delta",
    "δ is infinite": "delta",
    "a pool that is none": "pools",
    "pools of another shape": "broadcast",
}
"""What is wrong with the arguments of a call, and a word that a message has to have."""


class Case(NamedTuple):
    """A call of a loss.

    name, form, by, dtype
        The loss, its form, the implementation, and the type of the logits.
    logits
        M lists of C numbers, which the type may round.
    labels
        M labels: −1 ignored, C background.
    qualities
        M qualities, of those of a class.
    levels
        The number of candidates that are a level of their own.
    pools
        K and M × C numbers of pools; None: one pool.
    """

    name: str
    form: str
    by: Implementation
    dtype: str
    delta: float
    logits: list[list[float]]
    labels: list[int]
    qualities: list[float]
    levels: int | None
    pools: tuple[int, list[list[int]]] | None
    mistake: str | None

    def problem(self, dtype: torch.dtype) -> Problem:
        """The tensors of the call."""
        num_classes = len(self.logits[0]) if self.logits else 1
        shape = (len(self.logits), num_classes)
        rounded = torch.tensor(self.logits, dtype=torch.float64).view(shape).to(DTYPES[self.dtype]).to(dtype)
        labels = torch.tensor(self.labels, dtype=torch.int64)
        qualities = torch.tensor(self.qualities, dtype=torch.float64)
        targets = (labels[:, None] == torch.arange(num_classes)) * qualities[:, None]
        targets[labels < 0] = -1
        number, pool_of = (1, torch.zeros(shape, dtype=torch.int64)) if self.pools is None else self.pools
        return Problem(rounded, labels, targets, Pools(torch.as_tensor(pool_of, dtype=torch.int64).view(shape), number))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few candidates, so that they tie, at all magnitudes that documentation speaks of."""
    size, num_classes, dtype = draw(st.integers(0, 12)), draw(st.integers(1, 3)), draw(st.sampled_from(sorted(DTYPES)))
    scale = draw(st.sampled_from([1.0, 1.0, 1e-3, 50.0, *([] if dtype == "float16" else [1e4, 1e7])]))
    grid = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])
    odd = st.sampled_from([math.nan, math.inf, -math.inf])
    number = st.floats(-4, 4, width=16) | grid if draw(st.booleans()) else grid
    number = number.map(lambda value: value * scale)
    number = number | odd if draw(st.integers(0, 7)) == 0 else number
    rows = lambda values: st.lists(  # noqa: E731
        st.lists(values, min_size=num_classes, max_size=num_classes), min_size=size, max_size=size
    )
    each = lambda values: st.lists(values, min_size=size, max_size=size)  # noqa: E731
    num_pools = draw(st.sampled_from([None, None, 1, 2, 4]))
    fitting = [one for one in MISTAKES if (size or "δ" in one) and (num_pools or "δ" in one)]
    return Case(
        name=draw(st.sampled_from(LOSSES)),
        form=draw(st.sampled_from(FORMS)),
        by=draw(st.sampled_from(IMPLEMENTATIONS)),
        dtype=dtype,
        delta=draw(st.sampled_from(DELTAS)),
        logits=draw(rows(number)),
        labels=draw(each(st.integers(-1, num_classes))),
        qualities=draw(each(st.sampled_from([0.25, 0.5, 1.0]) | st.floats(0.0625, 1, width=16))),
        levels=draw(st.none() | st.integers(0, size)),
        pools=None if num_pools is None else (num_pools, draw(rows(st.integers(0, num_pools - 1)))),
        mistake=draw(st.sampled_from(fitting)) if draw(st.integers(0, 7)) == 0 else None,
    )


def tolerance(case: Case, dtype: torch.dtype) -> float:
    """Sums of logits keep the resolution of float64; values and gradients that of their type, but float32 at least."""
    largest = max((abs(value) for row in case.logits for value in row if math.isfinite(value)), default=0.0)
    sums = 0.0 if case.delta == 0 else 64 * len(case.logits) * largest / case.delta * torch.finfo(torch.float64).eps
    return sums + (1e-10 if dtype == torch.float64 else 1e-6)


def called(
    case: Case, problem: Problem, delta: float, by: Implementation, levels: int | None = None
) -> tuple[Tensor, Tensor]:
    """The logits, and the values of the loss."""
    logits, pools = problem.logits.requires_grad_(), None if case.pools is None else problem.pools
    if levels is None:
        return logits, loss(case.name, case.form, problem, logits, delta, pools, by)
    sizes = [levels, len(logits) - levels]
    if pools is not None:
        pools = Pools(pools.of.split(sizes), pools.number)
    return logits, loss(case.name, case.form, problem, logits.split(sizes), delta, pools, by)


def check(case: Case) -> Verdict:
    """A value and a gradient as by the equations in float64, or a ValueError for what is wrong."""
    problem = case.problem(DTYPES[case.dtype])
    if case.mistake is not None:
        return check_mistake(case, problem)
    exact = case.problem(torch.float64)
    logits, values = called(case, problem, case.delta, case.by, case.levels)
    expected_logits, expected = called(case, exact, case.delta, "reference")
    dtype = torch.float64 if case.dtype == "float64" else torch.float32
    assert values.dtype == dtype, values.dtype
    close = tolerance(case, dtype)
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=close, equal_nan=True)
    if exact.logits.isfinite().all():
        gradient, wanted = graded(logits, values.double()), graded(expected_logits, expected)
        precision = torch.finfo(logits.dtype)
        torch.testing.assert_close(
            gradient.double(), wanted, rtol=2 * precision.eps, atol=close + 2 * precision.smallest_normal
        )
    return Verdict.ACCEPTED


def check_mistake(case: Case, problem: Problem) -> Verdict:
    """A ValueError."""
    delta = {"δ is negative": -0.5, "δ is no number": math.nan, "δ is infinite": math.inf}.get(
        case.mistake or "", case.delta
    )
    if case.mistake == "a pool that is none":
        problem = problem._replace(pools=Pools(problem.pools.of + problem.pools.number, problem.pools.number))
    if case.mistake == "pools of another shape":
        problem = problem._replace(pools=Pools(torch.cat([problem.pools.of] * 2), problem.pools.number))
    try:
        called(case, problem, delta, case.by)
    except ValueError as error:
        return refused(error, MISTAKES[case.mistake or ""])
    raise AssertionError(f"nothing is said of it: {case.mistake}")


def prepare(folder: Path) -> Fuzz:
    """The target; it needs no files."""
    return Fuzz(cases(), check)
