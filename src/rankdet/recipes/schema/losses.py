"""The losses of a recipe, one per head, and the parts they are made of.

``build`` of a loss takes the steps of an epoch, which only training knows: a balance may have the length of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from .config import Config
from .optimization import Fraction

if TYPE_CHECKING:
    from rankdet import losses


class L1(Config):
    """Absolute error of the encoded boxes."""

    type: Literal["l1"] = "l1"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.L1Loss:
        """The box loss itself."""
        from rankdet import losses

        return losses.L1Loss(weight=self.weight)


class SmoothL1(Config):
    """Absolute error of the encoded boxes, quadratic below ``beta``."""

    type: Literal["smooth_l1"] = "smooth_l1"
    beta: PositiveFloat
    """Error, in units of the encoding, below which the loss is quadratic."""
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.SmoothL1Loss:
        """The box loss itself."""
        from rankdet import losses

        return losses.SmoothL1Loss(beta=self.beta, weight=self.weight)


class GIoU(Config):
    """1 − GIoU of the decoded boxes."""

    type: Literal["giou"] = "giou"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.GIoULoss:
        """The box loss itself."""
        from rankdet import losses

        return losses.GIoULoss(weight=self.weight)


BoxLoss = Annotated[L1 | SmoothL1 | GIoU, Field(discriminator="type")]


class MaskCrossEntropy(Config):
    """Cross-entropy of the pixels of a mask."""

    type: Literal["cross_entropy"] = "cross_entropy"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""
    over_box_size: bool = False
    """Whether the loss of a mask is divided by the part of the image that the box of its object covers (YOLACT)."""

    def build(self) -> losses.MaskCrossEntropyLoss:
        """The mask loss itself."""
        from rankdet import losses

        return losses.MaskCrossEntropyLoss(weight=self.weight, over_box_size=self.over_box_size)


class Dice(Config):
    """1 − Dice coefficient of a mask."""

    type: Literal["dice"] = "dice"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.DiceLoss:
        """The mask loss itself."""
        from rankdet import losses

        return losses.DiceLoss(weight=self.weight)


MaskLoss = Annotated[MaskCrossEntropy | Dice, Field(discriminator="type")]


class NoWeights(Config):
    """Every positive counts the same in the localization."""

    type: Literal["none"] = "none"

    def build(self) -> losses.NoWeights:
        """The weighting itself."""
        from rankdet import losses

        return losses.NoWeights()


class CenternessWeights(Config):
    """A positive counts by how central its anchor lies in its object."""

    type: Literal["centerness"] = "centerness"

    def build(self) -> losses.CenternessWeights:
        """The weighting itself."""
        from rankdet import losses

        return losses.CenternessWeights()


class ScoreWeights(Config):
    """A positive counts by its best score."""

    type: Literal["score"] = "score"

    def build(self) -> losses.ScoreWeights:
        """The weighting itself."""
        from rankdet import losses

        return losses.ScoreWeights()


class IoUWeights(Config):
    """A positive counts by the IoU of its predicted box with its object."""

    type: Literal["iou"] = "iou"

    def build(self) -> losses.IoUWeights:
        """The weighting itself."""
        from rankdet import losses

        return losses.IoUWeights()


class RankingWeights(Config):
    """A positive counts by the positives that it stands above, over their ranks; for losses that rank."""

    type: Literal["ranking"] = "ranking"
    delta_loc: NonNegativeFloat = 0.0
    """Half width of the smoothed step, in logits; 0 is the hard step."""

    def build(self) -> losses.RankingWeights:
        """The weighting itself."""
        from rankdet import losses

        return losses.RankingWeights(self.delta_loc)


Weighting = Annotated[
    NoWeights | CenternessWeights | ScoreWeights | IoUWeights | RankingWeights, Field(discriminator="type")
]


class ConstantBalance(Config):
    """The weight of a task is set by hand."""

    type: Literal["constant"] = "constant"
    weight: NonNegativeFloat = 1.0
    """Factor of the task."""

    def build(self, steps_per_epoch: int | None = None) -> losses.ConstantBalance:
        """The balance itself."""
        from rankdet import losses

        return losses.ConstantBalance(self.weight)


class ValueBalance(Config):
    """A task gets the value of the classification, in each iteration."""

    type: Literal["value"] = "value"

    def build(self, steps_per_epoch: int | None = None) -> losses.ValueBalance:
        """The balance itself."""
        from rankdet import losses

        return losses.ValueBalance()


class MagnitudeBalance(Config):
    """The gradient of a task gets the size of that of the classification, in each iteration."""

    type: Literal["magnitude"] = "magnitude"

    def build(self, steps_per_epoch: int | None = None) -> losses.MagnitudeBalance:
        """The balance itself."""
        from rankdet import losses

        return losses.MagnitudeBalance()


class EpochBalance(Config):
    """A task gets the weight that the values of the last period ask for (aLRP Loss)."""

    type: Literal["epoch"] = "epoch"
    start: NonNegativeFloat = 50.0
    """Weight of the first period."""
    iterations: PositiveInt | None = None
    """Length of a period in steps; null: an epoch of the training."""

    def build(self, steps_per_epoch: int | None = None) -> losses.EpochBalance:
        """The balance itself; raises InputError where nobody says how long a period is."""
        from rankdet import losses
        from rankdet.structures import InputError

        iterations = self.iterations or steps_per_epoch
        if iterations is None:
            raise InputError("a balance of type epoch needs iterations outside of a training")
        return losses.EpochBalance(self.start, iterations=iterations)


Balancing = Annotated[ConstantBalance | ValueBalance | MagnitudeBalance | EpochBalance, Field(discriminator="type")]


class BinaryLabel(Config):
    """Every positive has the label 1."""

    type: Literal["binary"] = "binary"

    def build(self) -> losses.BinaryQuality:
        """The label itself."""
        from rankdet import losses

        return losses.BinaryQuality()


class IoULabel(Config):
    """The label of a positive is the IoU of its predicted box."""

    type: Literal["iou"] = "iou"

    def build(self) -> losses.IoUQuality:
        """The label itself."""
        from rankdet import losses

        return losses.IoUQuality()


class DiceLabel(Config):
    """The label of a positive is the Dice coefficient of its predicted mask."""

    type: Literal["dice"] = "dice"

    def build(self) -> losses.DiceQuality:
        """The label itself."""
        from rankdet import losses

        return losses.DiceQuality()


class MeanLabel(Config):
    """The label of a positive is the mean of IoU and Dice coefficient."""

    type: Literal["mean"] = "mean"

    def build(self) -> losses.MeanQuality:
        """The label itself."""
        from rankdet import losses

        return losses.MeanQuality()


Label = Annotated[BinaryLabel | IoULabel | DiceLabel | MeanLabel, Field(discriminator="type")]


class CenternessCrossEntropy(Config):
    """An auxiliary head learns the centerness of the anchor."""

    type: Literal["centerness"] = "centerness"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.CenternessCrossEntropyLoss:
        """The auxiliary loss itself."""
        from rankdet import losses

        return losses.CenternessCrossEntropyLoss(self.weight)


class IoUCrossEntropy(Config):
    """An auxiliary head learns the IoU of the predicted box."""

    type: Literal["iou"] = "iou"
    weight: NonNegativeFloat = 0.5
    """Factor of the term."""

    def build(self) -> losses.IoUCrossEntropyLoss:
        """The auxiliary loss itself."""
        from rankdet import losses

        return losses.IoUCrossEntropyLoss(self.weight)


class SemanticCrossEntropy(Config):
    """An auxiliary head learns which pixels belong to objects of each class."""

    type: Literal["semantic"] = "semantic"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.SemanticCrossEntropyLoss:
        """The auxiliary loss itself."""
        from rankdet import losses

        return losses.SemanticCrossEntropyLoss(self.weight)


Auxiliary = Annotated[CenternessCrossEntropy | IoUCrossEntropy | SemanticCrossEntropy, Field(discriminator="type")]


class PositiveCount(Config):
    """The number of positives."""

    type: Literal["positives"] = "positives"
    added: NonNegativeFloat = 0.0
    """Added to it: 1 in SOLOv2."""

    def build(self) -> losses.PositiveCount:
        """The normalizer itself."""
        from rankdet import losses

        return losses.PositiveCount(self.added)


class CountPerImage(Config):
    """The number of positives, of which an image without any counts as one (ATSS)."""

    type: Literal["per_image"] = "per_image"

    def build(self) -> losses.CountPerImage:
        """The normalizer itself."""
        from rankdet import losses

        return losses.CountPerImage()


class CountOrImages(Config):
    """The number of positives, or of images where that is larger (PAA)."""

    type: Literal["or_images"] = "or_images"

    def build(self) -> losses.CountOrImages:
        """The normalizer itself."""
        from rankdet import losses

        return losses.CountOrImages()


Normalizer = Annotated[PositiveCount | CountPerImage | CountOrImages, Field(discriminator="type")]


class RankSort(Config):
    """Rank & Sort Loss with score-weighted GIoU and value-based balancing: no weights to tune."""

    type: Literal["rank_sort"] = "rank_sort"
    delta: NonNegativeFloat = 0.5
    """Half width of the smoothed step, in logits."""
    weighting: Weighting = ScoreWeights()
    """What a positive counts in the localization."""
    balancing: Balancing = ValueBalance()
    """What the localization counts beside the classification."""
    label: Label = IoULabel()
    """What the positives are sorted by."""
    sync: bool = False
    """Whether the candidates of all processes are ranked in one pool."""
    zero_quality_is_negative: bool = False
    """The letter of the paper: a positive whose box does not touch its object counts as a negative."""
    dice_epsilon: PositiveFloat = 1e-5
    """Added to the denominator of the Dice coefficient of masks; 2e-3 in SOLOv2."""

    def build(self, steps_per_epoch: int | None = None) -> losses.RankSortLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.RankSortLoss(
            self.delta,
            quality=self.label.build(),
            tasks=losses.Tasks(
                weighting=self.weighting.build(),
                balancing=self.balancing.build(steps_per_epoch),
                dice_epsilon=self.dice_epsilon,
            ),
            zero_quality_is_negative=self.zero_quality_is_negative,
            sync=self.sync,
        )


class AveragePrecision(Config):
    """AP Loss, with boxes weighted and balanced as beside focal loss."""

    type: Literal["average_precision"] = "average_precision"
    delta: NonNegativeFloat = 1.0
    """Half width of the smoothed step, in logits."""
    interpolate: bool = True
    """Whether a positive gets the best precision at or below its score, as in the published code."""
    weighting: Weighting = NoWeights()
    """What a positive counts in the localization."""
    balancing: Balancing = ConstantBalance(weight=2.0)
    """What the localization, 1 − GIoU, counts beside the classification."""
    auxiliary: tuple[Auxiliary, ...] = ()
    """Auxiliary heads; the detector must have them."""
    sync: bool = False
    """Whether the candidates of all processes are ranked in one pool."""

    def build(self, steps_per_epoch: int | None = None) -> losses.APLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.APLoss(
            self.delta,
            interpolate=self.interpolate,
            tasks=losses.Tasks(
                weighting=self.weighting.build(),
                balancing=self.balancing.build(steps_per_epoch),
                auxiliary=tuple(head.build() for head in self.auxiliary),
            ),
            sync=self.sync,
        )


class ALRP(Config):
    """Average localization recall precision loss: ranking and localization of a positive in one error."""

    type: Literal["alrp"] = "alrp"
    delta: NonNegativeFloat = 1.0
    """Half width of the smoothed step, in logits."""
    tau: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """IoU at which a box is as good as none; 0.7 in an RPN."""
    balancing: Balancing = EpochBalance()
    """What the localization counts beside the classification."""
    sync: bool = False
    """Whether the candidates of all processes are ranked in one pool."""

    def build(self, steps_per_epoch: int | None = None) -> losses.ALRPLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.ALRPLoss(
            self.delta, tau=self.tau, balancing=self.balancing.build(steps_per_epoch), sync=self.sync
        )


class SigmoidCrossEntropy(Config):
    """Binary cross-entropy and a box loss, both over the number of sampled candidates (the standard RPN)."""

    type: Literal["sigmoid_cross_entropy"] = "sigmoid_cross_entropy"
    box_loss: BoxLoss
    """The loss of the boxes of positives."""

    mask_loss: MaskLoss = MaskCrossEntropy()
    """The loss of the masks of positives, where the detector makes masks."""

    def build(self, steps_per_epoch: int | None = None) -> losses.SigmoidCrossEntropyLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.SigmoidCrossEntropyLoss(box_loss=self.box_loss.build(), mask_loss=self.mask_loss.build())


class SoftmaxCrossEntropy(Config):
    """Cross-entropy with a background class and a box loss, both over the number of sampled RoIs (standard R-CNN)."""

    type: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"
    box_loss: BoxLoss
    """The loss of the boxes of positives."""

    mask_loss: MaskLoss = MaskCrossEntropy()
    """The loss of the masks of positives, where the detector makes masks."""
    hard_negatives: PositiveInt | None = None
    """Negatives per positive that are learned from, those of largest loss in each image; classification and boxes are
    then over the number of positives (standard YOLACT). Null: all that the detector did not leave out."""
    auxiliary: tuple[Auxiliary, ...] = ()
    """Auxiliary heads; the detector must have them."""

    def build(self, steps_per_epoch: int | None = None) -> losses.SoftmaxCrossEntropyLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.SoftmaxCrossEntropyLoss(
            box_loss=self.box_loss.build(),
            mask_loss=self.mask_loss.build(),
            hard_negatives=self.hard_negatives,
            auxiliary=tuple(head.build() for head in self.auxiliary),
        )


class Focal(Config):
    """Focal loss and the losses of a dense detector beside it."""

    type: Literal["focal"] = "focal"
    alpha: Fraction = 0.25
    """Weight of positives; that of negatives is the rest of 1."""
    gamma: NonNegativeFloat = 2.0
    """How much well-classified logits are played down."""
    box_loss: BoxLoss = GIoU(weight=2.0)
    """The loss of the boxes of positives."""
    weighting: Weighting = NoWeights()
    """What a positive counts in the localization."""
    balancing: Balancing = ConstantBalance()
    """What the localization counts beside the classification."""
    mask_balancing: Balancing | None = None
    """The same of masks; null: as the boxes."""
    auxiliary: tuple[Auxiliary, ...] = ()
    """Auxiliary heads; the detector must have them."""
    normalizer: Normalizer = PositiveCount()
    """What the classification is divided by."""
    dice_epsilon: PositiveFloat = 1e-5
    """Added to the denominator of the Dice coefficient of masks; 2e-3 in SOLOv2."""
    sync: bool = False
    """Whether the sums are divided by the positives of all processes instead of the own one's."""

    def build(self, steps_per_epoch: int | None = None) -> losses.FocalLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.FocalLoss(
            self.alpha,
            self.gamma,
            normalizer=self.normalizer.build(),
            tasks=losses.Tasks(
                box_loss=self.box_loss.build(),
                weighting=self.weighting.build(),
                balancing=self.balancing.build(steps_per_epoch),
                mask_balancing=None if self.mask_balancing is None else self.mask_balancing.build(steps_per_epoch),
                auxiliary=tuple(head.build() for head in self.auxiliary),
                dice_epsilon=self.dice_epsilon,
            ),
            sync=self.sync,
        )


