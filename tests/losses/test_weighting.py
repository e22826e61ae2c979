"""Instance weights and the mean they make."""

import pytest
import torch

from rankdet.losses import score_weights, weighted_mean


def test_the_weight_is_the_best_score_over_all_classes() -> None:
    logits = torch.tensor([[0.0, -4.0], [-9.0, 1.0], [2.0, 2.0]])
    expected = [0.5, 0.7310586, 0.8807971]
    assert score_weights(logits).tolist() == pytest.approx(expected)


def test_weights_are_detached_and_in_float32() -> None:
    weights = score_weights(torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True))
    assert weights.dtype == torch.float32
    assert not weights.requires_grad


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
