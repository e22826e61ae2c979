"""Hard negatives against a plain loop, and the softmax loss over them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from rankdet.losses import L1Loss, SoftmaxCrossEntropyLoss
from rankdet.losses.hard_negatives import HardNegatives
from rankdet.structures import Candidates, Matched

NUM_CLASSES = 3


def make_candidates(per_image: tuple[int, ...], positive: float, seed: int) -> Candidates:
    """Random candidates, some of them ignored; ``positive`` is the share of positives."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(per_image)
    drawn = torch.rand(count, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
    labels = labels.where(drawn < positive, NUM_CLASSES).where(drawn < 0.9, -1)
    logits = torch.randn(count, NUM_CLASSES + 1, generator=generator).requires_grad_()
    num_positives = int(((labels >= 0) & (labels < NUM_CLASSES)).sum())
    deltas = Matched(torch.ones(num_positives, 4, requires_grad=True), torch.zeros(num_positives, 4))
    return Candidates("dense", logits, labels, NUM_CLASSES, deltas=deltas, per_image=per_image)


def chosen_by_hand(candidates: Candidates, losses: list[float], ratio: int) -> tuple[list[bool], int]:
    chosen, divisor, first = [False] * len(losses), 0, 0
    for count in candidates.per_image or ():
        rows = range(first, first + count)
        positives = [row for row in rows if 0 <= candidates.labels[row] < NUM_CLASSES]
        negatives = [row for row in rows if candidates.labels[row] == NUM_CLASSES]
        hard = sorted(negatives, key=lambda row: (-losses[row], row))
        if positives:
            hard = hard[: ratio * len(positives)]
        for row in (*positives, *hard):
            chosen[row] = True
        divisor += max(1, len(positives))
        first += count
    return chosen, divisor


@pytest.mark.parametrize("per_image", [(40,), (30, 30, 30), (5, 60, 0, 12)])
@pytest.mark.parametrize("positive", [0.0, 0.03, 0.2, 0.9])
@pytest.mark.parametrize("ratio", [1, 3])
def test_hard_negatives_are_those_of_a_plain_loop(per_image: tuple[int, ...], positive: float, ratio: int) -> None:
    for seed in range(3):
        candidates = make_candidates(per_image, positive, seed)
        losses = torch.rand(len(candidates.labels), generator=torch.Generator().manual_seed(seed))
        losses = (10 * losses).round() if seed else losses  # ties
        found = HardNegatives(ratio)(candidates, losses)
        expected, divisor = chosen_by_hand(candidates, losses.tolist(), ratio)
        assert found.candidates.tolist() == expected
        assert found.divisor == divisor


@pytest.mark.parametrize("positive", [0.0, 0.1])
def test_classification_and_boxes_are_over_the_number_of_positives(positive: float) -> None:
    candidates = make_candidates((50, 50), positive, 0)
    terms, stats = SoftmaxCrossEntropyLoss(L1Loss(), hard_negatives=3)(candidates)
    losses = cross_entropy(candidates.logits, candidates.labels.clamp(min=0), reduction="none")
    chosen, divisor = chosen_by_hand(candidates, losses.tolist(), 3)
    torch.testing.assert_close(terms["classification"], losses[torch.tensor(chosen)].sum() / divisor)
    num_positives = len(candidates.deltas.target)
    assert terms["localization"].item() == pytest.approx(4 * num_positives / divisor)
    assert stats["positives"] == num_positives
    assert stats["negatives"] == NUM_CLASSES * sum(chosen) - num_positives
    terms["classification"].backward()
    touched = candidates.logits.grad.any(dim=1)
    assert torch.equal(touched, torch.tensor(chosen))


def test_without_candidates_nothing_is_chosen() -> None:
    for per_image in ((), (0, 0)):
        candidates = make_candidates(per_image, 0.5, 0)
        terms, _ = SoftmaxCrossEntropyLoss(L1Loss(), hard_negatives=3)(candidates)
        assert terms["classification"] == 0
        terms["classification"].backward()
        assert candidates.logits.grad is not None


def test_a_head_must_say_which_candidates_share_an_image() -> None:
    candidates = make_candidates((9,), 0.5, 0)
    bare = Candidates("dense", candidates.logits, candidates.labels, NUM_CLASSES)
    with pytest.raises(ValueError, match="'dense' passes no per_image"):
        HardNegatives(3)(bare, torch.zeros(9))
    with pytest.raises(ValueError, match=r"per_image \(4, 4\) does not add up to 9"):
        Candidates("dense", candidates.logits, candidates.labels, NUM_CLASSES, per_image=(4, 4))
    with pytest.raises(ValueError, match="ratio must be at least 1"):
        HardNegatives(0)
