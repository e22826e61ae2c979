"""The score-based baselines: hand-worked numbers, normalizers, ignored candidates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou

from rankdet.losses import L1, GIoU, SigmoidCrossEntropyLoss, SmoothL1, SoftmaxCrossEntropyLoss
from rankdet.structures import Candidates, Matched

DELTAS = torch.tensor([[0.5, -2.0, 0.0, 1.0], [0.0, 0.0, 0.25, 0.0]])
BOXES = torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 3]])
OBJECTS = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]])
BOX_LOSSES = pytest.mark.parametrize("box_loss", [L1(), SmoothL1(1.0), GIoU()], ids=["L1", "smooth L1", "GIoU"])


def make_candidates(logits: Tensor, labels: list[int], num_classes: int, positives: int = 2) -> Candidates:
    return Candidates(
        "head",
        logits.requires_grad_(),
        torch.tensor(labels, dtype=torch.int64),
        num_classes,
        boxes=Matched(BOXES[:positives].clone().requires_grad_(), OBJECTS[:positives]),
        deltas=Matched(DELTAS[:positives].clone().requires_grad_(), torch.zeros(positives, 4)),
    )


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


@pytest.mark.parametrize(
    ("box_loss", "expected"),
    [
        (L1(), [3.5, 0.25]),
        (L1(2.0), [7.0, 0.5]),
        (SmoothL1(1.0), [0.125 + 1.5 + 0.5, 0.03125]),
        (SmoothL1(0.25), [0.375 + 1.875 + 0.875, 0.125]),
        (SmoothL1(1.0, weight=10), [21.25, 0.3125]),
        (GIoU(), [1 / 2, 1 - 1 / 7 + 2 / 9]),
        (GIoU(3.0), [3 / 2, 3 - 3 / 7 + 6 / 9]),
    ],
)
def test_box_losses_worked_out_by_hand(box_loss: nn.Module, expected: list[float]) -> None:
    found = box_loss(make_candidates(torch.zeros(2, 1), [0, 0], 1), 2)
    assert found.tolist() == pytest.approx(expected)
    assert found.requires_grad


def test_the_giou_loss_is_that_of_torchvision() -> None:
    found = GIoU()(make_candidates(torch.zeros(2, 1), [0, 0], 1), 2)
    torch.testing.assert_close(found, 1 - generalized_box_iou(BOXES, OBJECTS).diagonal())


@BOX_LOSSES
def test_box_losses_refuse_what_does_not_pair(box_loss: nn.Module) -> None:
    bare = Candidates("head", torch.zeros(2, 1), torch.tensor([0, 0]), 1)
    with pytest.raises(ValueError, match="'head' hands no"):
        box_loss(bare, 2)
    with pytest.raises(ValueError, match="3 positives but 2 pairs"):
        box_loss(make_candidates(torch.zeros(2, 1), [0, 0], 1), 3)


def test_sigmoid_cross_entropy_worked_out_by_hand() -> None:
    """An RPN: two positives, a negative, one ignored; three take part."""
    candidates = make_candidates(torch.tensor([[2.0], [-1.0], [0.5], [7.0]]), [0, 0, 1, -1], 1)
    terms, stats = SigmoidCrossEntropyLoss(L1())(candidates)
    assert set(terms) == {"classification", "localization"}
    expected = -(log_sigmoid(2) + log_sigmoid(-1) + log_sigmoid(-0.5)) / 3
    assert terms["classification"].item() == pytest.approx(expected)
    assert terms["localization"].item() == pytest.approx(3.75 / 3)
    assert (stats["positives"], stats["negatives"]) == (2, 1)
    terms["classification"].backward()
    sigmoid = torch.tensor([2.0, -1.0, 0.5]).sigmoid()
    expected_gradient = (sigmoid - torch.tensor([1.0, 1.0, 0.0])) / 3
    torch.testing.assert_close(candidates.logits.grad[:3, 0], expected_gradient)
    assert candidates.logits.grad[3].item() == 0


def test_sigmoid_cross_entropy_sums_over_classes() -> None:
    candidates = make_candidates(torch.tensor([[1.0, -1.0], [0.0, 2.0]]), [0, 2], 2, positives=1)
    terms, stats = SigmoidCrossEntropyLoss(GIoU())(candidates)
    expected = -(log_sigmoid(1) + log_sigmoid(1) + log_sigmoid(0) + log_sigmoid(-2)) / 2
    assert terms["classification"].item() == pytest.approx(expected)
    assert (stats["positives"], stats["negatives"]) == (1, 3)


def test_softmax_cross_entropy_worked_out_by_hand() -> None:
    """An R-CNN head of two classes: the last column is the background; three of four take part."""
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 2.0], [5.0, 5.0, 5.0]])
    candidates = make_candidates(logits, [0, 1, 2, -1], 2)
    terms, stats = SoftmaxCrossEntropyLoss(SmoothL1(1.0))(candidates)
    e = math.e
    expected = -(math.log(e / (e + 2)) + math.log(e**3 / (1 + e**3 + e)) + math.log(e**2 / (2 + e**2))) / 3
    assert terms["classification"].item() == pytest.approx(expected)
    assert terms["localization"].item() == pytest.approx((2.125 + 0.03125) / 3)
    assert (stats["positives"], stats["negatives"]) == (2, 4)
    sum(terms.values()).backward()
    assert not candidates.logits.grad[3].any()
    assert candidates.deltas.predicted.grad.any()


def test_softmax_needs_a_background_column() -> None:
    with pytest.raises(ValueError, match="no background column"):
        SoftmaxCrossEntropyLoss(L1())(make_candidates(torch.zeros(3, 2), [0, 1, 2], 2))


def test_sigmoid_refuses_a_background_column() -> None:
    with pytest.raises(ValueError, match="background column"):
        SigmoidCrossEntropyLoss(L1())(make_candidates(torch.zeros(3, 3), [0, 1, 2], 2))


LOSSES = pytest.mark.parametrize(
    ("loss", "columns"),
    [(SigmoidCrossEntropyLoss(L1()), 2), (SoftmaxCrossEntropyLoss(GIoU()), 3)],
    ids=["sigmoid", "softmax"],
)


@LOSSES
@pytest.mark.parametrize("noise", [1e4, -1e4, torch.inf, torch.nan])
def test_ignored_candidates_do_not_matter(loss: nn.Module, columns: int, noise: float) -> None:
    logits = torch.randn(6, columns, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, -1, 2, 1, -1, 2])
    noisy = make_candidates(logits.where(labels[:, None] >= 0, noise), labels.tolist(), 2)
    clean = make_candidates(logits[labels >= 0], labels[labels >= 0].tolist(), 2)
    for candidates in (noisy, clean):
        sum(loss(candidates).terms.values()).backward()
    for name, term in loss(noisy).terms.items():
        torch.testing.assert_close(term, loss(clean).terms[name])
    torch.testing.assert_close(noisy.logits.grad[labels >= 0], clean.logits.grad)
    assert not noisy.logits.grad[labels < 0].any()


@LOSSES
@pytest.mark.parametrize("labels", [[], [-1, -1, -1]], ids=["empty", "all ignored"])
def test_where_nothing_takes_part_terms_are_connected_zeros(loss: nn.Module, columns: int, labels: list[int]) -> None:
    candidates = make_candidates(torch.randn(len(labels), columns), labels, 2, positives=0)
    terms, stats = loss(candidates)
    assert [term.item() for term in terms.values()] == [0, 0]
    assert (stats["positives"], stats["negatives"]) == (0, 0)
    sum(terms.values()).backward()
    assert torch.equal(candidates.logits.grad, torch.zeros_like(candidates.logits))
    outputs = candidates.deltas.predicted.grad if columns == 2 else candidates.boxes.predicted.grad
    assert outputs.shape == (0, 4)


@LOSSES
def test_without_positives_the_background_still_counts(loss: nn.Module, columns: int) -> None:
    candidates = make_candidates(torch.zeros(4, columns), [2, 2, -1, 2], 2, positives=0)
    terms, _ = loss(candidates)
    expected = 2 * math.log(2) if columns == 2 else math.log(3)
    assert terms["classification"].item() == pytest.approx(expected)
    assert terms["localization"].item() == 0
    assert terms["localization"].requires_grad


@LOSSES
def test_bfloat16_logits_are_taken_in_float32(loss: nn.Module, columns: int) -> None:
    logits = torch.randn(4, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(make_candidates(logits.clone(), [0, 1, 2, -1], 2)).terms
    full = loss(make_candidates(logits.float(), [0, 1, 2, -1], 2)).terms
    for name, term in half.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, full[name])
