"""Task balancing: how much a localization loss counts beside the classification loss of its head.

A balancing is any callable that takes the value of the classification, the value of the task, the candidates, and the
processes that share these values. It returns the task's weight λ, a detached scalar, the same on each process. It
waits for no device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rankdet.losses.processes import Processes
from rankdet.ranges import Count, NonNegative, checked
from rankdet.structures import Candidates


@checked
class ConstantBalance(nn.Module):
    """A constant weight.

    Parameters
    ----------
    weight
        λ, the factor of the task.
    """

    def __init__(self, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, classification: Tensor, task: Tensor, candidates: Candidates, processes: Processes = Processes()
    ) -> Tensor:
        """Return the scalar λ by which the loss of the task is multiplied."""
        return torch.full_like(task.detach(), self.weight)


@checked
class ValueBalance(nn.Module):
    r"""The weight at which the task has the value of the classification, in each iteration: :func:`value_balance`.

    .. math:: \lambda_t = \max(L_{RS}, f) / L_t

    Parameters
    ----------
    floor
        f, the least value that a task gets. 0 is the published form, whose tasks fall with the ranking error. With a
        floor of 1 tasks keep the value of a ranking that is all wrong: they descend :math:`\log L_t`, whatever the
        classification has learned. It is for comparison; with clipped gradients it gained nothing.
    """

    def __init__(self, floor: NonNegative = 0.0) -> None:
        super().__init__()
        self.floor = floor

    def forward(
        self, classification: Tensor, task: Tensor, candidates: Candidates, processes: Processes = Processes()
    ) -> Tensor:
        """Return the scalar λ by which the loss of the task is multiplied."""
        return value_balance(classification.detach().clamp(min=self.floor), task)


class MaximumBalance(nn.Module):
    r"""The weight at which the task has the largest value that the classification has had so far.

    .. math:: \lambda_t^{(k)} = \max_{i \le k} L_{RS}^{(i)} / L_t^{(k)}

    Notes
    -----
    The maximum is in a buffer, so a ``state_dict`` resumes it bit for bit. An evaluation changes nothing.
    """

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros((), dtype=torch.float64))

    def forward(
        self, classification: Tensor, task: Tensor, candidates: Candidates, processes: Processes = Processes()
    ) -> Tensor:
        """Return the scalar λ by which the loss of the task is multiplied."""
        largest = torch.maximum(self.largest, classification.detach().to(self.largest))
        if torch.is_grad_enabled():
            self.largest.copy_(largest)
        return value_balance(largest.to(task.dtype), task)


class MagnitudeBalance(nn.Module):
    r"""The weight at which the gradient of the task is as large as that of the classification, in each iteration.

    .. math:: \lambda_t = \frac{\lVert \partial L_{RS} / \partial s \rVert_1}{\lVert \partial L_t / \partial b \rVert_1}

    (table A.11 of the paper, which leaves b open). Here s are the logits, and b the outputs that the task depends on,
    the first of these: the encoded boxes (``Candidates.deltas``, what the regressor puts out), the decoded boxes, the
    mask logits. An L1 norm depends on the unit of b; decoded boxes are in pixels.

    Notes
    -----
    Costs a backward pass of both losses, up to the outputs of the head. Where no gradients are recorded (an evaluation)
    the weight is 0, as where the task has none. The norms are those of the gradients on all processes together.
    """

    def forward(
        self, classification: Tensor, task: Tensor, candidates: Candidates, processes: Processes = Processes()
    ) -> Tensor:
        """Return the scalar λ by which the loss of the task is multiplied."""
        pairs = (candidates.deltas, candidates.boxes, candidates.masks)
        norms = (
            _norm(classification, [candidates.logits]),
            _norm(task, [pair.predicted for pair in pairs if pair is not None]),
        )
        # Each process holds its part of a gradient times their number.
        return value_balance(*processes.mean(torch.stack(norms)).unbind())


@checked
class EpochBalance(nn.Module):
    r"""The weight at which the task would have had the value of the total of the last period (aLRP Loss).

    .. math:: \lambda \leftarrow \frac{\overline{L_t} + \overline{L_{cls}}}{\overline{L_t}}

    with means over a period of ``iterations`` (K. Oksuz et al., "A Ranking-based, Balanced Loss Function Unifying
    Classification and Localisation in Object Detection", NeurIPS 2020, arXiv:2009.13592). The means of a period give
    the weight of the next; that of the first is ``start``.

    Parameters
    ----------
    start
        λ of the first period.
    iterations
        Length of a period in calls; None: an epoch of the training, of which :func:`set_epoch_length` informs the loss.
        The authors' code has an epoch (7330 on COCO with 16 images per iteration).

    Raises
    ------
    RuntimeError
        When it is called and its period is unknown.

    Notes
    -----
    The state is in buffers, so a ``state_dict`` resumes it bit for bit. Each process and each task has its own. Calls
    count where gradients are recorded: an evaluation changes nothing. Where a period has no task the weight stays.

    Examples
    --------
    >>> balance = EpochBalance(iterations=2)
    >>> candidates = Candidates("dense", torch.zeros(0, 1), torch.zeros(0), 1)
    >>> [balance(torch.tensor(0.6), torch.tensor(0.2), candidates).item() for _ in range(3)]
    [50.0, 50.0, 4.0]
    """

    weight: Tensor
    classification_sum: Tensor
    task_sum: Tensor
    count: Tensor

    def __init__(self, start: NonNegative = 50.0, iterations: Count | None = None) -> None:
        super().__init__()
        self.iterations = iterations
        self.epoch: int | None = None
        # In float64: an epoch adds up thousands of values.
        self.register_buffer("weight", torch.tensor(start, dtype=torch.float64))
        self.register_buffer("classification_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("task_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(
        self, classification: Tensor, task: Tensor, candidates: Candidates, processes: Processes = Processes()
    ) -> Tensor:
        """Return the scalar λ by which the loss of the task is multiplied."""
        period = self.iterations or self.epoch
        if period is None:
            raise RuntimeError(
                "EpochBalance does not know the length of its period: pass iterations, "
                "or call rankdet.losses.set_epoch_length(loss, iterations) before the training"
            )
        weight = self.weight.to(task.dtype, copy=True)
        if torch.is_grad_enabled():
            self._add(classification.detach(), task.detach(), period)
        return weight

    @torch.no_grad()
    def _add(self, classification: Tensor, task: Tensor, period: int) -> None:
        """Add an iteration to the sums; at the end of a period, set the weight and empty the sums."""
        self.count += 1
        self.classification_sum += classification
        self.task_sum += task
        is_over = self.count >= period
        weight = (self.task_sum + self.classification_sum) / self.task_sum
        self.weight.copy_(torch.where(is_over & weight.isfinite() & (self.task_sum > 0), weight, self.weight))
        for total in (self.count, self.classification_sum, self.task_sum):
            total.masked_fill_(is_over, 0)


Balancing = ConstantBalance | ValueBalance | MaximumBalance | MagnitudeBalance | EpochBalance


def set_epoch_length(losses: nn.Module | Iterable[nn.Module], iterations: int) -> None:
    """Set the period of every :class:`EpochBalance` inside of these losses to an epoch of so many calls.

    A balance that was made with ``iterations`` of its own keeps them.

    Raises
    ------
    ValueError
        When an epoch has no iteration.

    Examples
    --------
    >>> balance = EpochBalance()
    >>> set_epoch_length(balance, iterations=2)
    >>> candidates = Candidates("dense", torch.zeros(0, 1), torch.zeros(0), 1)
    >>> [balance(torch.tensor(0.6), torch.tensor(0.2), candidates).item() for _ in range(3)]
    [50.0, 50.0, 4.0]
    """
    if iterations < 1:
        raise ValueError(f"an epoch must have an iteration, got {iterations}")
    for loss in [losses] if isinstance(losses, nn.Module) else losses:
        for module in loss.modules():
            if isinstance(module, EpochBalance):
                module.epoch = iterations


def value_balance(classification: Tensor, task: Tensor) -> Tensor:
    r"""Weight at which a task has the value of the classification, detached.

    .. math:: \lambda_t = L_{RS} / L_t \qquad (section 5.1 of the paper)

    The task's gradient becomes :math:`L_{RS} \nabla \log L_t`: its direction is kept, and its size is that of the
    ranking error. Nothing is tuned or averaged over iterations.

    Both are scalars: the sum of all classification terms of the head, and the task's loss, weighted and normalized. λ
    is 0 where the task's loss is 0 or not finite (the authors' code divides by zero there).

    Examples
    --------
    >>> import torch
    >>> value_balance(torch.tensor(0.6), torch.tensor(0.2)), value_balance(torch.tensor(0.6), torch.tensor(0.0))
    (tensor(3.), tensor(0.))
    """
    classification, task = classification.detach(), task.detach()
    usable = task.isfinite() & (task > 0)
    return (classification / task.where(usable, 1.0)).where(usable, 0.0)


def _norm(loss: Tensor, outputs: list[Tensor]) -> Tensor:
    """L1 norm of the gradient of a loss in the first of ``outputs`` that it depends on; 0 without any."""
    tracked = [output for output in outputs if output.requires_grad]
    if loss.requires_grad and tracked:
        gradients = torch.autograd.grad(loss, tracked, retain_graph=True, allow_unused=True)
        for gradient in gradients:
            if gradient is not None:
                return gradient.abs().sum(dtype=torch.promote_types(gradient.dtype, torch.float32))
    return torch.zeros_like(loss.detach())
