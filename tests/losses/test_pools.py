"""Many pools in one call: the losses of K calls, in every form, and what they do where pools are empty or spoiled.

Legend: M candidates, C classes, P positives, K pools, δ half the width of the soft step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankdet.losses import (
    Implementation,
    Pools,
    RankingOperator,
    Ruling,
    Window,
    alrp_loss,
    alrp_loss_at,
    alrp_loss_of_labels,
    ap_loss,
    ap_loss_at,
    ap_loss_of_labels,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)

M, C, K = 60, 4, 5
LOSSES = ["RS", "AP", "AP, plain", "aLRP"]
FORMS = ["targets", "labels", "index"]
KINDS = ["of candidates", "of classes", "of logits", "leading", "one"]
IMPLEMENTATION: Implementation = "torch"
"""The implementation that a test is about; each runs with all that there are."""

pytestmark = pytest.mark.usefixtures("each_implementation")

by_loss = pytest.mark.parametrize("name", LOSSES)
by_form = pytest.mark.parametrize("form", FORMS)
by_kind = pytest.mark.parametrize("kind", KINDS)


class Problem(NamedTuple):
    """(M, C) logits, (M,) labels, the same as (M, C) targets, and pools of some kind."""

    logits: Tensor
    labels: Tensor
    targets: Tensor
    pools: Pools

    @property
    def pool_of(self) -> Tensor:
        """(M, C)"""
        return self.pools.of.expand(self.logits.shape)


def draw(seed: int, kind: str, dtype: torch.dtype = torch.float64, ties: bool = False) -> Problem:
    """Of the K pools one is empty, one has no positives and one has no negatives, where the kind allows it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 2 * C, (M,), generator=generator).clamp(max=C)
    logits = 2 * torch.randn(M, C, generator=generator, dtype=torch.float64)
    targets = (labels[:, None] == torch.arange(C)) * (0.1 + 0.8 * torch.rand(M, C, generator=generator))
    if ties:
        logits, targets = (2 * logits).round() / 2, (4 * targets).ceil() / 4
    targets[labels < 0] = -1
    index = {
        "of candidates": torch.randint(0, K - 1, (M, 1), generator=generator),
        "of classes": torch.randperm(C, generator=generator),
        "of logits": torch.randint(0, K - 2, (M, C), generator=generator),
        "leading": (torch.arange(M) * (K - 1) // M)[:, None],
        "one": torch.tensor(2),
    }[kind]
    if kind in ("of candidates", "leading"):
        labels[index[:, 0] == 2] = labels[index[:, 0] == 2].clamp(max=-1) if seed % 2 else C
        targets[index[:, 0] == 2] = targets[index[:, 0] == 2].clamp(max=-1) if seed % 2 else 0.0
    if kind == "of logits":
        index = index.where(targets <= 0, K - 2)
    return Problem(logits.to(dtype), labels, targets, Pools(index, K))


def loss(
    name: str,
    form: str,
    problem: Problem,
    logits: Any,
    delta: float,
    pools: Pools | None,
    by: Implementation | None = None,
) -> Tensor:
    """(V, K) values of a loss, or (V,) without pools; of levels where ``logits`` are several."""
    options: dict[str, Any] = {"delta": delta, "pools": pools, "implementation": by or IMPLEMENTATION}
    levels = [logits] if isinstance(logits, Tensor) else logits
    sizes = [len(level) for level in levels]
    marks: Any = (problem.labels if form == "labels" else problem.targets).split(sizes)
    quality = problem.targets[problem.targets > 0]
    if form == "index":
        marks = (problem.targets > 0).view(-1).nonzero().squeeze(1)
        ignored = list((problem.labels < 0).split(sizes))
        options["ignored"] = ignored[0] if isinstance(logits, Tensor) else ignored
    elif isinstance(logits, Tensor):
        marks = marks[0]
    if name == "RS":
        function: Callable[..., Any] = {
            "targets": rank_sort_loss,
            "labels": rank_sort_loss_of_labels,
            "index": rank_sort_loss_at,
        }[form]
        return torch.stack(function(logits, marks, *([] if form == "targets" else [quality]), **options))
    if name == "aLRP":
        function = {"targets": alrp_loss, "labels": alrp_loss_of_labels, "index": alrp_loss_at}[form]
        return torch.stack(function(logits, marks, 1 - quality, **options))
    function = {"targets": ap_loss, "labels": ap_loss_of_labels, "index": ap_loss_at}[form]
    return function(logits, marks, interpolate=name == "AP", **options)[None]


def one_by_one(name: str, problem: Problem, logits: Tensor, delta: float, by: Implementation = "torch") -> Tensor:
    """(V, K) values of K calls, in each of which the logits of other pools are ignored."""
    values = []
    for pool in range(problem.pools.number):
        targets = problem.targets.where(problem.pool_of == pool, -1.0)
        values.append(loss(name, "targets", problem._replace(targets=targets), logits, delta, None, by))
    return torch.stack(values, 1)


def graded(logits: Tensor, values: Tensor) -> Tensor:
    """The gradient of a sum in which each value of each pool has a weight of its own, of either sign."""
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(
        values.dtype
    )
    (gradient,) = torch.autograd.grad((weights * values).sum(), logits)
    return gradient


def assert_as_calls(name: str, form: str, problem: Problem, delta: float, tolerance: float = 1e-12) -> None:
    logits = problem.logits.requires_grad_()
    expected = one_by_one(name, problem, logits, delta)
    values = loss(name, form, problem, logits, delta, problem.pools)
    torch.testing.assert_close(values, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(graded(logits, values), graded(logits, expected), rtol=0, atol=tolerance)


@by_loss
@by_form
@by_kind
def test_pools_of_one_call_are_as_many_calls(name: str, form: str, kind: str) -> None:
    for seed, delta, ties in ((0, 0.0, True), (1, 0.5, False), (2, 0.5, True)):
        assert_as_calls(name, form, draw(seed, kind, ties=ties), delta)


@by_loss
def test_pools_are_those_of_the_equations(name: str) -> None:
    problem = draw(3, "of logits")
    logits = problem.logits.requires_grad_()
    for form in FORMS:
        values = loss(name, form, problem, logits, 0.5, problem.pools)
        expected = loss(name, form, problem, logits, 0.5, problem.pools, by="reference")
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-7)  # qualities are float32 there
        torch.testing.assert_close(graded(logits, values), graded(logits, expected), rtol=0, atol=1e-7)


@by_loss
def test_hundreds_of_positives_of_a_pool_are_sorted_as_in_a_call(name: str) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(3000, 1, generator=generator, dtype=torch.float64)
    targets = torch.rand(3000, 1, generator=generator) * (torch.rand(3000, 1, generator=generator) < 0.3)
    pools = Pools(torch.randint(0, 3, (3000, 1), generator=generator), 3)
    labels = (targets[:, 0] == 0).long()
    for each in (logits, (8 * logits).round() / 8):
        assert_as_calls(name, "targets", Problem(each, labels, targets, pools), 0.5)


@by_loss
@by_form
def test_levels_have_pools_of_their_own_shapes(name: str, form: str) -> None:
    """A level without candidates, one that is of a single pool, and one that names a pool for each class."""
    problem = draw(4, "of logits")
    sizes = [20, 0, 33, 7]
    index = [torch.randint(0, K, (20, 1)), torch.zeros(0, 1, dtype=torch.int64), torch.arange(C), torch.tensor(3)]
    shapes = [(size, C) for size in sizes]
    pool_of = torch.cat([part.expand(shape) for part, shape in zip(index, shapes, strict=True)])
    levels = [level.requires_grad_() for level in problem.logits.split(sizes)]
    values = loss(name, form, problem, levels, 0.5, Pools(index, K))
    whole = problem.logits.requires_grad_()
    expected = one_by_one(name, problem._replace(pools=Pools(pool_of, K)), whole, 0.5)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    weights = torch.rand(values.shape, dtype=torch.float64)
    found = torch.autograd.grad((weights * values).sum(), levels)
    (gradient,) = torch.autograd.grad((weights * expected).sum(), whole)
    torch.testing.assert_close(torch.cat(found), gradient, rtol=0, atol=1e-12)


@by_loss
def test_float32_logits_keep_their_cells_and_go_back_twice(name: str) -> None:
    """The second backward pass looks for the cells again."""
    problem = draw(6, "of candidates", torch.float32)
    logits = problem.logits.requires_grad_()
    expected = one_by_one(name, problem, logits, 0.5)
    values = loss(name, "labels", problem, logits, 0.5, problem.pools)
    torch.testing.assert_close(values, expected)
    gradient = torch.autograd.grad(expected.sum(), logits)[0]
    for _ in range(2):
        found = torch.autograd.grad(values.sum(), logits, retain_graph=True)[0]
        torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-8)


