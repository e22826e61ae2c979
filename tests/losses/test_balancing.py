"""Task balancing: constant, by value, by magnitude, by epoch."""

import pytest
import torch
from torch import Tensor, nn

from rankdet.losses import (
    ALRPLoss,
    ConstantBalance,
    EpochBalance,
    MagnitudeBalance,
    MaximumBalance,
    RankSortLoss,
    Tasks,
    ValueBalance,
    set_epoch_length,
    value_balance,
)
from rankdet.structures import Candidates, Matched


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


def head(logits: Tensor, deltas: Tensor | None = None, masks: Tensor | None = None) -> Candidates:
    """A head of positives of one class; its boxes are twice its deltas."""
    return Candidates(
        "head",
        logits,
        torch.zeros(len(logits), dtype=torch.int64),
        1,
        boxes=None if deltas is None else Matched(2 * deltas, torch.zeros_like(deltas)),
        deltas=None if deltas is None else Matched(deltas, torch.zeros_like(deltas)),
        masks=None if masks is None else Matched(masks, torch.zeros_like(masks)),
    )


NOTHING = head(torch.zeros(0, 1))
BALANCES = pytest.mark.parametrize(
    "balance",
    [
        ConstantBalance(2.0),
        ValueBalance(),
        ValueBalance(floor=1.0),
        MaximumBalance(),
        MagnitudeBalance(),
        EpochBalance(iterations=3),
    ],
    ids=["constant", "value", "floor", "maximum", "magnitude", "epoch"],
)


@BALANCES
def test_a_balance_is_a_detached_finite_scalar(balance: nn.Module) -> None:
    logits, deltas = torch.ones(2, 1, requires_grad=True), torch.ones(2, 4, requires_grad=True)
    candidates = head(logits, deltas)
    assert candidates.boxes is not None
    for scale in (1.0, 0.0):
        weight = balance((logits**2).sum(), scale * (candidates.boxes.predicted**2).sum(), candidates)
        assert weight.shape == ()
        assert not weight.requires_grad
        assert weight.isfinite()


def test_a_constant_balance_is_what_it_was_given() -> None:
    assert ConstantBalance(2.0)(torch.tensor(3.0), torch.tensor(0.0), NOTHING).item() == 2


def test_the_value_balance_is_that_of_the_function() -> None:
    assert ValueBalance()(torch.tensor(3.0), torch.tensor(0.5), NOTHING).item() == 6


def test_a_floor_keeps_the_value_of_the_task() -> None:
    balance = ValueBalance(floor=1.0)
    assert balance(torch.tensor(0.25), torch.tensor(0.5), NOTHING).item() == 2
    assert balance(torch.tensor(3.0), torch.tensor(0.5), NOTHING).item() == 6
    assert balance(torch.tensor(0.25), torch.tensor(0.0), NOTHING).item() == 0


def test_with_a_floor_above_the_classification_a_task_descends_its_logarithm() -> None:
    errors = torch.tensor([0.5, 0.25], requires_grad=True)
    error = errors.mean()
    weight = ValueBalance(floor=1.0)(torch.tensor(0.3), error, NOTHING)
    (gradient,) = torch.autograd.grad(weight * error, errors)
    (expected,) = torch.autograd.grad(errors.mean().log(), errors)
    assert torch.equal(gradient, expected)


def test_the_maximum_balance_remembers_the_largest_value_and_resumes() -> None:
    balance = MaximumBalance()
    values = [balance(torch.tensor(value), torch.tensor(0.5), NOTHING).item() for value in (0.75, 1.0, 0.25)]
    assert values == [1.5, 2.0, 2.0]
    with torch.no_grad():
        assert balance(torch.tensor(4.0), torch.tensor(0.5), NOTHING).item() == 8
    resumed = MaximumBalance()
    resumed.load_state_dict(balance.state_dict())
    assert resumed(torch.tensor(0.1), torch.tensor(0.5), NOTHING).item() == 2


def test_the_magnitude_balance_worked_out_by_hand() -> None:
    """Gradients: 2 s = (4, −6) in the logits; 2 · 2 · 2 d = 8 d in the deltas behind the boxes."""
    logits = torch.tensor([[2.0], [-3.0]], requires_grad=True)
    deltas = torch.tensor([[1.0, 0, 0, 0], [0, -0.5, 0, 0]], requires_grad=True)
    candidates = head(logits, deltas)
    assert candidates.boxes is not None
    classification, task = (logits**2).sum(), (candidates.boxes.predicted**2).sum()
    weight = MagnitudeBalance()(classification, task, candidates)
    assert weight.item() == pytest.approx(10 / 12)
    # Both graphs are still there.
    (classification + weight * task).backward()
    assert deltas.grad.abs().sum().item() == pytest.approx(logits.grad.abs().sum().item())


