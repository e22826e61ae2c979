"""The data of a recipe: which images, and what happens to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator

from rankdet.ranges import Bits, CountOrZero, Fraction, NonNegative, Positive, Range

from .config import Config, input_error
from .part import Choice, Part, built, part

if TYPE_CHECKING:
    from rankdet.coco import Finding, GroundTruth
    from rankdet.data import CocoDataset, GroupedBatchSampler, Transforms
    from rankdet.data.layouts import Layout, Source
    from rankdet.data.preparation import Prepared

    _Read = Callable[[bool], tuple[GroundTruth, list[Finding]]]

KeepRatio = part("rankdet.data.transforms:KeepRatio", "keep_ratio")
FixedSize = part("rankdet.data.transforms:FixedSize", "fixed")
PhotometricDistortion = part("rankdet.data.augmentation:PhotometricDistortion")
Expansion = part("rankdet.data.augmentation:Expansion")
MinIoUCrop = part("rankdet.data.augmentation:MinIoUCrop")
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
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
    """Images to evaluate on during and after training. Where the folder has no split ``val``, a part of the training
    images is held out for that (``validation_fraction``), or nothing is evaluated."""
    train_annotations: AbsolutePath | None = None
    """Annotations to learn from, a file of any format in ``docs/formats.md``, in place of those of the folder;
    ``--train-annotations`` sets it."""
    train_images: AbsolutePath | None = None
    """Folder of the images to learn from; null: it is looked for around the annotations. ``--train-images`` sets it."""
    validation_annotations: AbsolutePath | None = None
    """Annotations to evaluate on, a file, in place of those of the folder; ``--val-annotations`` sets it."""
    validation_images: AbsolutePath | None = None
    """Folder of the images to evaluate on; null: it is looked for around the annotations. ``--val-images`` sets it."""
    validation_fraction: Annotated[float, Range(gt=0, lt=1)] | None = None
    """Fraction of the training images that is held out to evaluate on where there are no others, by their names and
    classes: the same images in every run."""
    batch_size: Annotated[int, Range(ge=1, le=2**16)]
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
    significant_bits: Bits | None = None
    """How many bits images of 16 bits use: of 12, as many cameras have them, the upper eight are kept. null: what the
    images to learn from need is measured at the start of a training, and written into the recipe of the run."""
    reduced_decoding: bool = False
    """Whether JPEG files to learn from are decoded to a half, a quarter or an eighth of their sides where these are
    still twice what ``resize`` asks for: faster, with slightly other pixels. Not with ``expansion`` or ``crop``."""
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
    crowds_are_objects: bool = False
    """Whether annotations that are flagged as crowd regions are objects like all others, as those of tools are that
    flag ordinary masks so."""
    voc_first_pixel: Literal[0, 1] | None = None
    """The number of the first pixel in annotations of Pascal VOC: 1 by its definition, 0 as many tools write it. null:
    as boxes at the border of images show."""
    skip_unreadable: bool = False
    """Whether an image that cannot be read in training is skipped and counted; otherwise training stops."""

    def at(self, folder: Path | None, annotations: Path | None = None, images: Path | None = None) -> Data:
        """The same data in another folder; or images to evaluate on, by the file of their annotations."""
        given = {"validation_annotations": annotations, "validation_images": images}
        return Data(**dict(self) | {"folder": folder, "train_annotations": None, "train_images": None} | given)

    def find_source(self, split: str) -> Source:
        """The annotations and images of a split, a held out part included.

        Raises InputError where there are none, or several files claim the split.
        """
        return self._required(split, functools.cache(self.find_layout))

    def find_validation_source(self) -> Source | None:
        """The annotations and images to evaluate on; None where there are none and no fraction is held out.

        Raises InputError where ``validation_split`` names another split than ``val``, and it is missing.
        """
        return self._validation(functools.cache(self.find_layout))

    def find_layout(self) -> Layout | None:
        """The layout of the data folder; None where there is no folder. Raises InputError where it is not known."""
        from rankdet.data.layouts import find_layout

        return (
            None
            if self.folder is None
            else find_layout(self.folder, lvis_first=self.format == "lvis", voc_first_pixel=self.voc_first_pixel)
        )

    def _required(self, split: str, layout: Callable[[], Layout | None]) -> Source:
        found = self._source(split, layout)
        if found is not None:
            return found
        known = layout()
        if known is not None:
            return known.source(split)  # which raises, and names the splits that there are
        raise input_error(
            f"data.folder is not set, and no file has the split {split!r}: name a data folder with --data FOLDER, or "
            "an annotation file with data.train_annotations or data.validation_annotations"
        )

    def _validation(self, layout: Callable[[], Layout | None]) -> Source | None:
        from rankdet.data.layouts import canonical

        found = self._source(self.validation_split, layout)
        if found is None and canonical(self.validation_split) != "val":
            return self._required(self.validation_split, layout)
        return found

    def _source(self, split: str, layout: Callable[[], Layout | None]) -> Source | None:
        """Where a split is, a held out part included; None where it is nowhere. The folder is looked at when asked."""
        from rankdet.data.layouts import canonical, held_out

        wanted, train, validation = map(canonical, (split, self.train_split, self.validation_split))
        found = self._own_source(wanted, layout)
        if self.validation_fraction is None or wanted not in (train, validation):
            return found
        whole = self._own_source(train, layout)
        if whole is None or self._own_source(validation, layout) is not None:
            return found
        return held_out(whole, self.validation_fraction)[0 if wanted == train else 1]

    def _own_source(self, split: str, layout: Callable[[], Layout | None]) -> Source | None:
        """The file that a field names for a split, or what the folder has; None where there is neither."""
        from rankdet.data.layouts import canonical, find_source

        files = {
            canonical(self.validation_split): (self.validation_annotations, self.validation_images),
            canonical(self.train_split): (self.train_annotations, self.train_images),
        }
        annotations, images = files.get(split, (None, None))
        if annotations is not None:
            found = find_source(annotations, images)
        else:
            known = layout()
            if known is None or not known.has(split):
                return None
            found = known.source(split)
            found = found if images is None else replace(found, images=images)
        return replace(found, crowds_are_objects=self.crowds_are_objects)

    def build_transforms(self, training: bool) -> Transforms:
        """What is done to images: resizing, and in training all that is random."""
        from rankdet.data import Transforms

        config = self.resize if training or self.test_resize is None else self.test_resize
        resize = built(config)
        if not training:
            return Transforms(resize and resize.for_detection(), significant_bits=self.significant_bits or 16)
        return Transforms(
            resize,
            significant_bits=self.significant_bits or 16,
            horizontal_flip=self.horizontal_flip,
            vertical_flip=self.vertical_flip,
            reduced_decoding=self.reduced_decoding,
            distortion=built(self.distortion),
            expansion=built(self.expansion),
            crop=built(self.crop),
        )

    def prepare(self, with_masks: bool = False, is_evaluated: bool = True) -> Prepared:
        """Read and check what a training uses, in one place for training and doctor; see `rankdet.data.prepare`.

        Masks are read where they are learned (``with_masks``), images to evaluate on where there will be an evaluation.
        """
        from rankdet.data.layouts import Source
        from rankdet.data.preparation import prepare
        from rankdet.structures import InputError

        layout = functools.cache(self.find_layout)
        read_whole = functools.cache(Source.read)  # what is held out is of the same reading

        def read(found: Source, masks: bool) -> tuple[GroundTruth, list[Finding]]:
            truth, findings = read_whole(replace(found, part=None), masks)
            return found.chosen(truth), findings

        def build_training() -> CocoDataset:
            found = self._required(self.train_split, layout)
            dataset = self._training_dataset(found, with_masks, functools.partial(read, found))
            return dataset.with_bits(self.significant_bits)

        def build_validation() -> CocoDataset | str:
            if not is_evaluated:
                return "the recipe asks for no evaluation"
            found = self._validation(layout)
            if found is None:
                return "there is no split val; data.validation_fraction=0.1 holds out a part of the images"
            return self._test_dataset(found, functools.partial(read, found), measure_masks=with_masks)

        name, said = "Data", []
        with suppress(InputError):  # which is found where data sets are built
            name = f"{self._required(self.train_split, layout).layout} data"
            said = self._said_of_fraction(self._validation(layout))
        folder = self.folder
        if folder is None and self.train_annotations is not None:
            folder = self.train_annotations.parent
        prepared = prepare(name, build_training, build_validation, folder)
        return replace(prepared, findings=[*prepared.findings, *said])

    def _said_of_fraction(self, validation: Source | None) -> list[Finding]:
        """What has become of ``validation_fraction``."""
        from rankdet.coco import Finding

        if self.validation_fraction is None or validation is None:
            return []
        field = f"data.validation_fraction={self.validation_fraction:g}"
        held_out = f"a part of the images is held out: {field}"
        said = f"is there to evaluate on: {field} holds out nothing" if validation.part is None else held_out
        return [Finding("note", str(validation.annotations), "", said)]

    def build_training_dataset(self, with_masks: bool = False) -> CocoDataset:
        """The images to learn from, with the masks of their objects where asked for.

        Raises InputError where they are missing or broken.
        """
        found = self.find_source(self.train_split)
        return self._training_dataset(found, with_masks, found.read)

    def _training_dataset(self, found: Source, with_masks: bool, read: _Read) -> CocoDataset:
        from rankdet.data import CocoDataset

        return CocoDataset(
            found.annotations,
            found.images,
            self.build_transforms(training=True),
            with_masks=with_masks,
            as_outlines=self.mask_outlines,
            keep_empty=self.keep_empty,
            skip_unreadable=self.skip_unreadable,
            min_object=self.min_object,
            read=read,
        )

    def build_test_dataset(
        self, split: str | None = None, with_masks: bool = False, measure_masks: bool = False
    ) -> CocoDataset:
        """The images of a split (the validation split by default), all of them, unflipped.

        Targets have masks for losses alone (``with_masks``); an evaluation by masks needs them in the ground truth
        (``measure_masks``).
        """
        found = self.find_source(self.validation_split if split is None else split)
        return self._test_dataset(found, found.read, with_masks, measure_masks)

    def _test_dataset(
        self, found: Source, read: _Read, with_masks: bool = False, measure_masks: bool = False
    ) -> CocoDataset:
        from rankdet.data import CocoDataset

        return CocoDataset(
            found.annotations,
            found.images,
            self.build_transforms(training=False),
            with_masks=with_masks,
            as_outlines=self.mask_outlines,
            measure_masks=measure_masks,
            keep_empty=True,
            read=read,
        )

    def build_sampler(
        self,
        dataset: CocoDataset,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        before: Sequence[tuple[int, int]] = (),
    ) -> GroupedBatchSampler:
        """What a process trains on from batch ``start`` on, without end; see `GroupedBatchSampler` for ``before``."""
        from rankdet.data import GroupedBatchSampler

        repeats = None if self.repeat_threshold is None else dataset.repeats(self.repeat_threshold)
        return GroupedBatchSampler(
            dataset.aspect_ratios, self.batch_size, seed, rank, world_size, start, repeats, before
        )
