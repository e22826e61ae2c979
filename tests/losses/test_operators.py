"""The operators under the ranking losses: what torch asks of them, levels of all kinds, dtypes, second passes, size.

Legend: M candidates, C classes, P positives, N negatives, δ half the width of the soft step.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from rankdet.losses import (
    alrp,
    alrp_loss,
    alrp_loss_at,
    alrp_loss_of_labels,
    ap_loss,
    ap_loss_at,
    ap_loss_of_labels,
    average_precision,
    rank_sort,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)
from rankdet.losses.operators import Implementation, RankingOperator, chosen
from rankdet.losses.rank_sort import _without_zeros
from rankdet.losses.ranking import backend, ranked
from rankdet.losses.roles import RankedCandidates, from_index, from_labels, from_targets
from rankdet.structures import is_class

Form = Literal["labels", "targets", "index"]
FORMS: list[Form] = ["labels", "targets", "index"]
C = 4
# Levels that start and end with ignored rows, one of them without candidates and one of a single row.
SIZES = [20, 0, 7, 3, 1]
OPERATORS: dict[str, RankingOperator] = {
    "rank_sort": rank_sort._RANK_SORT,
    "average_precision": average_precision._INTERPOLATED,
    "average_precision_plain": average_precision._PLAIN,
    "alrp": alrp._ALRP,
}


IMPLEMENTATION: Implementation = "torch"
"""The implementation that a test is about; each runs with all that there are."""

pytestmark = pytest.mark.usefixtures("each_implementation")


class Pool(NamedTuple):
    """(M, C) logits with (M,) labels, (M, C) targets that say the same, and (P,) qualities of the positives."""

    logits: Tensor
    labels: Tensor
    targets: Tensor
    quality: Tensor


def draw(sizes: Sequence[int] = SIZES, dtype: torch.dtype = torch.float32, positives: bool = True) -> Pool:
    generator = torch.Generator().manual_seed(0)
    num = sum(sizes)
    labels = torch.randint(0, 2 * C, (num,), generator=generator).clamp(max=C)
    if not positives:
        labels[:] = C
    for border in itertools.accumulate(sizes):
        labels[border - 1] = labels[border % num] = -1
    is_positive = (labels[:, None] == torch.arange(C)) & (labels[:, None] < C)
    targets = is_positive * (0.1 + 0.8 * torch.rand(num, C, generator=generator))
    targets[labels < 0] = -1
    logits = (2 * torch.randn(num, C, generator=generator, dtype=torch.float64)).to(dtype)
    return Pool(logits, labels, targets, targets[targets > 0])


def index_of(
    logits: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]
) -> tuple[Tensor, Tensor | list[Tensor]]:
    """Places of the positives in the logits of all levels, and which rows of each are ignored."""
    if isinstance(logits, Tensor):
        places, (ignored,) = index_of([logits], [labels])
        return places, ignored
    flat, width = torch.cat(list(labels)), logits[0].shape[-1]
    rows = is_class(flat, width).nonzero().squeeze(1)
    ignored = [(mark < 0).reshape(level.shape[:-1]) for level, mark in zip(logits, labels, strict=True)]
    return rows * width + flat[rows], ignored


def evaluate(
    name: str,
    form: Form,
    logits: Tensor | Sequence[Tensor],
    marks: Tensor | Sequence[Tensor],
    quality: Tensor,
    delta: float = 0.5,
    implementation: Implementation | None = None,
) -> Tensor:
    """(K,) values of a loss; the form that names its positives is made from labels."""
    options = {"delta": delta, "implementation": implementation or IMPLEMENTATION}
    if form == "index":
        index, ignored = index_of(logits, marks)
        if name == "rank_sort":
            return torch.stack(rank_sort_loss_at(logits, index, quality, ignored=ignored, **options))
        if name == "alrp":
            return torch.stack(alrp_loss_at(logits, index, 1 - quality, ignored=ignored, **options))
        interpolate = name == "average_precision"
        return ap_loss_at(logits, index, ignored=ignored, interpolate=interpolate, **options)[None]
    if name == "rank_sort" and form == "labels":
        return torch.stack(rank_sort_loss_of_labels(logits, marks, quality, **options))
    if name == "rank_sort":
        return torch.stack(rank_sort_loss(logits, marks, **options))
    if name == "alrp":
        loss = alrp_loss_of_labels if form == "labels" else alrp_loss
        return torch.stack(loss(logits, marks, 1 - quality, **options))
    loss = ap_loss_of_labels if form == "labels" else ap_loss
    return loss(logits, marks, **options, interpolate=name == "average_precision")[None]


def weighed(values: Tensor) -> Tensor:
    """Their sum, each with a weight of its own."""
    return (values * torch.arange(1, len(values) + 1)).sum()


class Graded(NamedTuple):
    """Values of a loss and the gradient of each level (None where it got none)."""

    values: Tensor
    gradients: list[Tensor | None]


def graded(name: str, form: Form, levels: Sequence[Tensor], marks: Sequence[Tensor], quality: Tensor) -> Graded:
    """Of leaves, of which some may want no gradient."""
    values = evaluate(name, form, levels, marks, quality)
    weighed(values).backward()
    return Graded(values.detach(), [level.grad for level in levels])


def expected(name: str, pool: Pool, delta: float = 0.5) -> tuple[Tensor, Tensor]:
    """Values and (M, C) gradient of the reference in double precision."""
    logits = pool.logits.double().requires_grad_()
    values = evaluate(name, "targets", logits, pool.targets.double(), pool.quality, delta, "reference")
    weighed(values).backward()
    return values.detach(), logits.grad


def leaves(levels: Sequence[Tensor]) -> list[Tensor]:
    return [level.detach().clone().requires_grad_() for level in levels]


def marks_of(pool: Pool, form: Form) -> Tensor:
    return pool.targets if form == "targets" else pool.labels


def candidates_of(pool: Pool, sizes: Sequence[int], form: Form) -> tuple[RankedCandidates, Tensor]:
    levels, marks = leaves(pool.logits.split(list(sizes))), marks_of(pool, form).split(list(sizes))
    if form == "labels":
        return from_labels(levels, marks, len(pool.quality)), pool.quality
    if form == "index":
        index, ignored = index_of(levels, marks)
        return from_index(levels, index, ignored=ignored)[0], pool.quality
    return from_targets(levels, marks)


by_operator = pytest.mark.parametrize("name", OPERATORS)
by_form = pytest.mark.parametrize("form", FORMS)
by_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at the gradients of its copies
@by_operator
@by_form
@by_dtype
@pytest.mark.parametrize("sizes", [[31], SIZES], ids=["one level", "levels"])
@pytest.mark.parametrize("positives", [True, False], ids=["positives", "none"])
def test_the_operator_is_as_torch_asks(
    name: str, form: Form, dtype: torch.dtype, sizes: list[int], positives: bool
) -> None:
    candidates, numbers = candidates_of(draw(sizes, dtype, positives), sizes, form)
    arguments = *candidates, 0.5, IMPLEMENTATION, "", numbers
    opcheck(OPERATORS[name].operator, (*arguments, False))
    if dtype == torch.float32:
        # Not as a graph: cells are overwritten by the backward pass, so that only calls without the operator keep any.
        checks = "test_schema", "test_autograd_registration", "test_faketensor"
        opcheck(OPERATORS[name].operator, (*arguments, True), test_utils=checks)
    detached = [level.detach() for level in candidates.logits], *arguments[1:-1]
    values, _, own, ascending, pools, weights, _ = OPERATORS[name].operator(*detached, numbers, False)
    upstream = torch.arange(1.0, len(values) + 1, dtype=values.dtype)[:, None]
    arguments = *detached, own, ascending, pools, weights, upstream
    opcheck(torch.ops.rankdet.ranking_gradient.default, arguments)


@pytest.mark.parametrize("labels", [[0, 4, -1, 2, -1], [4, 4], [-1], [1], []], ids=str)
def test_the_operator_that_finds_rows_is_as_torch_asks(labels: list[int]) -> None:
    labels = torch.tensor(labels, dtype=torch.int64)
    for mask in (is_class(labels, 4), labels < 0):
        opcheck(torch.ops.rankdet.indices_of.default, (mask,))
        assert torch.ops.rankdet.indices_of(mask).tolist() == mask.nonzero().squeeze(1).tolist()
    opcheck(torch.ops.rankdet.special_labels.default, (labels, 4))
    find = backend(IMPLEMENTATION, "cpu").find
    _, _, positives, ignored, *_ = from_labels(torch.zeros(len(labels), 4), labels, find=find)
    assert (positives // 4).tolist() == [i for i, label in enumerate(labels) if 0 <= label < 4]
    assert ignored.tolist() == [i for i, label in enumerate(labels) if label < 0]


@pytest.mark.parametrize("shapes", [[(2, 3)], [(3,), (0,), (2, 1, 2)], [(0, 4)]], ids=str)
@by_dtype
def test_the_operator_that_finds_targets_is_as_torch_asks(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randint(-1, 3, shape, generator=generator).to(dtype) / 2 for shape in shapes]
    for targets in (levels, [level * 0 for level in levels]):
        opcheck(torch.ops.rankdet.special_targets.default, (targets,))
        positives, ignored, numbers = torch.ops.rankdet.special_targets(targets)
        flat = torch.cat([level.reshape(-1) for level in targets])
        assert torch.equal(positives, (flat > 0).nonzero().squeeze(1))
        assert torch.equal(ignored, (flat < 0).nonzero().squeeze(1))
        assert torch.equal(numbers, flat[flat > 0])


@by_operator
@by_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0])
def test_levels_are_ranked_as_one_in_every_dtype(name: str, form: Form, dtype: torch.dtype, delta: float) -> None:
    pool = draw(dtype=dtype)
    levels = leaves(pool.logits.split(SIZES))
    values = evaluate(name, form, levels, marks_of(pool, form).split(SIZES), pool.quality, delta)
    weighed(values).backward()
    exact_values, exact_gradient = expected(name, pool, delta)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    precision = torch.finfo(dtype).eps
    torch.testing.assert_close(values.double(), exact_values, rtol=1e-6, atol=1e-7)
    for level, gradient in zip(levels, exact_gradient.split(SIZES), strict=True):
        assert level.grad.dtype == dtype
        torch.testing.assert_close(level.grad.double(), gradient, rtol=4 * precision, atol=max(1e-7, precision / 64))


@by_operator
@by_form
def test_levels_may_differ_in_dtype(name: str, form: Form) -> None:
    pool = draw(dtype=torch.bfloat16)
    dtypes = [torch.bfloat16, torch.float32, torch.float64, torch.float16, torch.float32]
    levels = leaves([level.to(dtype) for level, dtype in zip(pool.logits.split(SIZES), dtypes, strict=True)])
    found = graded(name, form, levels, marks_of(pool, form).split(SIZES), pool.quality)
    exact_values, exact_gradient = expected(name, pool)
    torch.testing.assert_close(found.values, exact_values, rtol=1e-6, atol=1e-9)
    for gradient, exact, dtype in zip(found.gradients, exact_gradient.split(SIZES), dtypes, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-2, atol=1e-4)


@by_operator
def test_targets_and_levels_may_have_any_shape(name: str) -> None:
    pool = draw([60])
    flat, targets = pool.logits.reshape(-1), pool.targets.reshape(-1)
    exact_values, exact_gradient = expected(name, pool)
    shapes = [(2, 3, 4, 5), (0, 3), (7,), (1, 1, 113)]
    sizes = [120, 0, 7, 113]
    levels, marks = (
        [part.reshape(shape) for part, shape in zip(whole.split(sizes), shapes, strict=True)]
        for whole in (flat, targets)
    )
    found = graded(name, "targets", leaves(levels), marks, pool.quality)
    torch.testing.assert_close(found.values.double(), exact_values, rtol=1e-6, atol=1e-7)
    assert [gradient.shape for gradient in found.gradients] == shapes
    together = torch.cat([gradient.reshape(-1) for gradient in found.gradients]).double()
    torch.testing.assert_close(together, exact_gradient.reshape(-1), rtol=1e-5, atol=1e-7)


@by_operator
@by_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_maps_of_a_convolution_are_ranked_as_they_lie(name: str, form: Form, dtype: torch.dtype) -> None:
    """(B, C, H, W) permuted to (B, H, W, C): the order of the elements is not that of the memory."""
    pool = draw([24, 6], dtype)
    shapes = [(2, 3, 4, C), (1, 2, 3, C)]
    maps = leaves(
        [
            level.reshape(shape).permute(0, 3, 1, 2).contiguous()
            for level, shape in zip(pool.logits.split([24, 6]), shapes, strict=True)
        ]
    )
    permuted = [level.permute(0, 2, 3, 1) for level in maps]
    marks = marks_of(pool, form).split([24, 6])
    if form == "labels":
        permuted = [level.reshape(-1, C) for level in permuted]
    if form == "targets":
        # As strided as the logits, or otherwise.
        marks = [marks[0].reshape(shapes[0]).transpose(1, 2).contiguous().transpose(1, 2), marks[1].reshape(shapes[1])]
    weighed(evaluate(name, form, permuted, marks, pool.quality)).backward()
    _, exact = expected(name, pool)
    for level, gradient, shape in zip(maps, exact.split([24, 6]), shapes, strict=True):
        gradient = gradient.reshape(shape).permute(0, 3, 1, 2)
        torch.testing.assert_close(level.grad.double(), gradient, rtol=2e-3, atol=1e-4)


@by_operator
def test_logits_of_labels_may_be_strided(name: str) -> None:
    pool = draw([31])
    transposed = pool.logits.T.contiguous().requires_grad_()
    weighed(evaluate(name, "labels", transposed.T, pool.labels.repeat_interleave(2)[::2], pool.quality)).backward()
    torch.testing.assert_close(transposed.grad.T.double(), expected(name, pool)[1], rtol=1e-5, atol=1e-7)


@by_operator
@by_form
def test_a_second_backward_pass_gives_the_same(name: str, form: Form) -> None:
    pool = draw()
    levels = leaves(pool.logits.split(SIZES))
    total = weighed(evaluate(name, form, levels, marks_of(pool, form).split(SIZES), pool.quality))
    passes = [torch.autograd.grad(total, levels, retain_graph=True) for _ in range(3)]
    for first, second, third in zip(*passes, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
        assert torch.equal(second, third)
        assert first.data_ptr() != second.data_ptr() or first.numel() == 0


@by_operator
@by_dtype
def test_without_the_machinery_of_operators_nothing_changes(name: str, dtype: torch.dtype) -> None:
    """Eager calls do without it."""
    pool = draw([31], dtype)
    (level,), loss = leaves([pool.logits]), OPERATORS[name]
    candidates = from_labels(level, pool.labels, len(pool.quality))
    arguments = *candidates, 0.5, IMPLEMENTATION, "", pool.quality, False
    ways = loss.operator(*arguments)[0].squeeze(1), torch.stack(ranked(loss.operator, loss.kind, *arguments)[0])
    gradients = [torch.autograd.grad(weighed(values), level)[0] for values in ways]
    assert torch.equal(*gradients)


@by_operator
@by_form
def test_what_was_traced_with_one_example_is_right_for_another(name: str, form: Form) -> None:
    pool = draw([31])
    example, other = pool.logits, -pool.logits.flip(0)
    marks = marks_of(pool, form)

    def loss(logits: Tensor) -> Tensor:
        return evaluate(name, form, logits, marks, pool.quality)

    assert torch.equal(make_fx(loss)(example)(other), loss(other))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and warns of checks of the marks, which stay as they are
        traced = torch.jit.trace(loss, (example,), check_trace=False)
    assert torch.equal(traced(other), loss(other))


@by_operator
@by_form
def test_transforms_of_functions_find_the_gradient(name: str, form: Form) -> None:
    pool = draw([31])
    (level,), marks = leaves([pool.logits]), marks_of(pool, form)

    def loss(logits: Tensor) -> Tensor:
        return weighed(evaluate(name, form, logits, marks, pool.quality))

    assert torch.equal(torch.func.grad(loss)(pool.logits), torch.autograd.grad(loss(level), level)[0])


class _Marked(Tensor):
    """Tensors of another class, for which operators are taken."""


@by_operator
@by_dtype
@pytest.mark.parametrize("kind", [Tensor, _Marked])
def test_a_second_derivative_is_refused_where_it_is_asked_for(
    name: str, dtype: torch.dtype, kind: type[Tensor]
) -> None:
    pool = draw([31], dtype)
    level = pool.logits.as_subclass(kind).detach().requires_grad_()
    loss = weighed(evaluate(name, "labels", level, pool.labels, pool.quality))
    (gradient,) = torch.autograd.grad(loss, level, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(gradient.square().sum(), level)


@by_operator
def test_each_value_has_its_own_gradient(name: str) -> None:
    pool = draw([31])
    (level,) = leaves([pool.logits])
    values = evaluate(name, "labels", level, pool.labels, pool.quality)
    parts = [torch.autograd.grad(value, level, retain_graph=True)[0] for value in values]
    (whole,) = torch.autograd.grad(weighed(values), level)
    torch.testing.assert_close(sum((k + 1) * part for k, part in enumerate(parts)), whole, rtol=1e-5, atol=1e-8)


@by_operator
@by_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_levels_without_gradient_leave_that_of_the_others(name: str, form: Form, dtype: torch.dtype) -> None:
    pool = draw(dtype=dtype)
    marks = marks_of(pool, form).split(SIZES)
    whole = graded(name, form, leaves(pool.logits.split(SIZES)), marks, pool.quality)
    for wanted in ([0], [2, 3], [1]):
        levels = [level.clone().requires_grad_(index in wanted) for index, level in enumerate(pool.logits.split(SIZES))]
        found = graded(name, form, levels, marks, pool.quality)
        assert torch.equal(found.values, whole.values)
        for index, gradient in enumerate(found.gradients):
            assert gradient is None if index not in wanted else torch.equal(gradient, whole.gradients[index])


@by_operator
@by_form
def test_without_gradients_the_values_are_the_same_and_connected_to_nothing(name: str, form: Form) -> None:
    pool = draw()
    marks = marks_of(pool, form)
    values = evaluate(name, form, pool.logits.clone().requires_grad_(), marks, pool.quality)
    plain = evaluate(name, form, pool.logits, marks, pool.quality)
    assert torch.equal(values, plain)
    assert not plain.requires_grad
    with torch.inference_mode():
        assert torch.equal(evaluate(name, form, pool.logits, marks, pool.quality), values)


@by_operator
@by_form
def test_under_autocast_nothing_changes(name: str, form: Form) -> None:
    pool = draw()
    levels = leaves(pool.logits.split(SIZES))
    marks = marks_of(pool, form).split(SIZES)
    plain = graded(name, form, leaves(levels), marks, pool.quality)
    with torch.autocast("cpu", torch.bfloat16):
        found = graded(name, form, levels, marks, pool.quality)
    assert torch.equal(found.values, plain.values)
    assert all(map(torch.equal, found.gradients, plain.gradients))


@by_operator
@by_form
def test_an_ignored_row_may_hold_anything(name: str, form: Form) -> None:
    pool = draw()
    spoiled = pool.logits.clone()
    spoiled[pool.labels < 0] = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30])
    marks = marks_of(pool, form).split(SIZES)
    clean = graded(name, form, leaves(pool.logits.split(SIZES)), marks, pool.quality)
    found = graded(name, form, leaves(spoiled.split(SIZES)), marks, pool.quality)
    assert torch.equal(found.values, clean.values)
    for gradient, other, labels in zip(found.gradients, clean.gradients, pool.labels.split(SIZES), strict=True):
        assert torch.equal(gradient, other)
        assert not gradient[labels < 0].any()


@by_operator
@by_form
@pytest.mark.parametrize("level", [0, 2])
def test_a_logit_that_is_not_finite_spoils_every_level(name: str, form: Form, level: int) -> None:
    pool = draw()
    levels = leaves(pool.logits.split(SIZES))
    with torch.no_grad():
        levels[level][2, 1] = torch.nan
    assert (pool.labels.split(SIZES)[level][2] >= 0).all()
    found = graded(name, form, levels, marks_of(pool, form).split(SIZES), pool.quality)
    assert found.values.isnan().all()
    # Whether those of ignored candidates are NaN or 0 is left to the passes: neither moves anything.
    for gradient, labels in zip(found.gradients, pool.labels.split(SIZES), strict=True):
        assert gradient[labels >= 0].isnan().all()


@pytest.mark.parametrize("interpolate", [True, False])
def test_labels_without_their_number_are_counted(interpolate: bool) -> None:
    pool = draw()
    for implementation in ("auto", IMPLEMENTATION, "reference"):
        options = {"interpolate": interpolate, "implementation": implementation}
        known = ap_loss_of_labels(pool.logits, pool.labels, len(pool.quality), **options)
        assert torch.equal(known, ap_loss_of_labels(pool.logits, pool.labels, **options))


def test_kernels_are_refused_where_they_would_lose_digits() -> None:
    """They compute in float32; where nothing is asked for, torch's own operations do."""

    class OnCuda(NamedTuple):
        device: torch.device
        dtype: torch.dtype

    double = [OnCuda(torch.device("cuda"), torch.float32), OnCuda(torch.device("cuda"), torch.float64)]
    assert chosen("auto", double) != "triton"
    with pytest.raises(ValueError, match=r"CUDA and float32 or less, these are on cuda, in torch.float64"):
        chosen("triton", double)


