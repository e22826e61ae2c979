"""The laws of error-driven losses, run on every one of them. A new loss is one line in ``LOSSES``.

Legend: M candidates, P positives, N negatives, δ half the width of the soft step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Literal, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankdet.losses import (
    Pairs,
    PrimaryTerms,
    RankSortValues,
    alrp_loss,
    alrp_loss_at,
    alrp_loss_of_labels,
    ap_loss,
    ap_loss_at,
    ap_loss_of_labels,
    error_driven_loss,
    rank_sort,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
    sorting,
)

Form = Literal["targets", "labels", "index"]
Part = Literal["ranking", "sorting", "both"]


class ErrorDriven(NamedTuple):
    """A loss as the laws see it.

    evaluate, exact
        ((M,) logits, (M,) targets, δ) → scalar; ``exact`` is the paper-shaped reference of the same.
    needs_negatives
        Without negatives the value is 0.
    is_fast
        Computes half precision in float32, and differs from ``exact``.
    """

    evaluate: Callable[[Tensor, Tensor, float], Tensor]
    exact: Callable[[Tensor, Tensor, float], Tensor]
    needs_negatives: bool
    is_fast: bool


def from_labels(
    logits: Tensor, targets: Tensor, delta: float, implementation: rank_sort.Implementation
) -> RankSortValues:
    """The labels form of one class: a target above 0 is class 0, 0 is background, −1 ignored."""
    labels = torch.where(targets > 0, 0, 1).where(targets >= 0, -1)
    logits, quality = logits.reshape(-1, 1), targets[targets > 0]
    return rank_sort_loss_of_labels(logits, labels.reshape(-1), quality, delta, implementation=implementation)


def shuffled_index(targets: Tensor) -> Tensor:
    """Places of the positives, in an order of its own."""
    index = (targets > 0).nonzero().squeeze(1)
    return index[torch.randperm(len(index), generator=torch.Generator().manual_seed(len(index)))]


def from_index(
    logits: Tensor, targets: Tensor, delta: float, implementation: rank_sort.Implementation
) -> RankSortValues:
    """The form that names its positives."""
    index, options = shuffled_index(targets), {"ignored": targets < 0, "implementation": implementation}
    return rank_sort_loss_at(logits, index, targets[index], delta, **options)


def rank_and_sort(part: Part, implementation: rank_sort.Implementation, form: Form = "targets") -> ErrorDriven:
    def build(implementation: rank_sort.Implementation, form: Form) -> Callable[[Tensor, Tensor, float], Tensor]:
        def evaluate(logits: Tensor, targets: Tensor, delta: float) -> Tensor:
            if form == "labels":
                parts = from_labels(logits, targets, delta, implementation)
            elif form == "index":
                parts = from_index(logits, targets, delta, implementation)
            else:
                parts = rank_sort_loss(logits, targets, delta, implementation=implementation)
            return {"ranking": parts.ranking, "sorting": parts.sorting, "both": parts.ranking + parts.sorting}[part]

        return evaluate

    return ErrorDriven(
        build(implementation, form), build("reference", "targets"), part == "ranking", implementation != "reference"
    )


def scalar(
    evaluate: Callable[[Tensor, Tensor, float, str], Tensor], implementation: str, is_ranking: bool = True
) -> ErrorDriven:
    """A loss of one value, from (logits, targets, δ, implementation)."""
    return ErrorDriven(
        lambda logits, targets, delta: evaluate(logits, targets, delta, implementation),
        lambda logits, targets, delta: evaluate(logits, targets, delta, "reference"),
        is_ranking,
        implementation != "reference",
    )


def average_precision(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    return ap_loss(logits, targets, delta, implementation=implementation)


def plain_average_precision(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    return ap_loss(logits, targets, delta, interpolate=False, implementation=implementation)


def average_precision_of_labels(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    labels = torch.where(targets > 0, 0, 1).where(targets >= 0, -1).reshape(-1)
    return ap_loss_of_labels(logits.reshape(-1, 1), labels, delta=delta, implementation=implementation)


def alrp_classification(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    """The quality of a positive stands for 1 − its localization error."""
    return alrp_loss(logits, targets, 1 - targets[targets > 0], delta, implementation=implementation).classification


def alrp_of_labels(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    labels = torch.where(targets > 0, 0, 1).where(targets >= 0, -1).reshape(-1)
    errors = 1 - targets[targets > 0]
    return alrp_loss_of_labels(
        logits.reshape(-1, 1), labels, errors, delta, implementation=implementation
    ).classification


def average_precision_at(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    index, options = shuffled_index(targets), {"ignored": targets < 0, "implementation": implementation}
    return ap_loss_at(logits, index, delta, **options)


def alrp_at(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    index, options = shuffled_index(targets), {"ignored": targets < 0, "implementation": implementation}
    return alrp_loss_at(logits, index, 1 - targets[index], delta, **options).classification


def discounted_gain(logits: Tensor, targets: Tensor, delta: float, implementation: str) -> Tensor:
    """The example of docs/adding-a-loss.md: written as a definition, it obeys the laws of all the others."""

    def definition(pairs: Pairs) -> PrimaryTerms:
        rank = (pairs.above * pairs.is_positive).sum(1)
        false = pairs.above * pairs.is_negative
        error = 1 - (1 + rank).log2() / (1 + rank + false.sum(1)).log2()
        return PrimaryTerms(error, torch.zeros_like(error), false)

    return error_driven_loss(logits, targets, definition, delta)


LOSSES = {
    "rank & sort: ranking, reference": rank_and_sort("ranking", "reference"),
    "rank & sort: ranking, torch": rank_and_sort("ranking", "torch"),
    "rank & sort: ranking, torch, labels": rank_and_sort("ranking", "torch", "labels"),
    "rank & sort: sorting, reference": rank_and_sort("sorting", "reference"),
    "rank & sort: sorting, torch": rank_and_sort("sorting", "torch"),
    "rank & sort: sorting, torch, labels": rank_and_sort("sorting", "torch", "labels"),
    "rank & sort: both, reference, labels": rank_and_sort("both", "reference", "labels"),
    "rank & sort: both, torch": rank_and_sort("both", "torch"),
    "rank & sort: both, auto, labels": rank_and_sort("both", "auto", "labels"),
    "rank & sort: both, torch, index": rank_and_sort("both", "torch", "index"),
    "rank & sort: both, reference, index": rank_and_sort("both", "reference", "index"),
    "average precision, reference": scalar(average_precision, "reference"),
    "average precision, torch": scalar(average_precision, "torch"),
    "average precision, torch, labels": scalar(average_precision_of_labels, "torch"),
    "average precision, torch, index": scalar(average_precision_at, "torch"),
    "average precision, plain, reference": scalar(plain_average_precision, "reference"),
    "average precision, plain, torch": scalar(plain_average_precision, "torch"),
    "aLRP, reference": scalar(alrp_classification, "reference"),
    "aLRP, torch": scalar(alrp_classification, "torch"),
    "aLRP, torch, labels": scalar(alrp_of_labels, "torch"),
    "aLRP, torch, index": scalar(alrp_at, "torch"),
    "aLRP, reference, index": scalar(alrp_at, "reference"),
    "discounted gain": scalar(discounted_gain, "reference"),
}
if find_spec("numba") is not None:
    LOSSES |= {
        "rank & sort: ranking, numba": rank_and_sort("ranking", "numba"),
        "rank & sort: sorting, numba": rank_and_sort("sorting", "numba"),
        "rank & sort: both, numba, labels": rank_and_sort("both", "numba", "labels"),
        "rank & sort: both, numba, index": rank_and_sort("both", "numba", "index"),
        "average precision, numba": scalar(average_precision, "numba"),
        "average precision, plain, numba": scalar(plain_average_precision, "numba"),
        "aLRP, numba": scalar(alrp_classification, "numba"),
    }
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
FAST = {name: loss for name, loss in LOSSES.items() if loss.is_fast}
EVERY_FAST_LOSS = pytest.mark.parametrize("loss", FAST.values(), ids=FAST)
RANKING = {name: loss for name, loss in LOSSES.items() if loss.needs_negatives}
EVERY_RANKING_LOSS = pytest.mark.parametrize("loss", RANKING.values(), ids=RANKING)
DELTAS = pytest.mark.parametrize("delta", [0.0, 0.5])


class Problem(NamedTuple):
    logits: Tensor
    targets: Tensor


def draw(seed: int, positives: int = 12, negatives: int = 60, ignored: int = 8, ties: bool = False) -> Problem:
    """A shuffled float32 problem of normal logits; with ties, logits lie on eighths and qualities on fifths."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(positives + negatives + ignored, generator=generator)
    quality = 0.01 + 0.99 * torch.rand(positives, generator=generator)
    if ties:
        logits, quality = (8 * logits).round() / 8, (5 * quality).ceil() / 5
    targets = torch.cat([quality, torch.zeros(negatives), -torch.ones(ignored)])
    order = torch.randperm(len(logits), generator=generator)
    return Problem(logits[order], targets[order])


