"""How well the scores of a head order its positives by their localization.

Legend: P positives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rankdet.inference.model import Model
from rankdet.losses import box_overlap, dice_coefficient
from rankdet.metrics import spearman_correlation
from rankdet.structures import Batch, Candidates


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
        raise ValueError(f"head {candidates.head!r} has neither boxes nor masks")
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
def ranking_quality(
    model: Model, losses: Mapping[str, nn.Module], batches: Iterable[Batch], head: str = "rcnn"
) -> dict[str, float]:
    """How well a head's scores order its positives, and how many negatives they are ranked against.

    Parameters
    ----------
    model
        The network in whose head the positives are.
    losses
        The loss of each head, by its name.
    batches
        Images and objects.
    head
        Its name.

    Returns
    -------
    dict
        ``spearman`` (rank correlation of localization quality and score over all positives of all batches),
        ``positives`` and ``negatives`` (means per batch of what the loss of the head sees).

    Notes
    -----
    The positives are those of training, so appended objects are among the RoIs.
    """
    scores, ious, positives, negatives = [], [], 0.0, 0.0
    num_batches = 0
    with model.evaluating():
        for batch in batches:
            heads = {candidates.head: candidates for candidates in model.forward(batch)}
            stats = losses[head](heads[head]).stats
            score, iou = rank_qualities(heads[head])
            scores.append(score.cpu())
            ious.append(iou.cpu())
            positives, negatives = positives + float(stats["positives"]), negatives + float(stats["negatives"])
            num_batches += 1
    return {
        "spearman": spearman_correlation(torch.cat(ious), torch.cat(scores)),
        "positives": positives / num_batches,
        "negatives": negatives / num_batches,
    }
