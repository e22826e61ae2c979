"""Ranking losses and the baselines beside them; imports torch alone, so that it fits into any training.

**Functions** of logits and targets, or of logits and labels: :func:`rank_sort_loss`, :func:`ap_loss`,
:func:`alrp_loss`, :func:`focal_loss`, :func:`quality_focal_loss`, :func:`varifocal_loss`. The first three have a form
``…_of_labels``, and a form ``…_at`` that takes the places of the positives.

**Modules** that map the ``Candidates`` of a head to a ``LossOutput``: :class:`RankSortLoss`, :class:`APLoss`,
:class:`ALRPLoss`, :class:`FocalLoss`, :class:`QualityFocalLoss`, :class:`VarifocalLoss`,
:class:`SigmoidCrossEntropyLoss`, :class:`SoftmaxCrossEntropyLoss`, :class:`EqualizationLossV2`;
:class:`BucketedRankSortLoss` and :class:`BucketedAPLoss` to compare with.

**Parts** of modules: :class:`Tasks` and what it is made of. The aliases ``BoxLoss``, ``MaskLoss``, ``Weighting``,
``Balancing``, ``Quality``, ``Auxiliary`` and ``Normalizer`` are the types of parts in annotations.

**Shapes** of arguments and results: M candidates (anchors, points or RoIs), C classes, P positives, P' masks (of some
positives, or of all) of H × W pixels, B images, I ignored candidates, N negatives. **Symbols** of equations: s logits,
y localization qualities, E localization errors, H the soft step, δ half its width.

**Labels** of other frameworks: :func:`from_pairs`, :func:`from_background_zero`, :func:`from_background_last`.

**Tools** for a loss of one's own: a definition (:func:`error_driven_loss`) or a rule (:class:`RankingOperator`).

Examples
--------
>>> import torch
>>> logits = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
>>> ranking, sorting = rank_sort_loss(logits, torch.tensor([0.0, 0.9, 0.0]))
>>> (ranking + sorting).backward()
>>> logits.grad
tensor([ 0.6667, -0.6667,  0.0000])
"""

from rankdet.losses.alrp import ALRPLoss, ALRPValues, alrp_loss, alrp_loss_at, alrp_loss_of_labels
from rankdet.losses.auxiliary import (
    Auxiliary,
    CenternessCrossEntropyLoss,
    IoUCrossEntropyLoss,
    SemanticCrossEntropyLoss,
)
from rankdet.losses.average_precision import APLoss, ap_loss, ap_loss_at, ap_loss_of_labels
from rankdet.losses.balancing import (
    Balancing,
    ConstantBalance,
    EpochBalance,
    MagnitudeBalance,
    MaximumBalance,
    ValueBalance,
    set_epoch_length,
    value_balance,
)
from rankdet.losses.box_losses import BoxLoss, GIoULoss, L1Loss, SmoothL1Loss
from rankdet.losses.bucketed import BucketedAPLoss, BucketedRankSortLoss, bucketed_ap_loss, bucketed_rank_sort_loss
from rankdet.losses.candidates import Positives, find_positives
from rankdet.losses.checks import Levels
from rankdet.losses.cross_entropy import EqualizationLossV2, SigmoidCrossEntropyLoss, SoftmaxCrossEntropyLoss
from rankdet.losses.error_driven import ErrorTerms, Pairs, PrimaryTerms, error_driven_loss, error_terms
from rankdet.losses.focal import (
    FocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
    focal_loss,
    quality_focal_loss,
    varifocal_loss,
)
from rankdet.losses.gradients import with_gradient
from rankdet.losses.labels import from_background_last, from_background_zero, from_pairs
from rankdet.losses.localization import Overlap, box_overlap, dice_coefficient
from rankdet.losses.mask_losses import DiceLoss, MaskCrossEntropyLoss, MaskLoss, mask_cross_entropy
from rankdet.losses.normalizers import CountOrImages, CountPerImage, Normalizer, PositiveCount
from rankdet.losses.operators import Implementation, RankingOperator, Values
from rankdet.losses.pools import Pools
from rankdet.losses.processes import Processes, Sync
from rankdet.losses.quality import BinaryQuality, DiceQuality, GivenQuality, IoUQuality, MeanQuality, Quality
from rankdet.losses.rank_sort import (
    RankSortLoss,
    RankSortValues,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)
from rankdet.losses.ranking import Ruling
from rankdet.losses.sorting import EPSILON, Window
from rankdet.losses.steps import soft_step
from rankdet.losses.tasks import Tasks
from rankdet.losses.weighting import (
    CenternessWeights,
    IoUWeights,
    NoWeights,
    Ranking,
    RankingWeights,
    ScoreWeights,
    Weighting,
    ranking_weights,
    score_weights,
)

__all__ = [
    "EPSILON",
    "ALRPLoss",
    "ALRPValues",
    "APLoss",
    "Auxiliary",
    "Balancing",
    "BinaryQuality",
    "BoxLoss",
    "BucketedAPLoss",
    "BucketedRankSortLoss",
    "CenternessCrossEntropyLoss",
    "CenternessWeights",
    "ConstantBalance",
    "CountOrImages",
    "CountPerImage",
    "DiceLoss",
    "DiceQuality",
    "EpochBalance",
    "EqualizationLossV2",
    "ErrorTerms",
    "FocalLoss",
    "GIoULoss",
    "GivenQuality",
    "Implementation",
    "IoUCrossEntropyLoss",
    "IoUQuality",
    "IoUWeights",
    "L1Loss",
    "Levels",
    "MagnitudeBalance",
    "MaskCrossEntropyLoss",
    "MaskLoss",
    "MaximumBalance",
    "MeanQuality",
    "NoWeights",
    "Normalizer",
    "Overlap",
    "Pairs",
    "Pools",
    "PositiveCount",
    "Positives",
    "PrimaryTerms",
    "Processes",
    "Quality",
    "QualityFocalLoss",
    "RankSortLoss",
    "RankSortValues",
    "Ranking",
    "RankingOperator",
    "RankingWeights",
    "Ruling",
    "ScoreWeights",
    "SemanticCrossEntropyLoss",
    "SigmoidCrossEntropyLoss",
    "SmoothL1Loss",
    "SoftmaxCrossEntropyLoss",
    "Sync",
    "Tasks",
    "ValueBalance",
    "Values",
    "VarifocalLoss",
    "Weighting",
    "Window",
    "alrp_loss",
    "alrp_loss_at",
    "alrp_loss_of_labels",
    "ap_loss",
    "ap_loss_at",
    "ap_loss_of_labels",
    "box_overlap",
    "bucketed_ap_loss",
    "bucketed_rank_sort_loss",
    "dice_coefficient",
    "error_driven_loss",
    "error_terms",
    "find_positives",
    "focal_loss",
    "from_background_last",
    "from_background_zero",
    "from_pairs",
    "mask_cross_entropy",
    "quality_focal_loss",
    "rank_sort_loss",
    "rank_sort_loss_at",
    "rank_sort_loss_of_labels",
    "ranking_weights",
    "score_weights",
    "set_epoch_length",
    "soft_step",
    "value_balance",
    "varifocal_loss",
    "with_gradient",
]