def run(
    loss: Callable[[Tensor, Tensor, float], Tensor], problem: Problem, delta: float = 0.5, upstream: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    logits = problem.logits.clone().requires_grad_()
    value = loss(logits, problem.targets, delta)
    (upstream * value).backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def exactly(loss: ErrorDriven, problem: Problem, delta: float = 0.5) -> tuple[Tensor, Tensor]:
    """Value and gradient of the reference in float64, on the same logits."""
    return run(loss.exact, Problem(problem.logits.double(), problem.targets.double()), delta)


def check_equal(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], relative: float) -> None:
    """Values and gradients agree, the latter in the relative L2 norm."""
    assert abs(found[0].double() - expected[0].double()) <= relative * max(1, abs(expected[0]))
    error = (found[1].double() - expected[1].double()).norm()
    assert error <= relative * expected[1].double().norm() + 1e-12, f"{error / expected[1].norm():.1e}"


@EVERY_LOSS
@DELTAS
@pytest.mark.parametrize("ties", [False, True], ids=["random", "ties"])
def test_gradients_sum_to_zero(loss: ErrorDriven, delta: float, ties: bool) -> None:
    _, gradient = run(loss.evaluate, draw(0, ties=ties), delta)
    assert gradient.any()
    assert abs(gradient.double().sum()) < 1e-6


