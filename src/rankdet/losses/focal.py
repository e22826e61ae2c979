"""Focal, quality focal and varifocal loss, the score-based baselines of dense detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import softplus

from rankdet.losses.balancing import ConstantBalance
from rankdet.losses.box_losses import GIoULoss
from rankdet.losses.candidates import Positives, check_sigmoid
from rankdet.losses.gradients import Gradient, Upstream, with_gradient
from rankdet.losses.normalizers import Normalizer, PositiveCount
from rankdet.losses.processes import Processes, Sync, with_value
from rankdet.losses.quality import IoUQuality, Quality
from rankdet.losses.tasks import Tasks
from rankdet.losses.weighting import IoUWeights, NoWeights, ScoreWeights
from rankdet.ranges import Fraction, NonNegative, Positive, checked
from rankdet.structures import Candidates, LossOutput, is_class

CPU_CHUNK, GPU_CHUNK = 1 << 17, 1 << 22
"""Logits handled at a time: their temporaries stay in the cache of a CPU, and small beside the logits on a GPU."""


def focal_loss(
    logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0, *, rows: Tensor | None = None
) -> Tensor:
    r"""Focal loss, summed over all logits of all candidates that are not ignored; a scalar.

    .. math:: FL = -\alpha (1 - \sigma(s))^\gamma \log \sigma(s) \;\text{(positive)}, \qquad
        FL = -(1 - \alpha)\, \sigma(s)^\gamma \log(1 - \sigma(s)) \;\text{(negative)}

    (T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5). The gradient is the derivative.
    No target of the size of the logits is built.

    Parameters
    ----------
    logits
        (M, C) raw scores; the arithmetic is done in float32 or better, a part of them at a time.
    labels
        (M,) int64: class 0 … C − 1, C background, −1 ignored.
    alpha
        Weight of positives; that of negatives is 1 − α.
    gamma
        Exponent: how much well-classified logits are played down.
    rows
        (P,) which candidates are positives; None looks for them, which waits for a GPU.

    Examples
    --------
    One positive and one negative at σ = 1/2: (α + 1 − α) · ln 2 / 4.

    >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.1733)
    """

    def of_positives(logits: Tensor) -> Tensor:
        return alpha * (-logits).sigmoid().pow(gamma) * softplus(-logits)

    return _focal_sum(logits, labels, rows, gamma, 1 - alpha, of_positives)


def quality_focal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, beta: float = 2.0, *, rows: Tensor | None = None
) -> Tensor:
    r"""Quality focal loss, summed over all logits of all candidates that are not ignored; a scalar.

    .. math:: QFL = -|y - \sigma|^\beta \left( (1 - y) \log(1 - \sigma) + y \log \sigma \right)

    with the localization quality y of a positive for the class of its object, and 0 for all other logits (X. Li et al.,
    "Generalized Focal Loss", NeurIPS 2020, equation 5). The gradient is the derivative.

    Parameters
    ----------
    logits, labels, rows
        As in :func:`focal_loss`.
    quality
        (P,) in [0, 1] of the positives, in their order in ``labels``; receives no gradient.
    beta
        Exponent.

    Examples
    --------
    A positive of quality 1/2 at σ = 1/2 has no loss, a negative there ln 2 / 4:

    >>> quality_focal_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.5]))
    tensor(0.1733)
    """

    def of_positives(logits: Tensor) -> Tensor:
        target = _targets(quality, logits)
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (target - logits.sigmoid()).abs().pow(beta) * cross_entropy

    return _focal_sum(logits, labels, rows, beta, 1.0, of_positives)


def varifocal_loss(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    alpha: float = 0.75,
    gamma: float = 2.0,
    *,
    iou_weighted: bool = True,
    constant_weights: bool = False,
    rows: Tensor | None = None,
) -> Tensor:
    r"""Varifocal loss, summed over all logits of all candidates that are not ignored; a scalar.

    .. math:: VFL = -q \left( q \log \sigma + (1 - q) \log(1 - \sigma) \right) \;(q > 0), \qquad
        VFL = -\alpha\, \sigma^\gamma \log(1 - \sigma) \;(q = 0)

    with the localization quality q of a positive for the class of its object, and 0 for all other logits (H. Zhang et
    al., "VarifocalNet: An IoU-aware Dense Object Detector", CVPR 2021, arXiv:2008.13367, equation 2). Only negatives
    are played down where they are classified well. The gradient is the derivative.

    Parameters
    ----------
    logits, labels, quality, rows
        As in :func:`quality_focal_loss`. A positive of quality 0 is a negative.
    alpha
        Weight of negatives.
    gamma
        Exponent of negatives.
    iou_weighted
        False: without the factor q before the parenthesis, so that all positives count alike.
    constant_weights
        True: the gradient takes the factor σ^γ of negatives for a constant, as in the published code of RT-DETR. Where
        scores are low, it is a third of the derivative then.

    Examples
    --------
    At σ = 1/2, a positive of quality 1/2 costs ln 2 / 2, and a negative 3 ln 2 / 16:

    >>> varifocal_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.5]))
    tensor(0.4765)
    """

    def of_positives(logits: Tensor) -> Tensor:
        target = _targets(quality, logits)
        weight = target if iou_weighted else torch.ones_like(target)
        of_negatives = alpha * (logits.detach() if constant_weights else logits).sigmoid().pow(gamma)
        weight = torch.where(target > 0, weight, of_negatives)
        return weight * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")

    return _focal_sum(logits, labels, rows, gamma, alpha, of_positives, constant_weights)


def _targets(quality: Tensor, logits: Tensor) -> Tensor:
    """The qualities of positives as targets of their logits."""
    if quality.shape != logits.shape:
        raise ValueError(f"{len(logits)} positives among the labels but quality of shape {tuple(quality.shape)}")
    return quality.detach().to(logits.dtype)


def _focal_sum(
    logits: Tensor,
    labels: Tensor,
    rows: Tensor | None,
    exponent: float,
    factor: float,
    of_positives: Callable[[Tensor], Tensor],
    constant_weights: bool = False,
) -> Tensor:
    """The sum Σ factor · σ^exponent · softplus over negative logits, and of ``of_positives`` over those of positives.

    All focal losses treat negatives alike, and nearly all logits are negatives: their derivative is written out, and
    no intermediate result is kept. With ``constant_weights`` it is that of softplus alone. The derivative of the few
    positives is left to automatic differentiation.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (M, C) and (M,)")
    if rows is None:
        rows = is_class(labels, logits.shape[1]).nonzero().squeeze(1)
    # Where a head passes a wrong number of positives, rows may be others; no index may leave the logits.
    index = (rows, labels[rows].clamp(0, logits.shape[1] - 1))

    def evaluate(logits: Tensor) -> tuple[tuple[Tensor], Gradient]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        with torch.enable_grad():
            positives = logits[index].to(dtype).requires_grad_()
            of_positive = of_positives(positives).sum(dtype=torch.float64)
            (slopes,) = torch.autograd.grad(of_positive, positives)
        total = of_positive.detach()
        for _, values in _negatives(logits, labels, dtype):
            total += factor * values.sigmoid().pow_(exponent).mul_(softplus(values)).sum(dtype=torch.float64)

        def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
            result = torch.empty_like(logits, memory_format=torch.contiguous_format)
            for part, values in _negatives(logits, labels, dtype):
                # d(p^γ softplus)/ds = p^γ (γ (1 − p) softplus + p)
                scores = values.sigmoid()
                if constant_weights:
                    slope = scores.clone()
                else:
                    slope = softplus(values).mul_(1 - scores).mul_(exponent).add_(scores)
                result[part] = slope.mul_(scores.pow_(exponent)).mul_(factor * upstream[0])
            result[index] = (slopes * upstream[0]).to(result.dtype)
            return result

        return (total.to(dtype),), gradient

    (loss,) = with_gradient(logits, evaluate)
    return loss


