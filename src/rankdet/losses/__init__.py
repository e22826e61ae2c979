"""Losses: Candidates → LossOutput, and the pure functions under them. Imports torch and nothing else."""

from rankdet.losses.alrp import ALRP, ALRPLoss, alrp_loss, alrp_loss_of_labels
from rankdet.losses.auxiliary import CenternessCrossEntropy, IoUCrossEntropy, SemanticCrossEntropy
from rankdet.losses.average_precision import APLoss, ap_loss, ap_loss_of_labels
from rankdet.losses.balancing import ConstantBalance, EpochBalance, MagnitudeBalance, ValueBalance, value_balance
from rankdet.losses.box_losses import L1, GIoU, SmoothL1
from rankdet.losses.bucketed import BucketedAPLoss, BucketedRankSortLoss, bucketed_ap_loss, bucketed_rank_sort_loss
from rankdet.losses.candidates import Positives, find_positives
from rankdet.losses.checks import Levels
from rankdet.losses.error_driven import Pairs, PrimaryTerms, error_driven_loss, identity_update, soft_step
from rankdet.losses.hard_negatives import Chosen, HardNegatives
from rankdet.losses.labels import BinaryLabel, DiceLabel, IoULabel, MeanLabel
from rankdet.losses.localization import Overlap, box_overlap, dice_coefficient
from rankdet.losses.mask_losses import Dice, MaskCrossEntropy, mask_cross_entropy
from rankdet.losses.normalizers import CountOrImages, CountPerImage, PositiveCount
from rankdet.losses.operators import (
    Implementation,
    RankedCandidates,
    RankingLoss,
    Ruling,
    labelled,
    targeted,
)
from rankdet.losses.processes import Processes, Sync
from rankdet.losses.rank_sort import RankSort, RankSortLoss, rank_sort_loss, rank_sort_loss_of_labels
from rankdet.losses.score_based import (
    FocalLoss,
    QualityFocalLoss,
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    focal_loss,
    quality_focal_loss,
)
from rankdet.losses.tasks import Tasks
from rankdet.losses.weighting import (
    CenternessWeights,
    IoUWeights,
    NoWeights,
    RankingWeights,
    ScoreWeights,
    ranking_weights,
    score_weights,
    weighted_mean,
)

__all__ = [
    "ALRP",
    "L1",
    "ALRPLoss",
    "APLoss",
    "BinaryLabel",
    "BucketedAPLoss",
    "BucketedRankSortLoss",
    "CenternessCrossEntropy",
    "CenternessWeights",
    "Chosen",
    "ConstantBalance",
    "CountOrImages",
    "CountPerImage",
    "Dice",
    "DiceLabel",
    "EpochBalance",
    "FocalLoss",
    "GIoU",
    "HardNegatives",
    "Implementation",
    "IoUCrossEntropy",
    "IoULabel",
    "IoUWeights",
    "Levels",
    "MagnitudeBalance",
    "MaskCrossEntropy",
    "MeanLabel",
    "NoWeights",
    "Overlap",
    "Pairs",
    "PositiveCount",
    "Positives",
    "PrimaryTerms",
    "Processes",
    "QualityFocalLoss",
    "RankSort",
    "RankSortLoss",
    "RankedCandidates",
    "RankingLoss",
    "RankingWeights",
    "Ruling",
    "ScoreWeights",
    "SemanticCrossEntropy",
    "SigmoidCrossEntropyLoss",
    "SmoothL1",
    "SoftmaxCrossEntropyLoss",
    "Sync",
    "Tasks",
    "ValueBalance",
    "alrp_loss",
    "alrp_loss_of_labels",
    "ap_loss",
    "ap_loss_of_labels",
    "box_overlap",
    "bucketed_ap_loss",
    "bucketed_rank_sort_loss",
    "dice_coefficient",
    "error_driven_loss",
    "find_positives",
    "focal_loss",
    "identity_update",
    "labelled",
    "mask_cross_entropy",
    "quality_focal_loss",
    "rank_sort_loss",
    "rank_sort_loss_of_labels",
    "ranking_weights",
    "score_weights",
    "soft_step",
    "targeted",
    "value_balance",
    "weighted_mean",
]