@EVERY_LOSS
@pytest.mark.parametrize("delta", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("constant", [-7.0, 64.0, 1e4])
def test_a_constant_added_to_all_logits_changes_nothing(loss: ErrorDriven, delta: float, constant: float) -> None:
    problem = draw(1)
    problem = Problem((8192 * problem.logits).round() / 8192 if constant < 100 else problem.logits, problem.targets)
    shifted = Problem(problem.logits + constant, problem.targets)
    check_equal(run(loss.evaluate, shifted, delta), exactly(loss, shifted, delta), 1e-6)
    if constant < 100:  # the shift loses no digit
        check_equal(run(loss.evaluate, shifted, delta), run(loss.evaluate, problem, delta), 1e-6)


@EVERY_LOSS
@DELTAS
def test_the_order_of_the_candidates_does_not_matter(loss: ErrorDriven, delta: float) -> None:
    problem = draw(2, ties=True)
    order = torch.randperm(len(problem.logits), generator=torch.Generator().manual_seed(5))
    value, gradient = run(loss.evaluate, problem, delta)
    permuted = run(loss.evaluate, Problem(problem.logits[order], problem.targets[order]), delta)
    check_equal(permuted, (value, gradient[order]), 1e-6)


@EVERY_LOSS
@DELTAS
@pytest.mark.parametrize("positives", [1, 9, 600])
def test_perfect_order_with_wide_gaps_costs_exactly_nothing(loss: ErrorDriven, delta: float, positives: int) -> None:
    if positives > 9 and not loss.is_fast:
        pytest.skip("one positive at a time takes too long")
    quality = torch.linspace(0.1, 1, positives)
    logits = torch.cat([1.01 * torch.arange(positives + 1), torch.linspace(-9, -1.01, 20)]) + 0.3
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(6))
    targets = torch.cat([-torch.ones(1), quality, torch.zeros(20)])
    value, gradient = run(loss.evaluate, Problem(logits[order], targets[order]), delta)
    assert value == 0
    assert not gradient.any()


