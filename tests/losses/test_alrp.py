"""aLRP Loss: its values by hand and from published code; the laws are in test_laws.py."""

from __future__ import annotations

import pytest
import torch

from rankdet.losses import ALRPLoss, ConstantBalance, EpochBalance, alrp_loss, alrp_loss_of_labels
from rankdet.structures import Candidates, Matched

LOGITS = torch.tensor([0.30, 0.10, -0.20, 0.25, 0.05, 0.60, -0.60, 2.00, -0.90])
TARGETS = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, -1, 0])
ERRORS = torch.tensor([0.3, 0.5, 0.1, 0.4])


@pytest.mark.parametrize("implementation", ["torch", "reference"])
def test_golden_numbers_of_the_published_code(implementation: str) -> None:
    """Computed by executing the loss of github.com/kemaloksuz/RankSortLoss on a CPU, δ = 1."""
    logits = LOGITS.clone().requires_grad_()
    classification, localization = alrp_loss(logits, TARGETS, ERRORS, implementation=implementation)
    classification.backward()
    torch.testing.assert_close(classification.detach(), torch.tensor(0.450993), rtol=0, atol=1e-6)
    torch.testing.assert_close(localization, torch.tensor(0.146427), rtol=0, atol=1e-6)
    expected = [-0.126367, 0.151299, -0.134436, -0.135185, 0.144208, 0.217503, -0.142140, 0, 0.025119]
    torch.testing.assert_close(logits.grad, torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_localization_and_its_gradient_equal_the_reference(seed: int, delta: float, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(60, generator=generator, dtype=torch.float64)
    logits = (4 * logits).round() / 4 if ties else logits
    targets = (torch.rand(60, generator=generator) < 0.3).double()
    errors = torch.rand(int(targets.sum()), generator=generator, dtype=torch.float64)
    found, expected = (errors.clone().requires_grad_() for _ in range(2))
    fast = alrp_loss(logits, targets, found, delta).localization
    slow = alrp_loss(logits, targets, expected, delta, implementation="reference").localization
    torch.testing.assert_close(fast, slow)
    (3 * fast).backward()
    (3 * slow).backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_localization_alone_moves_no_logit() -> None:
    logits, errors = LOGITS.clone().requires_grad_(), ERRORS.clone().requires_grad_()
    alrp_loss(logits, TARGETS, errors).localization.backward()
    assert errors.grad.all()
    assert logits.grad is None or not logits.grad.any()


def test_without_positives_both_parts_are_connected_zeros() -> None:
    logits, errors = torch.randn(4, requires_grad=True), torch.zeros(0, requires_grad=True)
    parts = alrp_loss(logits, torch.zeros(4), errors)
    assert sum(parts) == 0
    sum(parts).backward()
    assert not logits.grad.any()
    assert errors.grad.shape == (0,)


@pytest.mark.parametrize("implementation", ["torch", "reference"])
@pytest.mark.parametrize("place", [0, 1], ids=["positive", "negative"])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_a_logit_that_is_not_finite_makes_both_values_nan(odd: float, place: int, implementation: str) -> None:
    logits = LOGITS.clone()
    logits[place] = odd
    assert all(value.isnan() for value in alrp_loss(logits, TARGETS, ERRORS, implementation=implementation))


def test_as_many_errors_as_positives_are_asked_for() -> None:
    with pytest.raises(ValueError, match="4 positives among the targets but qualities of shape"):
        alrp_loss(LOGITS, TARGETS, ERRORS[:2])
    with pytest.raises(ValueError, match="1 positives among the labels"):
        alrp_loss_of_labels(torch.zeros(2, 1), torch.tensor([0, 1]), ERRORS)


def head() -> Candidates:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    logits = torch.tensor([[-3.0, 0.0], [3.0, -3.0]], requires_grad=True)
    return Candidates("dense", logits, torch.tensor([1, 2]), 2, boxes=Matched(boxes, torch.tensor([[0.0, 0, 4, 2]])))


def test_tau_scales_the_localization_errors() -> None:
    """GIoU is 1/2, rank is 2: E = 0.5 / (2 · 0.5) at τ = 0.5, and 0.5 / (2 · 0.3) at τ = 0.7."""
    for tau, error in ((0.5, 0.5), (0.7, 0.5 / 0.6)):
        terms, stats = ALRPLoss(balancing=ConstantBalance(1.0), tau=tau)(head())
        torch.testing.assert_close(terms["localization"], torch.tensor(error / 2))
        torch.testing.assert_close(stats["localization_error"], torch.tensor(error / 2))


def test_the_balance_of_an_epoch_is_taken_into_the_next() -> None:
    loss = ALRPLoss(balancing=EpochBalance(iterations=2))
    balances = [loss(head()).stats["balance"].item() for _ in range(3)]
    assert balances == pytest.approx([50, 50, (0.5 + 0.25) / 0.25])


def test_every_output_of_a_head_gets_a_gradient() -> None:
    candidates = head()
    sum(ALRPLoss(balancing=ConstantBalance(1.0))(candidates).terms.values()).backward()
    assert candidates.logits.grad.any()
    assert candidates.boxes.predicted.grad.any()
