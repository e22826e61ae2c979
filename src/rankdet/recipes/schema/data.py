"""The data of a recipe: which images, and what happens to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .config import Config
from .optimization import Fraction

if TYPE_CHECKING:
    from rankdet import data
    from rankdet.data import CocoDataset, Format, GroupedBatchSampler, Split, Transforms


class KeepRatio(Config):
    """Resize to the largest size within the limits that keeps the ratio of the sides."""

    type: Literal["keep_ratio"] = "keep_ratio"
    long: PositiveInt
    """Largest longer side in pixels."""
    shorts: tuple[PositiveInt, ...] = Field(min_length=1)
    """Largest shorter side in pixels; of several, one is drawn for each training image."""
    test_short: PositiveInt | None = None
    """Largest shorter side in pixels in detection; null: the last of ``shorts``."""

    def build(self, training: bool) -> data.KeepRatio:
        """The resizing itself."""
        from rankdet.data import KeepRatio

        return KeepRatio(self.long, self.shorts if training else (self.test_short or self.shorts[-1],))


class FixedSize(Config):
    """Resize to one size, whatever the ratio of the sides."""

    type: Literal["fixed"] = "fixed"
    height: PositiveInt
    """New height in pixels."""
    width: PositiveInt
    """New width in pixels."""

    def build(self, training: bool) -> data.FixedSize:
        """The resizing itself."""
        from rankdet.data import FixedSize

        return FixedSize(self.height, self.width)


Resize = Annotated[KeepRatio | FixedSize, Field(discriminator="type")]


def ordered(limits: tuple[float, float]) -> tuple[float, float]:
    """The limits, or ValueError unless the first is the lower one."""
    if limits[0] > limits[1]:
        raise ValueError("the first of two limits must not be the higher one")
    return limits


Byte = Annotated[float, Field(ge=0, le=255)]
Ratio = Annotated[float, Field(ge=1)]


class PhotometricDistortion(Config):
    """Random colors, each change in one of two images; that of the order of the channels is among them."""

    brightness: NonNegativeFloat = 32.0
    """Largest change of all values, which lie in 0 … 255."""
    contrast: Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(ordered)] = (0.5, 1.5)
    """Smallest and largest factor of all values."""
    saturation: Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(ordered)] = (0.5, 1.5)
    """Smallest and largest factor of the saturation."""
    hue: Annotated[float, Field(ge=0, le=180)] = 18.0
    """Largest turn of the hue in degrees."""

    def build(self) -> data.PhotometricDistortion:
        """The distortion itself."""
        from rankdet.data import PhotometricDistortion

        return PhotometricDistortion(self.brightness, self.contrast, self.saturation, self.hue)


class Expansion(Config):
    """The image somewhere on a larger canvas."""

    probability: Fraction = 0.5
    """How often."""
    ratios: Annotated[tuple[Ratio, Ratio], AfterValidator(ordered)] = (1.0, 4.0)
    """Smallest and largest side of the canvas in sides of the image."""
    fill: tuple[Byte, Byte, Byte]
    """Color of the canvas (0–255): the mean that the backbone subtracts."""

    def build(self) -> data.Expansion:
        """The expansion itself."""
        from rankdet.data import Expansion

        return Expansion(self.fill, self.probability, self.ratios)


class MinIoUCrop(Config):
    """A part of the image, or of its canvas, that overlaps the box of every object; or all of it."""

    ious: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    """What is asked of the IoU of the part with every box: one is drawn, or to keep all."""
    shortest: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Shortest side of a part in sides of the whole."""
    aspects: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(ordered)] = (0.5, 2.0)
    """Smallest and largest ratio of height to width."""
    trials: PositiveInt = 50
    """Parts that are looked at before another IoU is asked for."""

    def build(self) -> data.MinIoUCrop:
        """The crop itself."""
        from rankdet.data import MinIoUCrop

        return MinIoUCrop(self.ious, self.shortest, self.aspects, self.trials)