@EVERY_LOSS
@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5])
def test_negatives_never_get_a_negative_gradient(loss: ErrorDriven, delta: float) -> None:
    problem = draw(3, negatives=400)
    found = run(loss.evaluate, problem, delta)[1][problem.targets == 0]
    assert (found >= 0).all()


@EVERY_RANKING_LOSS
@pytest.mark.parametrize("delta", [0.1, 0.3, 0.5])
def test_no_negative_at_an_edge_gets_a_negative_gradient(loss: ErrorDriven, delta: float) -> None:
    for seed in range(5):
        positives = draw(seed, positives=30, negatives=0, ignored=0).logits
        edges = torch.cat([positives - delta, positives + delta])
        edges = torch.cat([edges, edges.nextafter(torch.tensor(-9.0)), edges.nextafter(torch.tensor(9.0))])
        problem = Problem(torch.cat([positives, edges]), torch.cat([torch.full((30,), 0.5), torch.zeros(len(edges))]))
        assert (run(loss.evaluate, problem, delta)[1][30:] >= 0).all()


@EVERY_LOSS
@pytest.mark.parametrize("target", [0.0, -1.0], ids=["negatives", "ignored"])
def test_without_positives_zeros_stay_connected(loss: ErrorDriven, target: float) -> None:
    value, gradient = run(loss.evaluate, Problem(torch.randn(7), torch.full((7,), target)))
    assert value == 0
    assert torch.equal(gradient, torch.zeros(7))


@EVERY_LOSS
def test_no_candidate_at_all_is_zero_and_connected(loss: ErrorDriven) -> None:
    value, gradient = run(loss.evaluate, Problem(torch.zeros(0), torch.zeros(0)))
    assert value == 0
    assert gradient.shape == (0,)


@EVERY_RANKING_LOSS
@DELTAS
def test_without_negatives_nothing_is_ranked_wrong(loss: ErrorDriven, delta: float) -> None:
    value, gradient = run(loss.evaluate, draw(4, negatives=0), delta)
    assert value == 0
    assert not gradient.any()


@EVERY_RANKING_LOSS
@DELTAS
def test_a_negative_far_above_a_single_positive_gets_what_the_positive_pays(loss: ErrorDriven, delta: float) -> None:
    problem = Problem(torch.tensor([-50.0, 50.0]), torch.tensor([1.0, 0.0]))
    value, gradient = run(loss.evaluate, problem, delta)
    assert 0.3 < value < 0.7
    torch.testing.assert_close(gradient, torch.stack([-value, value]))


@EVERY_LOSS
@DELTAS
def test_huge_logits_stay_finite_and_right(loss: ErrorDriven, delta: float) -> None:
    problem = draw(7, ties=True)
    signs = torch.where(torch.rand(80, generator=torch.Generator().manual_seed(8)) < 0.5, -1e4, 1e4)
    far = Problem(signs, problem.targets)
    check_equal(run(loss.evaluate, far, delta), exactly(loss, far, delta), 1e-6)
    check_equal(run(loss.evaluate, far, delta), run(loss.evaluate, Problem(signs.sign(), far.targets), delta), 1e-6)


@EVERY_LOSS
@pytest.mark.parametrize("noise", [1e4, -1e4, torch.inf, -torch.inf, torch.nan])
def test_ignored_candidates_do_not_matter(loss: ErrorDriven, noise: float) -> None:
    problem = draw(9)
    ignored = problem.targets == -1
    value, gradient = run(loss.evaluate, Problem(problem.logits.masked_fill(ignored, noise), problem.targets))
    assert not gradient[ignored].any()
    without = run(loss.evaluate, Problem(problem.logits[~ignored], problem.targets[~ignored]))
    check_equal((value, gradient[~ignored]), without, 1e-6)


@EVERY_LOSS
@pytest.mark.parametrize("upstream", [0.2, -3.0, 0.0])
def test_an_upstream_gradient_scales(loss: ErrorDriven, upstream: float) -> None:
    value, gradient = run(loss.evaluate, draw(10))
    check_equal(run(loss.evaluate, draw(10), upstream=upstream), (value, upstream * gradient), 1e-6)


