"""Bucketed losses: published numbers, exact where they claim it, bounded where not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rankdet.losses import (
    BucketedAPLoss,
    BucketedRankSortLoss,
    RankSortLoss,
    bucketed_ap_loss,
    bucketed_rank_sort_loss,
    rank_sort_loss,
)
from rankdet.structures import Candidates, Matched

LOGITS = [0.30, 0.10, -0.20, 0.25, 0.05, 0.60, -0.60, 2.00, -0.90]
TARGETS = [0.70, 0, 0.50, 0.90, 0, 0, 0.60, -1, 0]


def run(loss: str, logits: Tensor, targets: Tensor, delta: float) -> tuple[float, Tensor]:
    """Value and gradient."""
    logits = logits.clone().requires_grad_()
    parts = {
        "bucketed": lambda: torch.stack(bucketed_rank_sort_loss(logits, targets, delta)),
        "exact": lambda: torch.stack(rank_sort_loss(logits, targets, delta)),
        "average precision": lambda: bucketed_ap_loss(logits, targets, delta),
    }[loss]()
    parts.sum().backward()
    assert logits.grad is not None
    return parts.sum().item(), logits.grad


def test_the_published_numbers_of_bucketed_rank_and_sort() -> None:
    """Run with the published code: the two negatives 1 and 4 share a bucket."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    ranking, sorting = bucketed_rank_sort_loss(logits, torch.tensor(TARGETS))
    assert (ranking.item(), sorting.item()) == pytest.approx((0.537182, 0.046751), abs=1e-6)
    (ranking + sorting).backward()
    expected = [-0.119656, 0.137010, -0.105332, -0.173776, 0.137010, 0.255586, -0.138418, 0, 0.007576]
    assert logits.grad.tolist() == pytest.approx(expected, abs=2e-6)


def test_the_published_number_of_bucketed_average_precision() -> None:
    assert bucketed_ap_loss(torch.tensor(LOGITS), torch.tensor(TARGETS)).item() == pytest.approx(0.512713, abs=1e-6)


def test_bucketed_average_precision_worked_out_by_hand() -> None:
    """δ = 1: the negatives 0.5 and −0.5 have a positive between them; H is 3/4 and 1/4."""
    logits = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    loss = bucketed_ap_loss(logits, torch.tensor([1.0, 0, 0]))
    assert loss.item() == pytest.approx(1 / 1.5)
    loss.backward()
    assert logits.grad.tolist() == pytest.approx([-1 / 1.5, 0.75 / 1.5, 0.25 / 1.5])


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_exact_where_no_bucket_crosses_a_kink(delta: float) -> None:
    """Positives on even numbers: all within 0.4 of odd ones is out of reach, and so is half a step around them."""
    generator = torch.Generator().manual_seed(0)
    positives = 2.0 * torch.arange(-5, 6, dtype=torch.float64)
    negatives = 2 * torch.randint(-7, 7, (200,), generator=generator) + 1 + 0.4 * torch.rand(200, generator=generator)
    quality = 0.1 + 0.9 * torch.rand(11, generator=generator)
    targets = torch.cat([quality, torch.zeros(200)])
    logits = torch.cat([positives, negatives.double()])
    found, expected = run("bucketed", logits, targets, delta), run("exact", logits, targets, delta)
    assert found[0] == pytest.approx(expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_close_to_the_exact_loss_among_random_logits() -> None:
    """2000 logits, 30 positives: the error is small, and not zero. Most of it comes from one wide bucket, below a
    best positive that stands alone; δ = 0 has no kinks but the positives, and is exact."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2000, generator=generator, dtype=torch.float64)
    targets = torch.zeros(2000).index_fill(0, torch.randperm(2000, generator=generator)[:30], 0.5)
    found, expected = run("bucketed", logits, targets, 0.5), run("exact", logits, targets, 0.5)
    assert 0 < abs(found[0] - expected[0]) < 5e-3
    assert torch.cosine_similarity(found[1], expected[1], dim=0) > 0.995
    found, expected = run("bucketed", logits, targets, 0.0), run("exact", logits, targets, 0.0)
    assert found[0] == pytest.approx(expected[0])
    torch.testing.assert_close(found[1], expected[1])


BUCKETED = pytest.mark.parametrize("loss", ["bucketed", "average precision"])


@BUCKETED
def test_laws_of_bucketed_losses(loss: str) -> None:
    """Gradients sum to 0, a shift changes nothing, ignored logits do not matter, negatives are never pulled up."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(300, generator=generator, dtype=torch.float64)
    targets = (torch.rand(300, generator=generator) - 0.9).clamp(min=0) * 10
    targets[torch.randperm(300, generator=generator)[:20]] = -1
    value, gradient = run(loss, logits, targets, 0.5)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)
    assert (gradient[targets == 0] >= 0).all()
    assert not gradient[targets < 0].any()
    noisy = logits.masked_fill(targets < 0, 1e4)
    for other in (run(loss, noisy, targets, 0.5), run(loss, logits + 7, targets, 0.5)):
        assert other[0] == pytest.approx(value)
        torch.testing.assert_close(other[1], gradient)


