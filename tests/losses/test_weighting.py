"""Instance weights and the mean they make."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankdet.losses import (
    CenternessWeights,
    IoUWeights,
    NoWeights,
    Processes,
    Ranking,
    RankingWeights,
    ScoreWeights,
    Weighting,
    alrp_loss,
    find_positives,
    ranking_weights,
    score_weights,
    soft_step,
)
from rankdet.losses.weighting import usable_sum
from rankdet.structures import Candidates, Matched


def test_the_weight_is_the_best_score_over_all_classes() -> None:
    logits = torch.tensor([[0.0, -4.0], [-9.0, 1.0], [2.0, 2.0]])
    expected = [0.5, 0.7310586, 0.8807971]
    assert score_weights(logits).tolist() == pytest.approx(expected)


def test_weights_are_detached_and_in_float32() -> None:
    weights = score_weights(torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True))
    assert weights.dtype == torch.float32
    assert not weights.requires_grad


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / usable_sum(weights.sum())


def test_the_weighted_mean_worked_out_by_hand() -> None:
    values = torch.tensor([1.0, 3.0, 5.0], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([0.5, 0.25, 0.25]))
    assert mean.item() == 2.5
    mean.backward()
    assert values.grad.tolist() == [0.5, 0.25, 0.25]
    assert weighted_mean(values, torch.tensor([2.0, 1.0, 1.0])).item() == 2.5


def test_without_positives_the_mean_is_a_connected_zero() -> None:
    values = torch.zeros(0, requires_grad=True)
    mean = weighted_mean(values, score_weights(torch.zeros(0, 3)))
    assert mean.item() == 0
    mean.backward()
    assert values.grad.shape == (0,)


def test_weights_that_vanish_divide_nothing() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = weighted_mean(values, score_weights(torch.full((2, 1), -200.0)))
    assert mean.item() == 0
    mean.backward()
    assert values.grad.tolist() == [0, 0]


def test_a_value_that_is_no_number_is_not_lost() -> None:
    assert weighted_mean(torch.tensor([1.0, torch.nan]), torch.ones(2)).isnan()
    assert weighted_mean(torch.ones(2), torch.tensor([1.0, torch.nan])).isnan()


def weights_as_they_stand(logits: Tensor, ranks: Tensor, delta: float) -> Tensor:
    return (soft_step(logits[:, None] - logits, delta) / ranks).mean(dim=1)


def test_ranking_weights_worked_out_by_hand() -> None:
    """Of three positives the best counts in three ranks, the next in two, the worst in its own."""
    logits, ranks = torch.tensor([0.0, 3.0, 1.0]), torch.tensor([4.0, 1.0, 2.0])
    expected = [(1 / 4) / 3, (1 / 4 + 1 / 2 + 1) / 3, (1 / 4 + 1 / 2) / 3]
    assert ranking_weights(logits, ranks).tolist() == pytest.approx(expected)
    # Smoothed, an own term counts half, and the middle one lies on the edge of the first.
    assert ranking_weights(logits, ranks, 1.0).tolist() == pytest.approx(
        [(1 / 8) / 3, (1 / 4 + 1 / 2 + 1 / 2) / 3, (1 / 4 + 1 / 4) / 3]
    )


def test_ranking_weights_of_the_worked_example_add_up_to_what_the_ranking_error_leaves() -> None:
    """Figure A.4 of the paper: a positive counts in the ranks of itself and of those below it, and L_R is 0.2071."""
    logits, ranks = torch.tensor([3.0, 2.0, -1.0, -3.0]), torch.tensor([1.0, 2.0, 5.0, 7.0])
    weights = ranking_weights(logits, ranks)
    fractions = [1 + 1 / 2 + 1 / 5 + 1 / 7, 1 / 2 + 1 / 5 + 1 / 7, 1 / 5 + 1 / 7, 1 / 7]
    assert weights.tolist() == pytest.approx([fraction / 4 for fraction in fractions])
    assert 1 - weights.sum().item() == pytest.approx((0 + 0 + 2 / 5 + 3 / 7) / 4)


def test_ranking_weights_are_those_of_the_boxes_in_alrp_loss() -> None:
    """Where they come from: with hard steps they are the gradient of its localization by the errors."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, generator=generator, dtype=torch.float64)
    targets, errors = torch.zeros_like(logits), torch.rand(20, generator=generator, dtype=torch.float64)
    targets[::10] = 1.0
    errors.requires_grad_()
    alrp_loss(logits, targets, errors, delta=0).localization.backward()
    positives = logits[::10]
    ranks = (logits >= positives[:, None]).sum(dim=1)
    torch.testing.assert_close(ranking_weights(positives, ranks), errors.grad.float())


