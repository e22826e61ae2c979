"""Box losses per positive: hand-worked numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou

from rankdet.losses import ConstantBalance, GIoULoss, L1Loss, NoWeights, SmoothL1Loss, Tasks, find_positives
from rankdet.structures import Candidates, Matched

DELTAS = torch.tensor([[0.5, -2.0, 0.0, 1.0], [0.0, 0.0, 0.25, 0.0]])
BOXES = torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 3]])
OBJECTS = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]])
BOX_LOSSES = pytest.mark.parametrize(
    "box_loss", [L1Loss(), SmoothL1Loss(1.0), GIoULoss()], ids=["L1", "smooth L1", "GIoU"]
)


def make_candidates() -> Candidates:
    return Candidates(
        "head",
        torch.zeros(2, 1),
        torch.tensor([0, 0]),
        1,
        boxes=Matched(BOXES.clone().requires_grad_(), OBJECTS),
        deltas=Matched(DELTAS.clone().requires_grad_(), torch.zeros(2, 4)),
    )


@pytest.mark.parametrize(
    ("box_loss", "expected"),
    [
        (L1Loss(), [3.5, 0.25]),
        (L1Loss(2.0), [7.0, 0.5]),
        (SmoothL1Loss(1.0), [0.125 + 1.5 + 0.5, 0.03125]),
        (SmoothL1Loss(0.25), [0.375 + 1.875 + 0.875, 0.125]),
        (SmoothL1Loss(1.0, weight=10), [21.25, 0.3125]),
        (GIoULoss(), [1 / 2, 1 - 1 / 7 + 2 / 9]),
        (GIoULoss(3.0), [3 / 2, 3 - 3 / 7 + 6 / 9]),
    ],
)
def test_box_losses_worked_out_by_hand(box_loss: nn.Module, expected: list[float]) -> None:
    candidates = make_candidates()
    found = box_loss(candidates, find_positives(candidates))
    assert found.tolist() == pytest.approx(expected)
    assert found.requires_grad


def test_the_giou_loss_is_that_of_torchvision() -> None:
    candidates = make_candidates()
    found = GIoULoss()(candidates, find_positives(candidates))
    torch.testing.assert_close(found, 1 - generalized_box_iou(BOXES, OBJECTS).diagonal())


@BOX_LOSSES
def test_box_losses_need_their_pairs(box_loss: nn.Module) -> None:
    bare = Candidates("head", torch.zeros(2, 1), torch.tensor([0, 0]), 1)
    with pytest.raises(ValueError, match="'head' passes no"):
        box_loss(bare, find_positives(bare))


def test_boxes_of_a_detr_are_parts_of_the_image() -> None:
    """Encoded as center and size, decoded as corners; its own code multiplies the same two losses by 5 and 2."""
    generator = torch.Generator().manual_seed(0)
    predicted, target = 0.2 + 0.3 * torch.rand(2, 7, 4, generator=generator)

    def corners(boxes: Tensor) -> Tensor:
        center, size = boxes.split(2, dim=1)
        return torch.cat([center - size / 2, center + size / 2], dim=1)

    candidates = Candidates(
        "decoder",
        torch.zeros(7, 2),
        torch.zeros(7, dtype=torch.int64),
        2,
        boxes=Matched(corners(predicted), corners(target)),
        deltas=Matched(predicted, target),
    )
    expected = 5 * (predicted - target).abs().sum(1) + 2 * (
        1 - generalized_box_iou(corners(predicted), corners(target)).diagonal()
    )
    tasks = Tasks(box_loss=GIoULoss(2), delta_loss=L1Loss(5), weighting=NoWeights(), balancing=ConstantBalance())
    terms = tasks(candidates, find_positives(candidates), torch.zeros(())).terms
    torch.testing.assert_close(terms["localization"] + terms["deltas"], expected.mean())