class Data(Config):
    """Which images, and what happens to them on the way."""

    folder: Path | None = None
    """A folder in the format; ``--data`` sets it."""
    format: Literal["coco", "lvis"] = "coco"
    """Annotations: ``annotations/instances_*.json`` and the like (``coco``), or ``annotations/lvis_v1_*.json``, whose
    federated lists the evaluation follows (``lvis``)."""
    train_split: str = "train"
    """Images to learn from."""
    validation_split: str = "val"
    """Images to evaluate on during and after training."""
    batch_size: PositiveInt
    """Images per process and step. A ranking loss ranks over these."""
    workers: NonNegativeInt = 2
    """Processes that read images, per training process."""
    resize: Resize | None = None
    """New size of images, in training and in detection; null keeps the size of the file."""
    test_resize: Resize | None = None
    """New size of images in detection; null: as in training."""
    horizontal_flip: Fraction = 0.5
    """Probability of mirroring a training image."""
    vertical_flip: Fraction = 0.0
    """Probability of turning a training image upside down by mirroring."""
    distortion: PhotometricDistortion | None = None
    """Random colors of training images; null: their own."""
    expansion: Expansion | None = None
    """Random canvas around training images; null: none."""
    crop: MinIoUCrop | None = None
    """Random crop of training images; null: none."""
    min_object: NonNegativeFloat = 0.0
    """Objects that are not wider and higher than this, in pixels of the file, are not trained on."""
    mask_outlines: bool = False
    """Whether masks are handed as polygons, which are rasterized straight into the targets of a mask head; needs
    polygons in the annotations. Otherwise they are bitmaps."""
    repeat_threshold: PositiveFloat | None = None
    """Repeat factor sampling: an image with a class that less than this fraction of the images has is in every epoch
    ⌈√(threshold / fraction)⌉ times, by its rarest class; null: once."""
    keep_empty: bool = False
    """Whether images without objects are trained on."""
    drop_degenerate: bool = False
    """Whether boxes of zero width or height are dropped; otherwise they are a mistake that stops the run."""
    skip_unreadable: bool = False
    """Whether an image that cannot be read in training is skipped and counted; otherwise training stops."""

    def find_split(self, split: str) -> Split:
        """The annotations and images of a split; raises InputError where they are missing."""
        return self._format().find_split(self._folder(), split)

    def build_transforms(self, training: bool) -> Transforms:
        """What is done to images: resizing, and in training all that is random."""
        from rankdet.data import Transforms

        config = self.resize if training or self.test_resize is None else self.test_resize
        resize = None if config is None else config.build(training)
        if not training:
            return Transforms(resize)
        return Transforms(
            resize,
            horizontal_flip=self.horizontal_flip,
            vertical_flip=self.vertical_flip,
            distortion=None if self.distortion is None else self.distortion.build(),
            expansion=None if self.expansion is None else self.expansion.build(),
            crop=None if self.crop is None else self.crop.build(),
        )

    def build_training_dataset(self, with_masks: bool = False) -> CocoDataset:
        """The images to learn from, with the masks of their objects where asked for.

        Raises InputError where they are missing or broken.
        """
        from rankdet.data import CocoDataset

        split = self.find_split(self.train_split)
        return CocoDataset(
            split.annotations,
            split.images,
            self.build_transforms(training=True),
            with_masks=with_masks,
            as_outlines=self.mask_outlines,
            keep_empty=self.keep_empty,
            drop_degenerate=self.drop_degenerate,
            skip_unreadable=self.skip_unreadable,
            min_object=self.min_object,
            read=self._format().read,
        )

    def build_test_dataset(
        self, split: str | None = None, with_masks: bool = False, measure_masks: bool = False
    ) -> CocoDataset:
        """The images of a split (the validation split by default), all of them, unflipped.

        Targets have masks for losses alone (``with_masks``); an evaluation by masks needs them in the ground truth
        (``measure_masks``).
        """
        from rankdet.data import CocoDataset

        found = self.find_split(self.validation_split if split is None else split)
        return CocoDataset(
            found.annotations,
            found.images,
            self.build_transforms(training=False),
            with_masks=with_masks,
            as_outlines=self.mask_outlines,
            measure_masks=measure_masks,
            keep_empty=True,
            drop_degenerate=self.drop_degenerate,
            read=self._format().read,
        )

    def build_sampler(
        self, dataset: CocoDataset, seed: int, rank: int = 0, world_size: int = 1, start: int = 0
    ) -> GroupedBatchSampler:
        """What a process trains on from batch ``start`` on, without end."""
        from rankdet.data import GroupedBatchSampler

        repeats = None if self.repeat_threshold is None else dataset.repeats(self.repeat_threshold)
        return GroupedBatchSampler(
            dataset.aspect_ratios, self.batch_size, seed, rank, world_size, start, repeats=repeats
        )

    def _format(self) -> Format:
        from rankdet.data import COCO, LVIS

        return {"coco": COCO, "lvis": LVIS}[self.format]

    def _folder(self) -> Path:
        if self.folder is None:
            from rankdet.structures import InputError

            raise InputError(
                f"data.folder is not set: name a folder in {self.format.upper()} format with --data FOLDER"
            )
        return self.folder
