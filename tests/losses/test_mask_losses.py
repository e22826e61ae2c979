"""Mask losses per mask, and the term that the standard losses make of them: hand-worked numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rankdet.losses import (
    L1,
    Dice,
    MaskCrossEntropy,
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    dice_coefficient,
    find_positives,
)
from rankdet.structures import Candidates, Matched

LOGITS = torch.tensor([[[2.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
TARGET = torch.tensor([[[True, True], [False, False]], [[True, False], [False, False]]])


def make_candidates(masks: Matched | None, columns: int = 3) -> Candidates:
    """Two positives and a negative of two classes."""
    return Candidates(
        "rcnn",
        torch.zeros(3, columns, requires_grad=True),
        torch.tensor([0, 2, 1]),
        2,
        deltas=Matched(torch.ones(2, 4, requires_grad=True), torch.zeros(2, 4)),
        masks=masks,
    )


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


FIRST = (softplus(-2) + softplus(-1) + 2 * math.log(2)) / 4
LOSSES = pytest.mark.parametrize(("kind", "columns"), [(SoftmaxCrossEntropyLoss, 3), (SigmoidCrossEntropyLoss, 2)])


def test_mask_losses_worked_out_by_hand() -> None:
    candidates = make_candidates(Matched(LOGITS.clone().requires_grad_(), TARGET))
    positives = find_positives(candidates)
    cross_entropy, dice = MaskCrossEntropy(3.0)(candidates, positives), Dice(2.0)(candidates, positives)
    assert cross_entropy.tolist() == pytest.approx([3 * FIRST, 3 * math.log(2)])
    assert dice.tolist() == pytest.approx((2 - 2 * dice_coefficient(LOGITS, TARGET)).tolist())
    assert dice[1].item() == pytest.approx(2 * (1 - 2 * 0.5 / (1 + 1 + 1e-5)))
    (cross_entropy.sum() + dice.sum()).backward()
    assert candidates.masks.predicted.grad.all()


@LOSSES
def test_the_mask_term_is_the_mean_over_the_masks(kind: type[nn.Module], columns: int) -> None:
    loss = kind(L1())
    candidates = make_candidates(Matched(LOGITS.clone().requires_grad_(), TARGET), columns)
    terms, _ = loss(candidates)
    assert set(terms) == {"classification", "localization", "mask"}
    assert terms["mask"].item() == pytest.approx((FIRST + math.log(2)) / 2)
    part = replace(candidates, masks=Matched(LOGITS[1:].clone().requires_grad_(), TARGET[1:], torch.tensor([1])))
    assert loss(part).terms["mask"].item() == pytest.approx(math.log(2))
    assert kind(L1(), Dice())(part).terms["mask"].item() == pytest.approx(0.5, abs=1e-5)


@LOSSES
def test_a_head_without_masks_has_no_mask_term(kind: type[nn.Module], columns: int) -> None:
    assert set(kind(L1())(make_candidates(None, columns)).terms) == {"classification", "localization"}


@LOSSES
@pytest.mark.parametrize("mask_loss", [MaskCrossEntropy(), Dice()], ids=["cross-entropy", "Dice"])
def test_no_masks_are_a_connected_zero(kind: type[nn.Module], columns: int, mask_loss: nn.Module) -> None:
    logits: Tensor = torch.zeros(0, 28, 28, requires_grad=True)
    masks = Matched(logits, torch.zeros(0, 28, 28, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    term = kind(L1(), mask_loss)(make_candidates(masks, columns)).terms["mask"]
    assert term.item() == 0
    term.backward()
    assert logits.grad is not None


@pytest.mark.parametrize("mask_loss", [MaskCrossEntropy(), Dice()], ids=["cross-entropy", "Dice"])
def test_mask_losses_need_masks(mask_loss: nn.Module) -> None:
    bare = make_candidates(None)
    with pytest.raises(ValueError, match="'rcnn' hands no masks"):
        mask_loss(bare, find_positives(bare))