@BUCKETED
@pytest.mark.parametrize("targets", [[], [0.0, 0, -1], [-1.0]])
def test_without_positives_bucketed_losses_are_connected_zeros(loss: str, targets: list[float]) -> None:
    value, gradient = run(loss, torch.ones(len(targets)), torch.tensor(targets), 0.5)
    assert value == 0
    assert not gradient.any()


@BUCKETED
def test_without_negatives_nothing_ranks_above(loss: str) -> None:
    value, gradient = run(loss, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), 0.5)
    assert value == 0
    assert not gradient.any()


@BUCKETED
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_taken_in_float64(loss: str, dtype: torch.dtype) -> None:
    logits = torch.tensor(LOGITS, dtype=dtype)
    value, gradient = run(loss, logits, torch.tensor(TARGETS), 0.5)
    expected = run(loss, logits.double(), torch.tensor(TARGETS), 0.5)
    assert value == pytest.approx(expected[0])
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), expected[1], rtol=1e-2, atol=1e-3)


def test_each_output_has_a_gradient_of_its_own() -> None:
    gradients = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [2.0, 3.0]):
        logits = torch.tensor(LOGITS, requires_grad=True)
        parts = torch.stack(bucketed_rank_sort_loss(logits, torch.tensor(TARGETS)))
        (torch.tensor(weights) * parts).sum().backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(2 * gradients[0] + 3 * gradients[1], gradients[2])


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        bucketed_ap_loss(torch.zeros(2), torch.zeros(3))


def make_candidates() -> Candidates:
    return Candidates(
        "head",
        torch.tensor([[-3.0, 0.0], [3.0, -3.0], [9.0, 9.0]], requires_grad=True),
        torch.tensor([1, 2, -1]),
        2,
        boxes=Matched(torch.tensor([[0.0, 0, 4, 4]], requires_grad=True), torch.tensor([[0.0, 0, 4, 2]])),
    )


def test_a_head_with_few_negatives_has_the_exact_loss() -> None:
    found, expected = BucketedRankSortLoss()(make_candidates()), RankSortLoss()(make_candidates())
    for outputs in (found, expected):
        assert set(outputs.terms) == {"ranking", "sorting", "localization"}
    for name, term in expected.terms.items():
        torch.testing.assert_close(found.terms[name], term)
    for name, value in expected.stats.items():
        torch.testing.assert_close(found.stats[name], value)


def test_bucketed_average_precision_of_a_head_is_beside_twice_the_giou_loss() -> None:
    terms, stats = BucketedAPLoss()(make_candidates())
    # The negatives 3, −3 and −3 about the positive 0, of which one stands above it.
    assert terms["classification"].item() == pytest.approx(1 / 1.5)
    assert terms["localization"].item() == pytest.approx(1.0)
    assert stats["balance"] == 1


@pytest.mark.parametrize("loss", [BucketedRankSortLoss(), BucketedAPLoss()])
def test_a_head_without_positives_has_connected_zeros(loss: nn.Module) -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    logits = torch.ones(2, 2, requires_grad=True)
    terms, _ = loss(Candidates("head", logits, torch.tensor([2, -1]), 2, boxes=Matched(empty, torch.zeros(0, 4))))
    sum(terms.values()).backward()
    assert all(term.item() == 0 for term in terms.values())
    assert not logits.grad.any()
    assert empty.grad is not None
