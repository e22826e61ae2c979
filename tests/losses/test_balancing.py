"""Value-based task balancing."""

import pytest
import torch

from rankdet.losses import value_balance


def test_the_balanced_task_has_the_value_of_the_classification() -> None:
    task = torch.tensor(0.25, requires_grad=True)
    balance = value_balance(torch.tensor(0.75, requires_grad=True), task)
    assert balance.item() == 3
    assert not balance.requires_grad
    (balance * task).backward()
    assert task.grad.item() == 3


@pytest.mark.parametrize("task", [0.0, -1.0, torch.inf, torch.nan])
def test_a_task_without_a_usable_value_is_not_balanced(task: float) -> None:
    assert value_balance(torch.tensor(0.5), torch.tensor(task)).item() == 0


def test_a_perfect_classification_leaves_no_weight() -> None:
    assert value_balance(torch.tensor(0.0), torch.tensor(0.3)).item() == 0


def test_tiny_values_of_the_task_stay_finite() -> None:
    assert value_balance(torch.tensor(0.9), torch.tensor(1e-30)).isfinite()
