"""The losses of a recipe, one per head, and the parts they are made of. What each takes is written where it is defined.

What a head must bring for each of them is data, see `rankdet.recipes.schema.fit`.
"""

from typing import Annotated

from .part import Choice, Part, part

L1Loss = part("rankdet.losses.box_losses:L1Loss", "l1")
SmoothL1Loss = part("rankdet.losses.box_losses:SmoothL1Loss", "smooth_l1")
GIoULoss = part("rankdet.losses.box_losses:GIoULoss", "giou")

MaskCrossEntropyLoss = part(
    "rankdet.losses.mask_losses:MaskCrossEntropyLoss", "cross_entropy", needs_where={"over_box_size": "box_shares"}
)
DiceLoss = part("rankdet.losses.mask_losses:DiceLoss", "dice")

NoWeights = part("rankdet.losses.weighting:NoWeights", "none")
CenternessWeights = part("rankdet.losses.weighting:CenternessWeights", "centerness", needs=("centerness",))
ScoreWeights = part("rankdet.losses.weighting:ScoreWeights", "score")
IoUWeights = part("rankdet.losses.weighting:IoUWeights", "iou", needs=("boxes",))
RankingWeights = part("rankdet.losses.weighting:RankingWeights", "ranking")

ConstantBalance = part("rankdet.losses.balancing:ConstantBalance", "constant")
ValueBalance = part("rankdet.losses.balancing:ValueBalance", "value")
MaximumBalance = part("rankdet.losses.balancing:MaximumBalance", "maximum")
MagnitudeBalance = part("rankdet.losses.balancing:MagnitudeBalance", "magnitude")
EpochBalance = part("rankdet.losses.balancing:EpochBalance", "epoch")

BinaryQuality = part("rankdet.losses.quality:BinaryQuality", "binary")
IoUQuality = part("rankdet.losses.quality:IoUQuality", "iou", needs=("boxes",))
DiceQuality = part("rankdet.losses.quality:DiceQuality", "dice", needs=("masks",))
MeanQuality = part("rankdet.losses.quality:MeanQuality", "mean", needs=("boxes", "masks"))
GivenQuality = part("rankdet.losses.quality:GivenQuality", "given", needs=("quality",))

CenternessCrossEntropyLoss = part(
    "rankdet.losses.auxiliary:CenternessCrossEntropyLoss", "centerness", learns="centerness"
)
IoUCrossEntropyLoss = part("rankdet.losses.auxiliary:IoUCrossEntropyLoss", "iou", learns="iou")
SemanticCrossEntropyLoss = part("rankdet.losses.auxiliary:SemanticCrossEntropyLoss", "semantic", learns="semantic")

PositiveCount = part("rankdet.losses.normalizers:PositiveCount", "positives")
CountPerImage = part("rankdet.losses.normalizers:CountPerImage", "per_image")
CountOrImages = part("rankdet.losses.normalizers:CountOrImages", "or_images")

Tasks = part("rankdet.losses.tasks:Tasks")

SWITCHES = ("check", "implementation")
"""How a ranking loss is computed, which changes no number."""
RankSortLoss = part("rankdet.losses.rank_sort:RankSortLoss", "rank_sort", late=SWITCHES)
APLoss = part("rankdet.losses.average_precision:APLoss", "average_precision", late=SWITCHES)
ALRPLoss = part("rankdet.losses.alrp:ALRPLoss", "alrp", late=SWITCHES)
BucketedRankSortLoss = part("rankdet.losses.bucketed:BucketedRankSortLoss", "bucketed_rank_sort")
BucketedAPLoss = part("rankdet.losses.bucketed:BucketedAPLoss", "bucketed_average_precision")
FocalLoss = part("rankdet.losses.focal:FocalLoss", "focal")
QualityFocalLoss = part("rankdet.losses.focal:QualityFocalLoss", "quality_focal")
VarifocalLoss = part("rankdet.losses.focal:VarifocalLoss", "varifocal")
SigmoidCrossEntropyLoss = part("rankdet.losses.cross_entropy:SigmoidCrossEntropyLoss", "sigmoid_cross_entropy")
EqualizationLossV2 = part("rankdet.losses.cross_entropy:EqualizationLossV2", "equalization_v2")
SoftmaxCrossEntropyLoss = part(
    "rankdet.losses.cross_entropy:SoftmaxCrossEntropyLoss",
    "softmax_cross_entropy",
    softmax=True,
    needs_where={"hard_negatives": "per_image"},
)
LOSSES = (
    RankSortLoss,
    APLoss,
    ALRPLoss,
    BucketedRankSortLoss,
    BucketedAPLoss,
    FocalLoss,
    QualityFocalLoss,
    VarifocalLoss,
    SigmoidCrossEntropyLoss,
    EqualizationLossV2,
    SoftmaxCrossEntropyLoss,
)
Loss = Annotated[Part, Choice(LOSSES)]
