"""How well the scores of a head order its positives by their localization.

Legend: P positives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rankdet.inference.model import Model
from rankdet.losses import box_overlap, dice_coefficient
from rankdet.metrics import spearman_correlation
from rankdet.structures import Batch, Candidates, InputError


def rank_qualities(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Scores and localization qualities of the positives of one head.

    Parameters
    ----------
    candidates
        A head's output with P positives and decoded boxes, or masks where it has no boxes.

    Returns
    -------
    tuple
        (P,) score of the class of the matched object and (P,) IoU of the decoded box with it, or Dice coefficient of
        the mask, once for each mask where a positive has several.
    """
    pairs = candidates.masks if candidates.boxes is None else candidates.boxes
    if pairs is None:
        raise InputError(f"head {candidates.head!r} has neither boxes nor masks")
    rows = candidates.is_positive if candidates.rows is None else candidates.rows
    labels, logits = candidates.labels[rows], candidates.logits[rows].float()
    if pairs.rows is not None:
        labels, logits = labels[pairs.rows], logits[pairs.rows]
    # One logit more than classes: softmax with the background last.
    scores = logits.softmax(1) if logits.shape[1] > candidates.num_classes else logits.sigmoid()
    if candidates.boxes is None:
        quality = dice_coefficient(pairs.predicted, pairs.target)
    else:
        quality = box_overlap(pairs.predicted, pairs.target).iou
    return scores.gather(1, labels[:, None])[:, 0], quality


@torch.no_grad()
def ranking_quality(model: Model, losses: Mapping[str, nn.Module], batches: Iterable[Batch]) -> dict[str, Any]:
    """How well the scores of a model's last head order its positives, and against how many negatives they are ranked.

    Parameters
    ----------
    model
        The network in whose last head the positives are. They are those of training, so a second stage has the
        objects among its RoIs.
    losses
        Losses by head.
    batches
        Images and objects.

    Returns
    -------
    dict
        ``head``, the name of the last head; ``spearman``, the rank correlation of localization quality and score over
        all positives of all batches; ``positives`` and ``negatives``, means per batch of what the loss of the head
        counts, or of the head's labels where no loss of it is given or it counts neither.
    """
    head, scores, qualities, positives, negatives = "", [], [], [], []
    with model.evaluating():
        for batch in batches:
            candidates = model.forward(batch)[-1]
            head = candidates.head
            stats = losses[head](candidates).stats if head in losses else {}
            score, quality = rank_qualities(candidates)
            scores.append(score.cpu())
            qualities.append(quality.cpu())
            is_negative = candidates.labels == candidates.num_classes
            positives.append(float(stats.get("positives", candidates.is_positive.sum())))
            negatives.append(float(stats.get("negatives", is_negative.sum())))
    return {
        "head": head,
        "spearman": spearman_correlation(torch.cat(qualities), torch.cat(scores)),
        "positives": sum(positives) / len(positives),
        "negatives": sum(negatives) / len(negatives),
    }