def _negatives(logits: Tensor, labels: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the rows, with a copy of each in which all but negatives are −∞, where a focal loss is 0."""
    num_classes = logits.shape[1]
    classes = torch.arange(num_classes, device=logits.device)
    size = max(1, (GPU_CHUNK if logits.is_cuda else CPU_CHUNK) // max(1, num_classes))
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        own = labels[part, None]
        yield part, logits[part].to(dtype).masked_fill((own == classes) | (own < 0), -torch.inf)


@checked
class FocalLoss(nn.Module):
    r"""Focal loss and the losses of a dense detector beside it, as in RetinaNet, ATSS and PAA.

    .. math:: L = \frac{FL}{\max(N, 1)} + \lambda \frac{\sum_i w_i \ell_i}{\sum_i w_i} + \text{auxiliary heads}

    Parameters
    ----------
    alpha
        Weight of positives; that of negatives is 1 − alpha.
    gamma
        Exponent: how much well-classified logits are played down.
    normalizer
        N, which divides the classification.
    tasks
        What the head learns beside its classification. The loss keeps a copy.
    sync
        Whether the sums are divided by the positives of all processes, as in the published ATSS, instead of the own.

    Notes
    -----
    Terms: ``classification`` and those of :class:`Tasks`. Rows of the paper's table 2: ATSS weighs by centerness and
    has ``CenternessCrossEntropyLoss()`` and ``CountPerImage()``. PAA has ``GIoULoss(1.3)``, weighs by IoU and has
    ``IoUCrossEntropyLoss()`` and ``CountOrImages()``. Without auxiliary heads the boxes are not weighted. SOLOv2 has
    masks alone, with the factor 3, and adds a positive: ``PositiveCount(1)``.
    """

    def __init__(
        self,
        alpha: Fraction = 0.25,
        gamma: NonNegative = 2.0,
        *,
        normalizer: Normalizer = PositiveCount(),
        tasks: Tasks = Tasks(box_loss=GIoULoss(2.0), weighting=NoWeights(), balancing=ConstantBalance()),
        sync: Sync = False,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.normalizer = normalizer
        self.tasks = deepcopy(tasks)  # a balance has a state, which no two losses may share
        self.sync = sync

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        check_sigmoid(candidates)
        positives = self.tasks.find_positives(candidates)
        total = focal_loss(candidates.logits, candidates.labels, self.alpha, self.gamma, rows=positives.rows)
        return _output(self, candidates, positives, total)


@checked
class QualityFocalLoss(nn.Module):
    r"""Quality focal loss, whose scores learn the localization quality, and the losses of a dense detector beside it.

    .. math:: L = \frac{QFL}{\max(N, 1)} + \lambda \frac{\sum_i w_i \ell_i}{\sum_i w_i} + \text{auxiliary heads}

    Parameters
    ----------
    beta
        Exponent: how much well-predicted qualities are played down.
    quality
        What the scores of positives learn.
    normalizer
        N, which divides the classification.
    tasks
        What the head learns beside its classification. The loss keeps a copy.
    sync
        Whether the sums are divided by the positives of all processes instead of the own.

    Notes
    -----
    Terms: ``classification`` and those of :class:`Tasks`. Rows of the paper's table 2: the defaults, and for PAA also
    ``GIoULoss(1.3)`` weighted by IoU.
    """

    def __init__(
        self,
        beta: Positive = 2.0,
        *,
        quality: Quality = IoUQuality(),
        normalizer: Normalizer = PositiveCount(),
        tasks: Tasks = Tasks(box_loss=GIoULoss(2.0), weighting=ScoreWeights(), balancing=ConstantBalance()),
        sync: Sync = False,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.quality = quality
        self.normalizer = normalizer
        self.tasks = deepcopy(tasks)  # a balance has a state, which no two losses may share
        self.sync = sync

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError where it does not pass what the quality needs."""
        check_sigmoid(candidates)
        positives = self.tasks.find_positives(candidates)
        quality = self.quality(candidates, positives)
        total = quality_focal_loss(candidates.logits, candidates.labels, quality, self.beta, rows=positives.rows)
        return _output(self, candidates, positives, total)


@checked
class VarifocalLoss(nn.Module):
    r"""Varifocal loss, whose scores learn the localization quality, and the losses of a dense detector beside it.

    .. math:: L = \frac{VFL}{\max(N, 1)} + \lambda \frac{\sum_i w_i \ell_i}{\sum_i w_i} + \text{auxiliary heads}

    Parameters
    ----------
    alpha
        Weight of negatives.
    gamma
        Exponent: how much well-classified negatives are played down.
    iou_weighted
        Whether a positive counts as much as its quality.
    constant_weights
        Whether the gradient takes the factor of negatives for a constant, as in RT-DETR; see :func:`varifocal_loss`.
    quality
        What the scores of positives learn.
    normalizer
        N, which divides the classification.
    tasks
        What the head learns beside its classification. The loss keeps a copy.
    sync
        Whether the sums are divided by the positives of all processes, as in the published VFNet, instead of the own.

    Notes
    -----
    Terms: ``classification`` and those of :class:`Tasks`. The defaults are those of VFNet, which weighs boxes by IoU,
    and refines them by a head that no detector of this package has.
    """

    def __init__(
        self,
        alpha: NonNegative = 0.75,
        gamma: NonNegative = 2.0,
        *,
        iou_weighted: bool = True,
        constant_weights: bool = False,
        quality: Quality = IoUQuality(),
        normalizer: Normalizer = PositiveCount(),
        tasks: Tasks = Tasks(box_loss=GIoULoss(2.0), weighting=IoUWeights(), balancing=ConstantBalance()),
        sync: Sync = False,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.iou_weighted = iou_weighted
        self.constant_weights = constant_weights
        self.quality = quality
        self.normalizer = normalizer
        self.tasks = deepcopy(tasks)  # a balance has a state, which no two losses may share
        self.sync = sync

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError where it does not pass what the quality needs."""
        check_sigmoid(candidates)
        positives = self.tasks.find_positives(candidates)
        quality = self.quality(candidates, positives)
        total = varifocal_loss(
            candidates.logits,
            candidates.labels,
            quality,
            self.alpha,
            self.gamma,
            iou_weighted=self.iou_weighted,
            constant_weights=self.constant_weights,
            rows=positives.rows,
        )
        return _output(self, candidates, positives, total)


def _output(
    loss: FocalLoss | QualityFocalLoss | VarifocalLoss, candidates: Candidates, positives: Positives, total: Tensor
) -> LossOutput:
    """The sum of a focal loss over a count of positives, at least 1 per process, and the tasks beside it."""
    processes, count = Processes(loss.sync), loss.normalizer(candidates, len(positives.rows))
    whole, mean_count = processes.mean(torch.stack([total.detach(), count.to(total.dtype)]))
    classification = with_value(total, whole) / mean_count.clamp(min=1)
    tasks = loss.tasks(candidates, positives, classification, processes=processes)
    return LossOutput({"classification": classification, **tasks.terms}, tasks.stats)