class QualityFocal(Config):
    """Quality focal loss, whose scores learn the IoU of the predicted box, and a box loss."""

    type: Literal["quality_focal"] = "quality_focal"
    beta: PositiveFloat = 2.0
    """How much well-predicted qualities are played down."""
    box_loss: BoxLoss = GIoU(weight=2.0)
    """The loss of the boxes of positives."""
    weighting: Weighting = ScoreWeights()
    """What a positive counts in the localization."""
    balancing: Balancing = ConstantBalance()
    """What the localization counts beside the classification."""
    mask_balancing: Balancing | None = None
    """The same of masks; null: as the boxes."""
    label: Label = IoULabel()
    """What the scores of positives learn."""
    auxiliary: tuple[Auxiliary, ...] = ()
    """Auxiliary heads; the detector must have them."""
    normalizer: Normalizer = PositiveCount()
    """What the classification is divided by."""
    sync: bool = False
    """Whether the sums are divided by the positives of all processes instead of the own one's."""

    def build(self, steps_per_epoch: int | None = None) -> losses.QualityFocalLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.QualityFocalLoss(
            self.beta,
            quality=self.label.build(),
            normalizer=self.normalizer.build(),
            tasks=losses.Tasks(
                box_loss=self.box_loss.build(),
                weighting=self.weighting.build(),
                balancing=self.balancing.build(steps_per_epoch),
                mask_balancing=None if self.mask_balancing is None else self.mask_balancing.build(steps_per_epoch),
                auxiliary=tuple(head.build() for head in self.auxiliary),
            ),
            sync=self.sync,
        )


