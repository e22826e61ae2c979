"""Cross-entropy with a sigmoid or a softmax, the score-based baselines of RPN, R-CNN and YOLACT."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankdet.losses.auxiliary import Auxiliary
from rankdet.losses.box_losses import BoxLoss
from rankdet.losses.candidates import Positives, check_sigmoid, find_positives, task_counts
from rankdet.losses.hard_negatives import Chosen, HardNegatives
from rankdet.losses.mask_losses import MaskCrossEntropyLoss, MaskLoss
from rankdet.ranges import Count, checked
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
        positives = find_positives(candidates)
        rows = positives.rows
        targets = torch.zeros_like(candidates.logits, dtype=torch.float32)
        targets[rows, candidates.labels[rows]] = 1
        chosen = _all_used(candidates)
        loss = functional.binary_cross_entropy_with_logits(_used_logits(candidates), targets, reduction="none")
        return _output(self, candidates, positives, loss.sum(dim=1).where(chosen.candidates, 0), chosen)


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


def _used_logits(candidates: Candidates) -> Tensor:
    """The logits in float32, zeros where ignored: a NaN there would come back as 0 · NaN in the gradient."""
    return candidates.logits.float().masked_fill((candidates.labels < 0)[:, None], 0)


def _all_used(candidates: Candidates) -> Chosen:
    """All candidates that are not ignored."""
    is_used = candidates.labels >= 0
    return Chosen(is_used, is_used.sum().clamp(min=1))


def _output(
    loss: SigmoidCrossEntropyLoss | SoftmaxCrossEntropyLoss,
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