@by_loss
def test_each_pool_is_differentiable_by_itself(name: str) -> None:
    problem = draw(7, "of candidates")
    for pool in range(K):
        logits = problem.logits.detach().clone().requires_grad_()
        loss(name, "labels", problem, logits, 0.5, problem.pools)[:, pool].sum().backward()
        expected = torch.autograd.grad(
            one_by_one(name, problem, problem.logits.requires_grad_(), 0.5)[:, pool].sum(), problem.logits
        )
        torch.testing.assert_close(logits.grad, expected[0], rtol=0, atol=1e-12)
        assert not logits.grad[problem.pool_of != pool].any()


@by_loss
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("kind", ["of candidates", "of classes"])
def test_a_logit_that_is_not_finite_spoils_its_own_pool_alone(name: str, bad: float, kind: str) -> None:
    for dtype in (torch.float32, torch.float64):
        problem = draw(1, kind, dtype)
        for places in (problem.targets > 0, problem.targets == 0):
            row, column = places.nonzero()[3].tolist()
            pool = int(problem.pool_of[row, column])
            logits = problem.logits.clone()
            logits[row, column] = bad
            logits.requires_grad_()
            sound = problem.logits.clone().requires_grad_()
            values, expected = (loss(name, "labels", problem, x, 0.5, problem.pools) for x in (logits, sound))
            gradient, expected_gradient = graded(logits, values), graded(sound, expected)
            assert values[:, pool].isnan().all() or not expected[:, pool].any()
            if not values[:, pool].isnan().any():
                continue
            others = torch.arange(K) != pool
            assert torch.equal(values[:, others], expected[:, others])
            elsewhere = problem.pool_of != pool
            assert torch.equal(gradient[elsewhere], expected_gradient[elsewhere])
            assert gradient[row, column].isnan()