@EVERY_LOSS
def test_a_second_backward_gives_the_same(loss: ErrorDriven) -> None:
    problem = draw(11)
    logits = problem.logits.clone().requires_grad_()
    value = loss.evaluate(logits, problem.targets, 0.5)
    first, second, third = (torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(3))
    assert first.any()
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert torch.equal(first, run(loss.evaluate, problem)[1])


@EVERY_LOSS
def test_logits_and_targets_are_left_as_they_are(loss: ErrorDriven) -> None:
    problem = draw(12)
    before = Problem(problem.logits.clone(), problem.targets.clone())
    run(
        lambda logits, targets, delta: loss.evaluate(problem.logits.requires_grad_() + 0 * logits, targets, delta),
        problem,
    )
    assert torch.equal(problem.logits.detach(), before.logits)
    assert torch.equal(problem.targets, before.targets)


@EVERY_LOSS
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_a_narrow_step_is_the_hard_step_but_for_ties(loss: ErrorDriven, delta: float) -> None:
    """Ties are worth 1/2 for any δ > 0 and 1 for δ = 0: a positive's own term too, so the limit is that of the soft
    step with distinct logits, told apart here by gaps that both widths leave alone."""
    problem = draw(13)
    spread = Problem(problem.logits.argsort().argsort().float() / 8, problem.targets)
    check_equal(run(loss.evaluate, spread, delta), exactly(loss, spread, 1 / 16), 1e-6)


@EVERY_LOSS
def test_a_step_without_width_is_hard(loss: ErrorDriven) -> None:
    """Doubled logits of integers are apart by 2 or tied: only their order counts."""
    problem = draw(14, ties=True)
    ranks = Problem(problem.logits.unique(return_inverse=True)[1].float(), problem.targets)
    check_equal(run(loss.evaluate, problem, 0.0), run(loss.evaluate, ranks, 0.0), 1e-6)


@EVERY_FAST_LOSS
def test_a_step_without_width_tells_all_logits_apart(loss: ErrorDriven) -> None:
    logits = torch.tensor([5.0, 4.0, 1e-8, 2e-8, 3e-8])
    problem = Problem(logits, torch.tensor([0.5, 0.9, 0.0, 0.5, 0.0]))
    check_equal(run(loss.evaluate, problem, 0.0), exactly(loss, problem, 0.0), 1e-6)


@EVERY_LOSS
def test_logits_of_very_different_size_keep_their_precision(loss: ErrorDriven) -> None:
    near = draw(15, positives=5)
    far = Problem(torch.cat([near.logits, torch.full((7,), 1e4)]), torch.cat([near.targets, torch.full((7,), 0.4)]))
    check_equal(run(loss.evaluate, far), exactly(loss, far), 1e-6)


@EVERY_LOSS
@DELTAS
def test_float64_is_exact(loss: ErrorDriven, delta: float) -> None:
    problem = draw(16)
    problem = Problem(problem.logits.double(), problem.targets.double())
    found = run(loss.evaluate, problem, delta)
    assert found[0].dtype == found[1].dtype == torch.float64
    check_equal(found, exactly(loss, problem, delta), 1e-12)


@EVERY_FAST_LOSS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_half_precision_logits_cost_only_the_rounding_of_the_gradient(
    loss: ErrorDriven, dtype: torch.dtype, autocast: bool
) -> None:
    problem = draw(17, positives=40, negatives=300)
    half = Problem(problem.logits.to(dtype), problem.targets)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = half.logits.clone().requires_grad_()
        value = loss.evaluate(logits, half.targets, 0.5)
    value.backward()
    expected_value, expected = run(loss.evaluate, Problem(half.logits.float(), half.targets))
    assert value.dtype == torch.float32
    assert logits.grad.dtype == dtype
    torch.testing.assert_close(value.detach(), expected_value)
    torch.testing.assert_close(logits.grad.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-7)


