"""AP Loss: its values by hand and from published code; the laws are in test_laws.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rankdet.losses import APLoss, Tasks, ap_loss, ap_loss_of_labels
from rankdet.structures import Candidates, Matched

LOGITS = torch.tensor([0.30, 0.10, -0.20, 0.25, 0.05, 0.60, -0.60, 2.00, -0.90])
TARGETS = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, -1, 0])


@pytest.mark.parametrize("implementation", ["torch", "reference"])
def test_golden_numbers_of_the_published_code(implementation: str) -> None:
    """Computed by executing the loss of github.com/kemaloksuz/RankSortLoss on a CPU, δ = 1."""
    logits = LOGITS.clone().requires_grad_()
    loss = ap_loss(logits, TARGETS, implementation=implementation)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(0.450776), rtol=0, atol=1e-6)
    expected = [-0.111111, 0.126730, -0.113971, -0.111111, 0.120757, 0.182679, -0.114583, 0, 0.020611]
    torch.testing.assert_close(logits.grad, torch.tensor(expected), rtol=0, atol=1e-6)


def test_interpolation_takes_the_best_precision_at_or_below_a_positive() -> None:
    """In ascending order the precisions are 2/3 and 1/2: the upper positive gets the 2/3 of the lower one."""
    logits, targets = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 1.0])
    torch.testing.assert_close(ap_loss(logits, targets, 0), torch.tensor(1 - 2 / 3))
    torch.testing.assert_close(ap_loss(logits, targets, 0, interpolate=False), torch.tensor(1 - (2 / 3 + 1 / 2) / 2))


def test_the_number_of_positives_is_checked() -> None:
    with pytest.raises(ValueError, match="1 positives among the labels"):
        ap_loss_of_labels(torch.zeros(2, 3), torch.tensor([0, 3]), num_positives=2)


def test_shapes_and_ranges_are_checked() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        ap_loss(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="delta must be finite and not negative"):
        ap_loss(torch.zeros(3), torch.ones(3), -1.0)
    with pytest.raises(ValueError, match="logits are NaN or infinite"):
        ap_loss(torch.tensor([torch.nan]), torch.ones(1), check=True)
    with pytest.raises(ValueError, match="labels must lie in"):
        ap_loss_of_labels(torch.zeros(1, 2), torch.tensor([3]), check=True)


def test_levels_are_ranked_as_one() -> None:
    logits, targets = torch.randn(30), (torch.rand(30) < 0.3).float()
    whole, parts = logits.clone().requires_grad_(), [part.clone().requires_grad_() for part in logits.split([7, 20, 3])]
    loss = ap_loss(whole, targets)
    of_levels = ap_loss(parts, targets.split([7, 20, 3]))
    assert loss == of_levels
    loss.backward()
    of_levels.backward()
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad, rtol=1e-6, atol=1e-8)


def candidates(labels: list[int], positives: int) -> Candidates:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(positives, 1).requires_grad_()
    logits = torch.randn(len(labels), 2, requires_grad=True)
    return Candidates(
        "dense",
        logits,
        torch.tensor(labels),
        2,
        boxes=Matched(boxes, torch.tensor([[0.0, 0, 4, 2]]).repeat(positives, 1)),
    )


def test_the_loss_of_a_head_is_that_of_its_labels_and_twice_the_boxes() -> None:
    head = candidates([0, 2, 1, -1], 2)
    terms, stats = APLoss()(head)
    assert terms["classification"] == ap_loss_of_labels(head.logits, head.labels)
    torch.testing.assert_close(terms["localization"], torch.tensor(1.0))
    assert stats["balance"] == 2


def test_a_head_may_learn_its_boxes_elsewhere() -> None:
    head = candidates([0, 2, 1, -1], 2)
    loss = APLoss(tasks=Tasks(box_loss=None))
    for given in (head, replace(head, boxes=None)):
        terms, _ = loss(given)
        assert terms == {"classification": ap_loss_of_labels(head.logits, head.labels)}


def test_a_head_without_positives_has_connected_zeros() -> None:
    head = candidates([2, 2, -1], 0)
    terms, _ = APLoss()(head)
    total = sum(terms.values())
    assert total == 0
    total.backward()
    assert not head.logits.grad.any()
    assert head.boxes.predicted.grad.shape == (0, 4)