def test_a_quality_that_is_no_number_spoils_its_own_pool_alone() -> None:
    for num in (40, 900):
        targets = torch.rand(num, 1) * 0.9 + 0.1
        targets[::4] = 0
        targets[5] = torch.nan
        pools = Pools((torch.arange(num) % 2)[:, None], 2)
        logits = torch.randn(num, 1, dtype=torch.float64, requires_grad=True)
        values = torch.stack(rank_sort_loss(logits, targets, pools=pools, implementation=IMPLEMENTATION))
        sound = rank_sort_loss(logits[::2], targets[::2], implementation=IMPLEMENTATION)
        torch.testing.assert_close(values[:, 0], torch.stack(sound), rtol=0, atol=1e-12)
        assert values[1, 1].isnan()
        gradient = graded(logits, values)
        assert gradient[::2].isfinite().all()
        assert gradient[1::2].isnan().any()


def test_an_ignored_logit_may_hold_anything() -> None:
    problem = draw(1, "of candidates")
    logits = problem.logits.masked_fill(problem.targets < 0, torch.nan)
    for form in FORMS:
        values, expected = (loss("RS", form, problem, x, 0.5, problem.pools) for x in (logits, problem.logits))
        assert torch.equal(values, expected)


@by_loss
@by_form
def test_without_positives_the_values_of_all_pools_are_connected_zeros(name: str, form: str) -> None:
    problem = draw(0, "of candidates")
    problem = problem._replace(targets=problem.targets.clamp(max=0), labels=problem.labels.where(problem.labels < 0, C))
    logits = problem.logits.requires_grad_()
    values = loss(name, form, problem, logits, 0.5, problem.pools)
    assert torch.equal(values, torch.zeros(len(values), K, dtype=torch.float64))
    assert not graded(logits, values).any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(LOSSES), st.sampled_from([0.0, 0.5]))