@EVERY_FAST_LOSS
def test_autocast_leaves_float32_alone(loss: ErrorDriven) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = run(loss.evaluate, draw(18))
    assert found[0].dtype == torch.float32
    check_equal(found, exactly(loss, draw(18)), 1e-6)


@EVERY_FAST_LOSS
def test_two_hundred_thousand_relevant_negatives_do_not_overflow_float16(loss: ErrorDriven) -> None:
    logits = torch.full((200_001,), 4.0, dtype=torch.float16)
    logits[77] = -4
    targets = torch.zeros(200_001)
    targets[77] = 0.8
    problem = Problem(logits, targets)
    value, gradient = run(loss.evaluate, problem)
    expected, share = exactly(loss, problem)
    assert expected > 0.9 or expected == 0  # sorting alone sees no negative
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), share, rtol=torch.finfo(torch.float16).eps, atol=6e-8)


@EVERY_LOSS
@DELTAS
@pytest.mark.parametrize("ties", [False, True], ids=["random", "ties"])
@pytest.mark.parametrize("sizes", [(1, 0), (1, 1), (2, 300), (40, 200)], ids=str)
def test_fast_equals_reference(loss: ErrorDriven, delta: float, ties: bool, sizes: tuple[int, int]) -> None:
    problem = draw(19, *sizes, ties=ties)
    check_equal(run(loss.evaluate, problem, delta), exactly(loss, problem, delta), 1e-6)


@EVERY_FAST_LOSS
@pytest.mark.parametrize("ties", [False, True], ids=["random", "ties"])
def test_fast_equals_reference_with_more_positives_than_the_dense_form_takes(loss: ErrorDriven, ties: bool) -> None:
    problem = draw(20, positives=700, negatives=800, ties=ties)
    assert sorting.DENSE_UP_TO < 700
    check_equal(run(loss.evaluate, problem), exactly(loss, problem), 1e-6)


@pytest.fixture
def _denormals_are_zero() -> Iterator[None]:
    """As a library that was built with ``-ffast-math`` leaves a process that loads it."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps denormal numbers")
    yield
    torch.set_flush_denormal(False)


@EVERY_FAST_LOSS
@pytest.mark.usefixtures("_denormals_are_zero")
def test_ignored_logits_count_nothing_where_denormal_numbers_are_zero(loss: ErrorDriven) -> None:
    """The number below the step of a positive of logit 0 would be one."""
    problem = Problem(torch.zeros(9), torch.tensor([0.75, *8 * [-1.0]]))
    check_equal(run(loss.evaluate, problem, 0.0), exactly(loss, problem, 0.0), 1e-6)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sizes at which the fast path changes its form, low enough for small problems to cross them."""
    monkeypatch.setattr(sorting, "DENSE_UP_TO", 6)
    monkeypatch.setattr("rankdet.losses.negatives.CHUNK", 16)
    return None


@st.composite
def problems(strategy: st.DrawFn) -> Problem:
    """Problems of all sizes with few or many ties in logits and qualities; float64."""
    counts = [strategy(st.integers(0, limit)) for limit in (20, 50, 10)]
    problem = draw(strategy(st.integers(0, 10_000)), *counts, ties=strategy(st.booleans()))
    if strategy(st.booleans()):
        problem = Problem(problem.logits / 4, problem.targets)
    return Problem(problem.logits.double(), problem.targets.double())


@EVERY_FAST_LOSS
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems(), delta=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0]), upstream=st.sampled_from([1.0, -0.5]))
@pytest.mark.usefixtures("small_limits")
def test_fast_equals_reference_across_chunks_and_forms(
    loss: ErrorDriven, problem: Problem, delta: float, upstream: float
) -> None:
    value, gradient = exactly(loss, problem, delta)
    check_equal(run(loss.evaluate, problem, delta, upstream), (value, upstream * gradient), 1e-9)


@EVERY_FAST_LOSS
@pytest.mark.parametrize("chunk", [1, 7, 79, 80, 81])
def test_chunks_do_not_matter(loss: ErrorDriven, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(loss.evaluate, draw(21))
    monkeypatch.setattr("rankdet.losses.negatives.CHUNK", chunk)
    check_equal(run(loss.evaluate, draw(21)), whole, 1e-6)
