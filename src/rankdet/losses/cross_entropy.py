"""Cross-entropy with a sigmoid or a softmax, the score-based baselines of RPN, R-CNN and YOLACT.

Equalization Loss v2 is the first with weights, for classes of which there are few objects.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankdet.losses.auxiliary import Auxiliary
from rankdet.losses.box_losses import BoxLoss
from rankdet.losses.candidates import Positives, check_sigmoid, find_positives, task_counts
from rankdet.losses.hard_negatives import Chosen, HardNegatives
from rankdet.losses.mask_losses import MaskCrossEntropyLoss, MaskLoss
from rankdet.losses.processes import Processes, Sync
from rankdet.ranges import Count, NonNegative, Positive, checked
from rankdet.structures import Candidates, LossOutput


class SigmoidCrossEntropyLoss(nn.Module):
    """Binary cross-entropy of each logit and a box loss, both divided by the number of candidates that take part.

    This is the loss of the standard RPN with C = 1, whose sampler marks what it did not draw as ignored.

    Parameters
    ----------
    box_loss
        The loss of the boxes of positives.
    mask_loss
        The loss of the masks of positives, where the head passes masks.

    Notes
    -----
    Terms: ``classification``; ``localization``, unless a head passes masks alone; and ``mask``, the mean over the
    masks, where it passes masks. Statistics: ``positives``, ``background``, ``negatives``. With no candidate that takes
    part, all terms are zeros connected to all outputs.
    """

    def __init__(self, box_loss: BoxLoss, mask_loss: MaskLoss = MaskCrossEntropyLoss()) -> None:
        super().__init__()
        self.box_loss = box_loss
        self.mask_loss = mask_loss

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        check_sigmoid(candidates)
        positives, chosen = find_positives(candidates), _all_used(candidates)
        targets = _targets(candidates, positives)
        loss = functional.binary_cross_entropy_with_logits(_used_logits(candidates), targets, reduction="none")
        return _output(self, candidates, positives, loss.sum(dim=1).where(chosen.candidates, 0), chosen)


@checked
class EqualizationLossV2(nn.Module):
    r"""Binary cross-entropy whose classes are weighted by the gradients that they have had so far (EQL v2).

    .. math:: L = \frac{1}{n} \sum_{i, c} \begin{cases}
        -q_c \log \sigma(s_{ic}) & \text{(positive)} \\
        -r_c \log(1 - \sigma(s_{ic})) & \text{(negative)} \end{cases}, \qquad
        r_c = \frac{1}{1 + e^{-\gamma (g_c - \mu)}}, \quad q_c = 1 + \alpha (1 - r_c)

    where :math:`g_c` is the sum of :math:`|\partial L / \partial s_{ic}|` over all positives i of class c so far, over
    the same of its negatives (J. Tan et al., "Equalization Loss v2: A New Gradient Balance Approach for Long-tailed
    Object Detection", CVPR 2021, arXiv:2012.08548, section 3.3). A class that is mostly a negative thus stops to be
    pushed down, and its objects count up to 1 + α times. In the first iteration all weights are 1.

    Parameters
    ----------
    box_loss
        The loss of the boxes of positives.
    mask_loss
        The loss of the masks of positives, where the head passes masks.
    gamma
        γ, how steep the weights are around μ.
    mu
        μ, the ratio at which negatives have half their weight.
    alpha
        α, how much more positives count whose class gets gradients of negatives alone.
    sync
        Whether gradients are added up over all processes, as published, instead of on each for itself.

    Notes
    -----
    Terms and statistics are those of :class:`SigmoidCrossEntropyLoss`. The sums are in the buffer ``gradients``, which
    the first call gives its size (2, C): of positives, of negatives. A ``state_dict`` resumes them bit for bit. Calls
    count where gradients are recorded: an evaluation changes nothing. The published classifier has one more logit,
    object or background, whose score multiplies those of the classes; heads of this package have none.
    """

    gradients: Tensor

    def __init__(
        self,
        box_loss: BoxLoss,
        mask_loss: MaskLoss = MaskCrossEntropyLoss(),
        *,
        gamma: Positive = 12.0,
        mu: NonNegative = 0.8,
        alpha: NonNegative = 4.0,
        sync: Sync = True,
    ) -> None:
        super().__init__()
        self.box_loss = box_loss
        self.mask_loss = mask_loss
        self.gamma = gamma
        self.mu = mu
        self.alpha = alpha
        self.sync = sync
        # In float64: a training adds up millions of values.
        self.register_buffer("gradients", torch.zeros(2, 0, dtype=torch.float64))

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError where the state is that of other classes."""
        check_sigmoid(candidates)
        num_classes = candidates.num_classes
        if not self.gradients.numel():
            self.gradients = self.gradients.new_zeros(2, num_classes)
        if self.gradients.shape[1] != num_classes:
            raise ValueError(
                f"head {candidates.head!r} has {num_classes} classes, but the loss has gradients of "
                f"{self.gradients.shape[1]}"
            )
        positives, chosen = find_positives(candidates), _all_used(candidates)
        logits, targets = _used_logits(candidates), _targets(candidates, positives)
        of_positives, of_negatives = (weights.to(logits.dtype) for weights in self.weights())
        weights = torch.where(targets > 0, of_positives, of_negatives).where(chosen.candidates[:, None], 0)
        loss = functional.binary_cross_entropy_with_logits(logits, targets, weights, reduction="none")
        if torch.is_grad_enabled():
            self._add(weights * (logits.detach().sigmoid() - targets).abs(), targets)
        return _output(self, candidates, positives, loss.sum(dim=1), chosen)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return (C,) weights of positives and of negatives, q and r, by the gradients so far."""
        of_positives, of_negatives = self.gradients
        ratio = of_positives / of_negatives.where(of_negatives > 0, 1)
        negative = (self.gamma * (ratio - self.mu)).sigmoid().where(of_negatives > 0, 1)
        return 1 + self.alpha * (1 - negative), negative

    def _add(self, gradients: Tensor, targets: Tensor) -> None:
        """Add the sizes (M, C) of the gradients of an iteration."""
        gradients = gradients.double()
        own = torch.stack([(gradients * targets).sum(dim=0), (gradients * (1 - targets)).sum(dim=0)])
        self.gradients += Processes(self.sync).sum(own)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        # The buffer gets the size of what is loaded into it. torch 2.4 has no public hook before that.
        saved = state_dict.get(f"{prefix}gradients")
        if saved is not None:
            self.gradients = self.gradients.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


@checked
class SoftmaxCrossEntropyLoss(nn.Module):
    """Cross-entropy over C classes and background, and a box loss; both divided by the number of candidates used.

    This is the loss of the standard R-CNN head, over its sampled RoIs, and that of YOLACT, over its anchors.
    ``candidates.logits`` is (M, C + 1) with the background last.

    Parameters
    ----------
    box_loss
        The loss of the boxes of positives.
    mask_loss
        The loss of the masks of positives, where the head passes masks.
    hard_negatives
        Negatives per positive from which the classification learns, those of largest loss in each image, as in YOLACT.
        Classification and boxes are then divided by the number of positives, of which an image without any counts as
        one. None: all candidates that are not ignored.
    auxiliary
        Auxiliary heads, which the detector must have.

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
        mask_loss: MaskLoss = MaskCrossEntropyLoss(),
        *,
        hard_negatives: Count | None = None,
        auxiliary: tuple[Auxiliary, ...] = (),
    ) -> None:
        super().__init__()
        self.box_loss = box_loss
        self.mask_loss = mask_loss
        self.hard_negatives = None if hard_negatives is None else HardNegatives(hard_negatives)
        self.auxiliary = tuple(auxiliary)

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        if candidates.logits.shape[1] != candidates.num_classes + 1:
            raise ValueError(f"head {candidates.head!r} classifies by sigmoid: its logits have no background column")
        positives = find_positives(candidates)
        loss = functional.cross_entropy(_used_logits(candidates), candidates.labels, ignore_index=-1, reduction="none")
        chosen = _all_used(candidates) if self.hard_negatives is None else self.hard_negatives(candidates, loss)
        output = _output(self, candidates, positives, loss.where(chosen.candidates, 0), chosen)
        for head in self.auxiliary:
            values = head(candidates, positives)
            output.terms[head.name] = values.sum() / head.normalizer(candidates, len(values)).clamp(min=1)
        return output


