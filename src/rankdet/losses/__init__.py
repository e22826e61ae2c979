"""Losses: Candidates → LossOutput, and the pure functions under them. Imports torch and nothing else."""

from rankdet.losses.balancing import value_balance
from rankdet.losses.error_driven import identity_update, soft_step
from rankdet.losses.localization import Overlap, box_overlap
from rankdet.losses.rank_sort import RankSort, RankSortLoss, rank_sort_loss, rank_sort_loss_of_labels
from rankdet.losses.score_based import L1, GIoU, SigmoidCrossEntropyLoss, SmoothL1, SoftmaxCrossEntropyLoss
from rankdet.losses.weighting import score_weights, weighted_mean

__all__ = [
    "L1",
    "GIoU",
    "Overlap",
    "RankSort",
    "RankSortLoss",
    "SigmoidCrossEntropyLoss",
    "SmoothL1",
    "SoftmaxCrossEntropyLoss",
    "box_overlap",
    "identity_update",
    "rank_sort_loss",
    "rank_sort_loss_of_labels",
    "score_weights",
    "soft_step",
    "value_balance",
    "weighted_mean",
]