@pytest.mark.parametrize("sizes", [[31], SIZES], ids=["one level", "levels"])
def test_a_dropped_positive_is_a_negative_in_either_form_of_the_roles(sizes: list[int]) -> None:
    """Indices name the positives where torch's operations compute, labels where the kernels do."""
    pool = draw(sizes)
    dropped = pool.quality < 0.5
    quality = pool.quality.masked_fill(dropped, 0)
    labels, kept, kept_rows = _without_zeros(pool.logits.split(sizes), pool.labels.split(sizes), quality)
    rows = is_class(pool.labels, C).nonzero().squeeze(1)
    expected = pool.labels.clone()
    expected[rows[dropped]] = C
    assert [len(level) for level in labels] == sizes
    assert torch.equal(torch.cat(labels), expected)
    assert torch.equal(kept, quality[~dropped])
    assert torch.equal(kept_rows, rows[~dropped])
    candidates = from_labels(pool.logits.split(sizes), labels)
    assert torch.equal(candidates.positives // C, kept_rows)
    given = _without_zeros(pool.logits, pool.labels, quality, rows)
    assert torch.equal(given[0][0], expected)
    assert torch.equal(given[2], kept_rows)


NUM_ABOVE = 200_000


@by_operator
@by_form
def test_a_crowd_above_a_positive_neither_overflows_nor_vanishes(name: str, form: Form) -> None:
    """float16 counts to 2048 and ends at 65504; its smallest step, 6e-8, is 80 times below what each negative gets."""
    logits = torch.full((NUM_ABOVE + 2, 1), 3.0, dtype=torch.float16)
    logits[0], logits[1] = 0.0, -8.0
    labels = torch.ones(len(logits), dtype=torch.int64)
    labels[0] = 0
    marks = labels if form != "targets" else (1.0 - labels)[:, None].half() * 0.75
    logits.requires_grad_()
    values = evaluate(name, form, logits, marks, torch.tensor([0.75]), delta=0.5)
    weighed(values).backward()
    # The own term of Rank & Sort Loss is H(0) = 1/2, that of the others 1.
    rank = NUM_ABOVE + (0.5 if name == "rank_sort" else 1.0)
    error = NUM_ABOVE / rank
    assert values.dtype == torch.float32
    others = {"rank_sort": [0.0], "alrp": [0.25 / rank]}.get(name, [])
    torch.testing.assert_close(values.detach(), torch.tensor([error, *others]), rtol=1e-6, atol=1e-9)
    gradient = logits.grad.squeeze(1)
    assert gradient.isfinite().all()
    assert gradient[0] == -torch.tensor(error).half()
    assert gradient[1] == 0
    assert (gradient[2:] == torch.tensor(1 / rank).half()).all()


def test_numba_that_is_asked_for_and_missing_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no positive needs it."""
    for name in [name for name in sys.modules if name.startswith("rankdet.losses.kernels.cpu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"pip install 'rankdet\[cpu\]'"):
        ap_loss(torch.zeros(3), torch.zeros(3), implementation="numba")