class BucketedRankSort(Config):
    """The published approximation of Rank & Sort Loss, to compare with."""

    type: Literal["bucketed_rank_sort"] = "bucketed_rank_sort"
    delta: NonNegativeFloat = 0.5
    """Half width of the smoothed step, in logits."""
    weighting: Weighting = ScoreWeights()
    """What a positive counts in the localization."""
    balancing: Balancing = ValueBalance()
    """What the localization counts beside the classification."""
    label: Label = IoULabel()
    """What the positives are sorted by."""

    def build(self, steps_per_epoch: int | None = None) -> losses.BucketedRankSortLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.BucketedRankSortLoss(
            self.delta,
            quality=self.label.build(),
            tasks=losses.Tasks(weighting=self.weighting.build(), balancing=self.balancing.build(steps_per_epoch)),
        )


class BucketedAveragePrecision(Config):
    """The published approximation of AP Loss, to compare with, beside a box loss."""

    type: Literal["bucketed_average_precision"] = "bucketed_average_precision"
    delta: NonNegativeFloat = 1.0
    """Half width of the smoothed step, in logits."""
    weighting: Weighting = ScoreWeights()
    """What a positive counts in the localization."""
    balancing: Balancing = ConstantBalance()
    """What the localization, 2 (1 − GIoU), counts beside the classification."""

    def build(self, steps_per_epoch: int | None = None) -> losses.BucketedAPLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.BucketedAPLoss(
            self.delta,
            tasks=losses.Tasks(
                box_loss=losses.GIoULoss(2.0),
                weighting=self.weighting.build(),
                balancing=self.balancing.build(steps_per_epoch),
            ),
        )


Loss = Annotated[
    RankSort
    | AveragePrecision
    | ALRP
    | BucketedRankSort
    | BucketedAveragePrecision
    | Focal
    | QualityFocal
    | SigmoidCrossEntropy
    | SoftmaxCrossEntropy,
    Field(discriminator="type"),
]