def _targets(candidates: Candidates, positives: Positives) -> Tensor:
    """(M, C) float32: 1 at the class of each positive."""
    targets = torch.zeros_like(candidates.logits, dtype=torch.float32)
    targets[positives.rows, candidates.labels[positives.rows]] = 1
    return targets


def _used_logits(candidates: Candidates) -> Tensor:
    """The logits in float32, zeros where ignored: a NaN there would come back as 0 · NaN in the gradient."""
    return candidates.logits.float().masked_fill((candidates.labels < 0)[:, None], 0)


def _all_used(candidates: Candidates) -> Chosen:
    """All candidates that are not ignored."""
    is_used = candidates.labels >= 0
    return Chosen(is_used, is_used.sum().clamp(min=1))


def _output(
    loss: SigmoidCrossEntropyLoss | EqualizationLossV2 | SoftmaxCrossEntropyLoss,
    candidates: Candidates,
    positives: Positives,
    classification: Tensor,
    chosen: Chosen,
) -> LossOutput:
    """Classification and boxes over the count of what is chosen; the mean over the masks."""
    terms = {"classification": classification.sum() / chosen.divisor}
    # Without boxes the box loss raises, but a head of masks alone has none.
    if candidates.boxes is not None or candidates.deltas is not None or candidates.masks is None:
        terms["localization"] = loss.box_loss(candidates, positives).sum() / chosen.divisor
    if candidates.masks is not None:
        masks = loss.mask_loss(candidates, positives)
        terms["mask"] = masks.sum() / max(1, len(masks))
    return LossOutput(terms, task_counts(candidates, len(positives.rows), chosen.candidates))