@pytest.mark.parametrize(("delta_loc", "share", "effective"), [(0.0, 0.15, 0.50), (100.0, 0.5, 1.0)])
def test_ranking_weights_of_a_perfect_ranking_lie_on_the_upper_positives_unless_smoothed(
    delta_loc: float, share: float, effective: float
) -> None:
    """w of the r-th of P is about ln(P / r) / P: the lower half has (1 − ln 2) / 2 of all, as if half of P counted."""
    logits, ranks = torch.arange(1000.0, 0, -1) / 100, torch.arange(1.0, 1001)
    weights = ranking_weights(logits, ranks, delta_loc)
    assert (weights[500:].sum() / weights.sum()).item() == pytest.approx(share, abs=0.03)
    assert (weights.sum() ** 2 / (weights**2).sum() / 1000).item() == pytest.approx(effective, abs=0.01)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 40),
    delta=st.sampled_from([0.0, 0.5, 2.0]),
    ties=st.booleans(),
    shift=st.sampled_from([0.0, -1e3]),
)
def test_ranking_weights_are_the_equation(seed: int, count: int, delta: float, ties: bool, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, generator=generator, dtype=torch.float64) + shift
    logits = (4 * logits).round() / 4 if ties else logits
    ranks = 0.5 + 100 * torch.rand(count, generator=generator, dtype=torch.float64)
    expected = weights_as_they_stand(logits, ranks, delta).float()
    torch.testing.assert_close(ranking_weights(logits, ranks, delta), expected, rtol=1e-5, atol=1e-7)


def positive_candidates() -> Candidates:
    """Two positives, of IoU 1/2 and 0, beside a negative and one ignored."""
    return Candidates(
        "head",
        torch.tensor([[9.0, 9.0], [0.0, -4.0], [7.0, 7.0], [2.0, 1.0]], requires_grad=True),
        torch.tensor([2, 0, -1, 1]),
        2,
        boxes=Matched(
            torch.tensor([[0.0, 0, 4, 4], [0, 0, 1, 1]], requires_grad=True),
            torch.tensor([[0.0, 0, 4, 2], [5, 5, 6, 6]]),
        ),
        centerness=torch.tensor([0.25, 1.0]),
    )


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (NoWeights(), [1, 1]),
        (CenternessWeights(), [0.25, 1]),
        (ScoreWeights(), [0.5, 0.8807971]),
        (IoUWeights(), [0.5, 0]),
        # Ranks 4 and 2; the logits of the own classes are 0 and 1.
        (RankingWeights(), [1 / 8, 3 / 8]),
        (RankingWeights(1.0), [1 / 16, 1 / 8 + 1 / 8]),
    ],
)
def test_weights_worked_out_by_hand(weighting: Weighting, expected: list[float]) -> None:
    candidates = positive_candidates()
    positives = find_positives(candidates)
    weights = weighting(candidates, positives, Ranking(torch.tensor([4.0, 2.0]), Processes()))
    assert weights.tolist() == pytest.approx(expected)
    assert not weights.requires_grad


@pytest.mark.parametrize(
    ("weighting", "missing"),
    [(CenternessWeights(), "no centerness"), (IoUWeights(), "no boxes"), (RankingWeights(), "a loss that ranks")],
)
def test_weights_name_what_is_missing(weighting: Weighting, missing: str) -> None:
    bare = Candidates("head", torch.zeros(1, 1), torch.tensor([0]), 1)
    with pytest.raises(ValueError, match=f"'head'.*{missing}"):
        weighting(bare, find_positives(bare))


@pytest.mark.parametrize(
    "weighting", [NoWeights(), CenternessWeights(), ScoreWeights(), IoUWeights(), RankingWeights(), RankingWeights(1.0)]
)
def test_no_positives_have_no_weights(weighting: Weighting) -> None:
    empty = torch.zeros(0, 4)
    candidates = Candidates(
        "head", torch.zeros(2, 3), torch.tensor([3, -1]), 3, boxes=Matched(empty, empty), centerness=torch.zeros(0)
    )
    positives = find_positives(candidates)
    assert weighting(candidates, positives, Ranking(torch.zeros(0), Processes())).shape == (0,)


def test_ranking_weights_need_a_width_that_is_not_negative() -> None:
    with pytest.raises(ValueError, match="delta_loc must be at least 0"):
        RankingWeights(-0.5)
