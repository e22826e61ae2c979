"""The score-based baselines: cross-entropy with a sigmoid or a softmax, focal and quality focal loss.

Legend: M candidates, C classes, P positives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import softplus

from rankdet.losses.auxiliary import Auxiliary
from rankdet.losses.balancing import Balancing, ConstantBalance
from rankdet.losses.box_losses import BoxLoss, GIoU
from rankdet.losses.candidates import Positives, find_positives, task_counts
from rankdet.losses.error_driven import Gradient, Upstream, identity_update
from rankdet.losses.hard_negatives import Chosen, HardNegatives
from rankdet.losses.labels import IoULabel, Label
from rankdet.losses.localization import DICE_EPSILON
from rankdet.losses.mask_losses import MaskCrossEntropy, MaskLoss
from rankdet.losses.normalizers import Normalizer, PositiveCount
from rankdet.losses.processes import Processes, with_value
from rankdet.losses.tasks import Tasks
from rankdet.losses.weighting import NoWeights, ScoreWeights, Weighting
from rankdet.structures import Candidates, LossOutput, is_class

CPU_CHUNK, GPU_CHUNK = 1 << 17, 1 << 22
"""Logits handled at a time: their temporaries stay in the cache of a CPU, and small beside the logits on a GPU."""


def focal_loss(
    logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0, *, rows: Tensor | None = None
) -> Tensor:
    r"""Focal loss, summed over all logits of all candidates that are not ignored.

    .. math:: FL = -\alpha (1 - \sigma(s))^\gamma \log \sigma(s) \;\text{(positive)}, \qquad
        FL = -(1 - \alpha)\, \sigma(s)^\gamma \log(1 - \sigma(s)) \;\text{(negative)}

    (T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5).

    Parameters
    ----------
    logits
        (M, C) raw scores; the arithmetic is done in float32 or better, a part of them at a time.
    labels
        (M,) int64: class 0 … C − 1, C background, −1 ignored.
    alpha
        Weight of positives; that of negatives is 1 − α.
    gamma
        Exponent, how much well-classified logits are played down.
    rows
        (P,) which candidates are positives, where that is known; else they are looked for, which waits for a GPU.

    Returns
    -------
    Tensor
        Scalar; its gradient is the derivative. No target of the size of the logits is built.

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
    r"""Quality focal loss, summed over all logits of all candidates that are not ignored.

    .. math:: QFL = -|y - \sigma|^\beta \left( (1 - y) \log(1 - \sigma) + y \log \sigma \right)

    with the localization quality y of a positive for the class of its object, and 0 for all other logits (X. Li et al.,
    "Generalized Focal Loss", NeurIPS 2020, equation 5).

    Parameters
    ----------
    logits, labels, rows
        As in :func:`focal_loss`.
    quality
        (P,) in [0, 1] of the positives, in the order in which they stand in ``labels``; receives no gradient.
    beta
        Exponent.

    Returns
    -------
    Tensor
        Scalar; its gradient is the derivative.

    Examples
    --------
    A positive of quality 1/2 at σ = 1/2 has no loss, a negative there ln 2 / 4:

    >>> quality_focal_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.5]))
    tensor(0.1733)
    """
    quality = quality.detach()

    def of_positives(logits: Tensor) -> Tensor:
        if quality.shape != logits.shape:
            raise ValueError(f"{len(logits)} positives among the labels but quality of shape {tuple(quality.shape)}")
        target = quality.to(logits.dtype)
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (target - logits.sigmoid()).abs().pow(beta) * cross_entropy

    return _focal_sum(logits, labels, rows, beta, 1.0, of_positives)


