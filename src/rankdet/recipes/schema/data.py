"""The data of a recipe: which images, and what happens to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rankdet.ranges import Count, CountOrZero, Fraction, NonNegative, Positive

from .config import Config, input_error
from .part import Choice, Part, built, part

if TYPE_CHECKING:
    from rankdet.data import CocoDataset, GroupedBatchSampler, Transforms
    from rankdet.data.layouts import Source

KeepRatio = part("rankdet.data.transforms:KeepRatio", "keep_ratio")
FixedSize = part("rankdet.data.transforms:FixedSize", "fixed")
PhotometricDistortion = part("rankdet.data.augmentation:PhotometricDistortion")
Expansion = part("rankdet.data.augmentation:Expansion")
MinIoUCrop = part("rankdet.data.augmentation:MinIoUCrop")
Resize = Annotated[Part, Choice((KeepRatio, FixedSize))]


class Data(Config):
    """Which images, and what happens to them on the way."""

    folder: Path | None = None
    """The data folder, of any layout in ``docs/formats.md``; ``--data`` sets it."""
    format: Literal["coco", "lvis"] = "coco"
    """Which annotations count in a folder that has those of COCO and those of LVIS, ``annotations/lvis_v1_*.json``;
    otherwise the layout is recognized."""
    train_split: str = "train"
    """Images to learn from."""
    validation_split: str = "val"
    """Images to evaluate on during and after training."""
    batch_size: Count
    """Images per process and step. A ranking loss ranks over these."""
    workers: CountOrZero = 2
    """Processes that read images, per training process."""
    resize: Resize | None = None
    """New size of images, in training and in detection; null keeps the size of the file."""
    test_resize: Resize | None = None
    """New size of images in detection; null: as in training."""
    horizontal_flip: Fraction = 0.5
    """Probability of mirroring a training image."""
    vertical_flip: Fraction = 0.0
    """Probability of turning a training image upside down by mirroring."""
    distortion: Annotated[Part, Choice((PhotometricDistortion,))] | None = None
    """Random colors of training images; null: their own."""
    expansion: Annotated[Part, Choice((Expansion,))] | None = None
    """Random canvas around training images; null: none."""
    crop: Annotated[Part, Choice((MinIoUCrop,))] | None = None
    """Random crop of training images; null: none."""
    min_object: NonNegative = 0.0
    """Objects that are not wider and higher than this, in pixels of the file, are not trained on."""
    mask_outlines: bool = False
    """Whether masks are handed as polygons, which are rasterized straight into the targets of a mask head; needs
    polygons in the annotations. Otherwise they are bitmaps."""
    repeat_threshold: Positive | None = None
    """Repeat factor sampling: an image with a class that less than this fraction of the images has is in every epoch
    ⌈√(threshold / fraction)⌉ times, by its rarest class; null: once."""
    keep_empty: bool = False
    """Whether images without objects are trained on."""
    drop_degenerate: bool = False
    """Whether boxes of zero width or height are dropped; otherwise they are a mistake that stops the run."""
    skip_unreadable: bool = False
    """Whether an image that cannot be read in training is skipped and counted; otherwise training stops."""

    def at(self, folder: Path | None) -> Data:
        """The same data in another folder."""
        return Data(**dict(self) | {"folder": folder})

    def find_source(self, split: str) -> Source:
        """The annotations and images of a split; raises InputError where they are missing."""
        from rankdet.data.layouts import find_layout

        if self.folder is None:
            raise input_error("data.folder is not set: name a data folder with --data FOLDER")
        return find_layout(self.folder, lvis_first=self.format == "lvis").source(split)

    def build_transforms(self, training: bool) -> Transforms:
        """What is done to images: resizing, and in training all that is random."""
        from rankdet.data import Transforms

        config = self.resize if training or self.test_resize is None else self.test_resize
        resize = built(config)
        if not training:
            return Transforms(resize and resize.for_detection())
        return Transforms(
            resize,
            horizontal_flip=self.horizontal_flip,
            vertical_flip=self.vertical_flip,
            distortion=built(self.distortion),
            expansion=built(self.expansion),
            crop=built(self.crop),
        )

    def build_training_dataset(self, with_masks: bool = False) -> CocoDataset:
        """The images to learn from, with the masks of their objects where asked for.

        Raises InputError where they are missing or broken.
        """
        from rankdet.data import CocoDataset

        found = self.find_source(self.train_split)
        return CocoDataset(
            found.annotations,
            found.images,
            self.build_transforms(training=True),
            with_masks=with_masks,
            as_outlines=self.mask_outlines,
            keep_empty=self.keep_empty,
            drop_degenerate=self.drop_degenerate,
            skip_unreadable=self.skip_unreadable,
            min_object=self.min_object,
            read=found.read,
        )

    def build_test_dataset(
        self, split: str | None = None, with_masks: bool = False, measure_masks: bool = False
    ) -> CocoDataset:
        """The images of a split (the validation split by default), all of them, unflipped.

        Targets have masks for losses alone (``with_masks``); an evaluation by masks needs them in the ground truth
        (``measure_masks``).
        """
        from rankdet.data import CocoDataset

        found = self.find_source(self.validation_split if split is None else split)
        return CocoDataset(
            found.annotations,
            found.images,
            self.build_transforms(training=False),
            with_masks=with_masks,
            as_outlines=self.mask_outlines,
            measure_masks=measure_masks,
            keep_empty=True,
            drop_degenerate=self.drop_degenerate,
            read=found.read,
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