def test_the_magnitude_of_a_mask_is_that_in_its_logits() -> None:
    logits, masks = torch.ones(1, 1, requires_grad=True), torch.ones(1, 2, 2, requires_grad=True)
    candidates = head(logits, torch.ones(1, 4, requires_grad=True), masks)
    assert MagnitudeBalance()(3 * logits.sum(), masks.sum() / 2, candidates).item() == pytest.approx(3 / 2)


def test_where_no_gradients_are_recorded_there_is_no_magnitude() -> None:
    with torch.no_grad():
        candidates = head(torch.ones(1, 1), torch.ones(1, 4))
        assert MagnitudeBalance()(torch.tensor(1.0), torch.tensor(1.0), candidates).item() == 0


def test_the_epoch_balance_worked_out_by_hand() -> None:
    """(mean task + mean classification) / mean task, once per period."""
    balance = EpochBalance(start=50.0, iterations=2)
    values = [(0.5, 0.25), (0.7, 0.15), (0.1, 0.1), (0.3, 0.3), (0.0, 0.0), (0.5, 0.0), (0.0, 1.0)]
    found = [balance(torch.tensor(a), torch.tensor(b), NOTHING).item() for a, b in values]
    # In the third period there is no task: the weight stays.
    assert found == pytest.approx([50, 50, 4, 4, 2, 2, 2])


def test_an_evaluation_does_not_change_the_epoch_balance() -> None:
    balance = EpochBalance(iterations=1)
    before = {name: value.clone() for name, value in balance.state_dict().items()}
    with torch.no_grad():
        balance(torch.tensor(1.0), torch.tensor(1.0), NOTHING)
    assert all(torch.equal(before[name], value) for name, value in balance.state_dict().items())


def test_the_epoch_balance_resumes_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20, 2, generator=generator)
    whole = EpochBalance(iterations=3)
    expected = [whole(*pair, NOTHING) for pair in values]
    first = EpochBalance(iterations=3)
    for pair in values[:10]:
        first(*pair, NOTHING)
    second = EpochBalance(iterations=3)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert torch.equal(torch.stack([second(*pair, NOTHING) for pair in values[10:]]), torch.stack(expected[10:]))


def test_the_weight_of_an_epoch_is_not_changed_by_later_ones() -> None:
    balance = EpochBalance(iterations=1)
    first = balance(torch.tensor(1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64), NOTHING)
    assert first.item() == 50


def test_a_period_has_an_iteration() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        EpochBalance(iterations=0)


def test_a_balance_by_epochs_learns_their_length_from_the_training() -> None:
    """One that was made with a period of its own keeps it."""
    losses = RankSortLoss(tasks=Tasks(balancing=EpochBalance())), ALRPLoss(balancing=EpochBalance(iterations=3))
    set_epoch_length(nn.ModuleList(losses), 2)
    set_epoch_length(iter(losses), 1)
    balances = losses[0].tasks.balancing, losses[0].tasks.mask_balancing, losses[1].balancing
    for balance, period in zip(balances, (1, 1, 3), strict=True):
        found = [balance(torch.tensor(0.6), torch.tensor(0.2), NOTHING).item() for _ in range(4)]
        assert found == [50.0] * period + [4.0] * (4 - period)
    with pytest.raises(ValueError, match="an epoch must have an iteration, got 0"):
        set_epoch_length(losses, 0)


def test_a_balance_by_epochs_that_knows_no_period_names_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match=r"set_epoch_length\(loss, iterations\)"):
        EpochBalance()(torch.tensor(1.0), torch.tensor(1.0), NOTHING)


def test_losses_share_no_state_of_a_balance() -> None:
    """Neither with each other nor with the tasks that they were made of."""
    tasks = Tasks(balancing=EpochBalance(iterations=1))
    losses = [RankSortLoss(tasks=tasks), RankSortLoss(tasks=tasks)]
    assert losses[0].tasks.balancing(torch.tensor(0.6), torch.tensor(0.2), NOTHING).item() == 50
    weights = [part.balancing.weight.item() for part in (losses[0].tasks, losses[1].tasks, tasks)]
    assert weights == [pytest.approx(4), 50, 50]
    assert RankSortLoss().tasks is not RankSortLoss().tasks