def _focal_sum(
    logits: Tensor,
    labels: Tensor,
    rows: Tensor | None,
    exponent: float,
    factor: float,
    of_positives: Callable[[Tensor], Tensor],
) -> Tensor:
    """Σ factor · σ^exponent · softplus over negative logits, plus the sum of what ``of_positives`` says of the others.

    Both focal losses see a negative alike, and nearly all logits are negatives: their derivative is written out, and
    none of its intermediates is kept. That of the few positives is left to automatic differentiation.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (M, C) and (M,)")
    if rows is None:
        rows = is_class(labels, logits.shape[1]).nonzero().squeeze(1)
    # Where a head hands a wrong number of positives, rows may be others, and nothing may reach out of the logits.
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
            scale = upstream[0] if upstream[0] is not None else logits.new_zeros(())
            result = torch.empty_like(logits, memory_format=torch.contiguous_format)
            for part, values in _negatives(logits, labels, dtype):
                # d(p^γ softplus)/ds = p^γ (γ (1 − p) softplus + p)
                scores = values.sigmoid()
                slope = softplus(values).mul_(1 - scores).mul_(exponent).add_(scores)
                result[part] = slope.mul_(scores.pow_(exponent)).mul_(factor * scale)
            result[index] = (slopes * scale).to(result.dtype)
            return result

        return (total.to(dtype),), gradient

    (loss,) = identity_update(logits, evaluate)
    return loss


def _negatives(logits: Tensor, labels: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the rows with a copy of each, in which all but negatives are −∞, where a focal loss is 0."""
    num_classes = logits.shape[1]
    classes = torch.arange(num_classes, device=logits.device)
    size = max(1, (GPU_CHUNK if logits.is_cuda else CPU_CHUNK) // max(1, num_classes))
    for start in range(0, len(logits), size):
        part = slice(start, start + size)
        own = labels[part, None]
        yield part, logits[part].to(dtype).masked_fill((own == classes) | (own < 0), -torch.inf)


class FocalLoss(nn.Module):
    r"""Focal loss and the losses of a dense detector beside it, as in RetinaNet, ATSS and PAA.

    .. math:: L = \frac{FL}{\max(N, 1)} + \lambda \frac{\sum_i w_i \ell_i}{\sum_i w_i} + \text{auxiliary heads}

    Parameters
    ----------
    alpha, gamma
        See :func:`focal_loss`.
    box_loss
        ℓ; None is 2 (1 − GIoU).
    weighting
        w; None weighs all positives the same.
    balancing, mask_balancing
        λ of boxes and masks; None is 1.
    auxiliary
        Auxiliary heads, as centerness in ATSS.
    normalizer
        N; None is |P|, the number of positives.
    dice_epsilon
        See :func:`dice_coefficient`.
    processes
        Normalizes by the values of all processes, as the published ATSS does; None by those of the own process.

    Notes
    -----
    Terms: ``classification`` and those of :class:`rankdet.losses.Tasks`. Rows of the paper's table 2: ATSS weighs by
    centerness and has ``CenternessCrossEntropy()`` and ``CountPerImage()``; PAA has ``GIoU(1.3)``, weighs by IoU and
    has ``IoUCrossEntropy()`` and ``CountOrImages()``; without auxiliary heads the boxes are not weighted. SOLOv2 has
    masks alone, with the factor 3, and adds a positive: ``PositiveCount(1)``.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        *,
        box_loss: BoxLoss | None = None,
        weighting: Weighting | None = None,
        balancing: Balancing | None = None,
        mask_balancing: Balancing | None = None,
        auxiliary: Sequence[Auxiliary] = (),
        normalizer: Normalizer | None = None,
        dice_epsilon: float = DICE_EPSILON,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.normalizer = normalizer or PositiveCount()
        self.processes = processes or Processes()
        self.tasks = Tasks(
            box_loss=box_loss or GIoU(2.0),
            weighting=weighting or NoWeights(),
            balancing=balancing or ConstantBalance(),
            mask_balancing=mask_balancing,
            auxiliary=auxiliary,
            dice_epsilon=dice_epsilon,
            processes=self.processes,
        )

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        _check_sigmoid(candidates)
        positives = self.tasks.find_positives(candidates)
        total = focal_loss(candidates.logits, candidates.labels, self.alpha, self.gamma, rows=positives.rows)
        classification = _over(total, self.normalizer(candidates, len(positives.rows)), self.processes)
        tasks = self.tasks(candidates, positives, classification)
        return LossOutput({"classification": classification, **tasks.terms}, tasks.stats)


class QualityFocalLoss(nn.Module):
    r"""Quality focal loss and a box loss beside it: scores learn the IoU of the predicted box.

    .. math:: L = \frac{QFL}{\max(N, 1)} + \lambda \frac{\sum_i w_i \ell_i}{\sum_i w_i}

    Parameters
    ----------
    beta
        See :func:`quality_focal_loss`.
    box_loss
        ℓ; None is 2 (1 − GIoU).
    weighting
        w; None is the best score.
    balancing, mask_balancing
        λ of boxes and masks; None is 1.
    label
        What the scores learn; None is the IoU of the predicted box.
    auxiliary, normalizer, processes
        As in :class:`FocalLoss`.

    Notes
    -----
    Terms: ``classification`` and those of :class:`rankdet.losses.Tasks`. Rows of the paper's table 2: the defaults, and
    for PAA also ``GIoU(1.3)`` weighted by IoU.
    """

    def __init__(
        self,
        beta: float = 2.0,
        *,
        box_loss: BoxLoss | None = None,
        weighting: Weighting | None = None,
        balancing: Balancing | None = None,
        mask_balancing: Balancing | None = None,
        label: Label | None = None,
        auxiliary: Sequence[Auxiliary] = (),
        normalizer: Normalizer | None = None,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.beta = beta
        self.normalizer = normalizer or PositiveCount()
        self.label = label or IoULabel()
        self.processes = processes or Processes()
        self.tasks = Tasks(
            box_loss=box_loss or GIoU(2.0),
            weighting=weighting or ScoreWeights(),
            balancing=balancing or ConstantBalance(),
            mask_balancing=mask_balancing,
            auxiliary=auxiliary,
            processes=self.processes,
        )

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError where it does not hand what the label needs."""
        _check_sigmoid(candidates)
        positives = self.tasks.find_positives(candidates)
        quality = self.label(candidates, positives)
        total = quality_focal_loss(candidates.logits, candidates.labels, quality, self.beta, rows=positives.rows)
        classification = _over(total, self.normalizer(candidates, len(positives.rows)), self.processes)
        tasks = self.tasks(candidates, positives, classification)
        return LossOutput({"classification": classification, **tasks.terms}, tasks.stats)


def _check_sigmoid(candidates: Candidates) -> None:
    if candidates.logits.shape[1] != candidates.num_classes:
        raise ValueError(f"head {candidates.head!r} classifies by softmax: its logits have a background column")


def _over(total: Tensor, count: Tensor, processes: Processes) -> Tensor:
    """A sum over a count of positives, of all processes; the count is at least 1 per process."""
    whole, mean_count = processes.mean(torch.stack([total.detach(), count.to(total.dtype)]))
    return with_value(total, whole) / mean_count.clamp(min=1)


class SigmoidCrossEntropyLoss(nn.Module):
    """Binary cross-entropy of each logit, and a box loss; both divided by the number of candidates that take part.

    The standard RPN with C = 1: its sampler marks whatever it did not draw as ignored.

    Parameters
    ----------
    box_loss
        Box loss per positive.
    mask_loss
        Loss per mask; None is the cross-entropy.

    Notes
    -----
    Terms: ``classification``; ``localization``, unless a head hands masks alone; and ``mask``, the mean over the masks,
    where it hands masks. Statistics: ``positives``, ``background``, ``negatives``. With no candidate that takes part,
    all terms are zeros connected to all outputs.
    """

    def __init__(self, box_loss: BoxLoss, mask_loss: MaskLoss | None = None) -> None:
        super().__init__()
        self.box_loss = box_loss
        self.mask_loss = mask_loss or MaskCrossEntropy()

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        _check_sigmoid(candidates)
        positives = find_positives(candidates)
        rows = positives.rows
        targets = torch.zeros_like(candidates.logits, dtype=torch.float32)
        targets[rows, candidates.labels[rows]] = 1
        used = candidates.labels >= 0
        loss = functional.binary_cross_entropy_with_logits(_used_logits(candidates), targets, reduction="none")
        classification = loss.sum(dim=1).where(used, 0)
        return _output(candidates, positives, classification, _all_used(candidates), self.box_loss, self.mask_loss)


class SoftmaxCrossEntropyLoss(nn.Module):
    """Cross-entropy over C classes and background, and a box loss; both divided by the number of candidates used.

    The standard R-CNN head, over its sampled RoIs, or that of YOLACT, over all anchors or the hard ones among them.
    ``candidates.logits`` is (M, C + 1) with the background last.

    Parameters
    ----------
    box_loss
        Box loss per positive.
    mask_loss
        Loss per mask; None is the cross-entropy, as in Mask R-CNN.
    hard_negatives
        Which negatives the classification learns from; classification and boxes are then divided by the number of
        positives, of which an image without any counts as one. None: all candidates that are not ignored.
    auxiliary
        Auxiliary heads, as the semantic maps of YOLACT.

    Raises
    ------
    ValueError
        When the logits have no background column.

    Notes
    -----
    Terms and statistics are those of :class:`SigmoidCrossEntropyLoss`, and one term by the name of each auxiliary head.
    """

    def __init__(
        self,
        box_loss: BoxLoss,
        mask_loss: MaskLoss | None = None,
        *,
        hard_negatives: HardNegatives | None = None,
        auxiliary: Sequence[Auxiliary] = (),
    ) -> None:
        super().__init__()
        self.box_loss = box_loss
        self.mask_loss = mask_loss or MaskCrossEntropy()
        self.hard_negatives = hard_negatives
        self.auxiliary = tuple(auxiliary)

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        if candidates.logits.shape[1] != candidates.num_classes + 1:
            raise ValueError(f"head {candidates.head!r} classifies by sigmoid: its logits have no background column")
        positives = find_positives(candidates)
        loss = functional.cross_entropy(_used_logits(candidates), candidates.labels, ignore_index=-1, reduction="none")
        chosen = _all_used(candidates) if self.hard_negatives is None else self.hard_negatives(candidates, loss)
        output = _output(candidates, positives, loss.where(chosen.candidates, 0), chosen, self.box_loss, self.mask_loss)
        for head in self.auxiliary:
            values = head(candidates, positives)
            output.terms[head.name] = values.sum() / head.normalizer(candidates, len(values)).clamp(min=1)
        return output


def _used_logits(candidates: Candidates) -> Tensor:
    """The logits in float32, zeros where ignored: a NaN there would come back as 0 · NaN in the gradient."""
    return candidates.logits.float().masked_fill((candidates.labels < 0)[:, None], 0)


def _all_used(candidates: Candidates) -> Chosen:
    """All candidates that are not ignored."""
    is_used = candidates.labels >= 0
    return Chosen(is_used, is_used.sum().clamp(min=1))


def _output(
    candidates: Candidates,
    positives: Positives,
    classification: Tensor,
    chosen: Chosen,
    box_loss: BoxLoss,
    mask_loss: MaskLoss,
) -> LossOutput:
    """Classification and boxes over the count of what is chosen; the mean over the masks."""
    terms = {"classification": classification.sum() / chosen.divisor}
    # A box loss says by itself what it misses, but a head of masks has no boxes to miss.
    if candidates.boxes is not None or candidates.deltas is not None or candidates.masks is None:
        terms["localization"] = box_loss(candidates, positives).sum() / chosen.divisor
    if candidates.masks is not None:
        masks = mask_loss(candidates, positives)
        terms["mask"] = masks.sum() / max(1, len(masks))
    return LossOutput(terms, task_counts(candidates, len(positives.rows), chosen.candidates))