def test_candidates_and_pools_may_come_in_any_order(seed: int, name: str, delta: float) -> None:
    """Of different logits, because aLRP tells equal ones by their order."""
    problem = draw(seed, "of logits")
    generator = torch.Generator().manual_seed(seed)
    rows, names = torch.randperm(M, generator=generator), torch.randperm(K, generator=generator)
    pools = Pools(names[problem.pool_of][rows], K)
    moved = Problem(problem.logits[rows], problem.labels[rows], problem.targets[rows], pools)
    first, second = problem.logits.clone().requires_grad_(), moved.logits.clone().requires_grad_()
    values = loss(name, "targets", problem, first, delta, problem.pools)
    others = loss(name, "targets", moved, second, delta, pools)[:, names]
    torch.testing.assert_close(others, values, rtol=0, atol=1e-12)
    torch.testing.assert_close(graded(second, others), graded(first, values)[rows], rtol=0, atol=1e-12)


def test_one_pool_of_extreme_logits_takes_no_digit_from_another() -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(600, 2, generator=generator, dtype=torch.float64) * torch.tensor([1e9, 1.0])
    targets = torch.rand(600, 2, generator=generator) * (torch.rand(600, 2, generator=generator) < 0.4)
    values = rank_sort_loss(logits, targets, pools=Pools(torch.arange(2), 2), implementation=IMPLEMENTATION)
    alone = rank_sort_loss(logits[:, 1], targets[:, 1], implementation="torch")
    torch.testing.assert_close(torch.stack(values)[:, 1], torch.stack(alone), rtol=0, atol=1e-12)


def test_qualities_of_alrp_get_the_gradient_of_their_pool() -> None:
    problem = draw(9, "of candidates")
    errors = torch.rand(int((problem.targets > 0).sum()), dtype=torch.float64, requires_grad=True)
    found = alrp_loss_of_labels(
        problem.logits, problem.labels, errors, pools=problem.pools, implementation=IMPLEMENTATION
    ).localization
    rows = (problem.targets > 0).any(1)
    for pool in range(K):
        here = problem.pools.of[:, 0] == pool
        own = errors[here[rows]]
        expected = alrp_loss_of_labels(problem.logits[here], problem.labels[here], own).localization
        torch.testing.assert_close(found[pool], expected, rtol=0, atol=1e-12)
        if len(own):
            gradients = (torch.autograd.grad(value, errors, retain_graph=True)[0] for value in (found[pool], expected))
            torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_pools_that_do_not_fit_are_refused() -> None:
    logits, targets = torch.zeros(6, 2), torch.zeros(6, 2)
    for message, pools in {
        "do not broadcast to logits": Pools(torch.zeros(6, dtype=torch.int64), 1),
        "must be int64": Pools(torch.zeros(2), 1),
        "at least one": Pools(torch.zeros(2, dtype=torch.int64), 0),
        "must lie in 0 … 1, got 0 to 2": Pools(torch.tensor([0, 2]), 2),
        "1 levels of logits and 2 of pools": Pools([torch.tensor([0]), torch.tensor([0])], 2),
    }.items():
        with pytest.raises(ValueError, match=message):
            ap_loss(logits, targets, pools=pools, implementation=IMPLEMENTATION)


def test_a_rule_that_knows_no_pools_is_refused() -> None:
    def rule(window: Window, _: Tensor, false_positives: Tensor) -> Ruling:
        none = torch.zeros_like(false_positives)[None]
        return Ruling(false_positives.mean()[None], none, none, none)

    operator = RankingOperator("of_one_pool_" + IMPLEMENTATION, rule, lambda *_: [])
    logits, targets = torch.zeros(4, 2), torch.eye(4, 2)
    operator.of_targets(logits, targets, 0.5, implementation=IMPLEMENTATION)
    with pytest.raises(ValueError, match=r"values of shape \(1,\), not \(1, 2\): with pools"):
        operator.of_targets(logits, targets, 0.5, pools=Pools(torch.arange(2), 2), implementation=IMPLEMENTATION)
