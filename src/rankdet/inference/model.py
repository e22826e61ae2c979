"""The model: a network with all that it needs to take images and to give detections.

Legend: B images of a batch, C classes, D detections of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, overload

import torch
from torch import Tensor, nn

from rankdet.data import Sample, Transforms, collate
from rankdet.data.loading import batches_of_one_shape, padded_size
from rankdet.data.pixels import ImageLike, to_pixels
from rankdet.data.transforms import Placement
from rankdet.inference.detections import Detections
from rankdet.inference.operating_points import OperatingPoint
from rankdet.inference.score_maps import Calibration
from rankdet.inference.tiles import Tiles, merged
from rankdet.structures import Batch, Candidates, Detection, Images, InputError, Source, Target

if TYPE_CHECKING:
    from rankdet.recipes import Recipe

NO_THRESHOLD = 0.5
"""Score from which detections of a class are drawn where no evaluation has found its optimal threshold."""


class Network(Protocol):
    """What a model asks of its network, which is an ``nn.Module``."""

    def forward(self, batch: Batch) -> list[Candidates]:
        """The candidates of each head, for its loss, on the device of the network."""
        ...

    def detect(self, images: Images) -> list[Detection]:
        """B detections, each in pixels of its image as it is in the batch, best score first."""
        ...


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Parameters
    ----------
    recipe
        What it was trained with.
    path
        Its checkpoint; None where there is none yet.
    """

    recipe: Recipe
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A network, the preparation of its images, its precision, memory layout and device, its classes and thresholds.

    The network moves to the device, into the memory layout, when the model is made. Everything that runs a network
    goes through a model: it alone knows autocast, memory layout and resizing.

    Parameters
    ----------
    network
        A `Network`: batch → candidates, images → detections.
    categories
        C pairs (id, name): label → category.
    transforms
        What is done to an image before detection.
    thresholds
        C LRP-optimal score thresholds of the last evaluation, NaN where a class has none; None before any evaluation.
        They are of the network's own scores, and by the IoU of masks where it finds them.
    calibration
        What the scores of the network become; None: they stay as they are.
    operating_point
        Where the network detects; None: by its own settings.
    device
        Where the network is.
    precision
        Arithmetic of the network: float32, or bfloat16 or float16 by autocast. On a CPU float16 is float32, for there
        it is many times slower.
    channels_last
        Memory layout of images and convolutions.
    max_detections
        Detections of an image that an evaluation counts.
    origin
        The recipe and the checkpoint that it comes from, for an evaluation on other data; None where there are none.
    """

    network: nn.Module
    categories: Sequence[tuple[int, str]]
    transforms: Transforms = field(default_factory=Transforms)
    thresholds: Sequence[float] | None = None
    calibration: Calibration | None = None
    operating_point: OperatingPoint | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    max_detections: int = 100
    origin: Origin | None = None

    def __post_init__(self) -> None:
        self.network.to(self.device)
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)

    @property
    def names(self) -> list[str]:
        """C names of classes, by label."""
        return [name for _, name in self.categories]

    def __repr__(self) -> str:
        kind = type(self.network).__name__
        return f"Model({kind} of {len(self.categories)} classes, {self.precision}, {self.device})"

    def forward(self, batch: Batch) -> list[Candidates]:
        """The candidates of each head, with gradients where they are enabled. Moves the batch to the device.

        Raises
        ------
        InputError
            When the network returns something else, or candidates of another number of classes.
        """
        moved = replace(batch.to(self.device), images=self._placed(batch.images))
        with self._arithmetic():
            heads = self.network(moved)
        self._check(heads)
        return heads

    @torch.no_grad()
    def detect_batch(self, batch: Batch) -> list[Detection]:
        """B detections in pixels of the files, on the CPU; the network should be `evaluating`."""
        with self._arithmetic():
            found = self.network.detect(self._placed(batch.images))  # type: ignore[operator]
        scaled = [
            _on_cpu(detection).scaled(size, source.size)
            for detection, size, source in zip(found, batch.images.sizes, batch.sources, strict=True)
        ]
        return scaled if self.calibration is None else [self.calibration(detection) for detection in scaled]

    @overload
    def detect(  # type: ignore[overload-overlap]
        self, images: ImageLike, batch_size: int = ..., tiles: Tiles | None = ...
    ) -> Detections: ...

    @overload
    def detect(
        self, images: Sequence[ImageLike], batch_size: int = ..., tiles: Tiles | None = ...
    ) -> list[Detections]: ...

    def detect(
        self, images: ImageLike | Sequence[ImageLike], batch_size: int = 8, tiles: Tiles | None = None
    ) -> Detections | list[Detections]:
        """Find objects in an image, or in each of a list of images.

        Parameters
        ----------
        images
            A path, a PIL image of any mode, an array (H, W, 3) or a tensor (3, H, W); uint8, or floating point from 0
            to 1. Files and PIL images are turned upright as their EXIF orientation says. Or a list of these.
        batch_size
            Images per pass through the network. Only images of one size after resizing and padding share a batch, so
            none is padded for another, and each gives what it gives alone, up to rounding.
        tiles
            Cut each image into these tiles, and put together what is found in them (`rankdet.inference.tiles.merged`):
            for images in which objects would be too small, or too many, if they were seen as a whole. ``batch_size``
            is then that of the tiles, and an image may have as many detections as all its tiles.

        Returns
        -------
        Detections or list[Detections]
            In pixels of the given image; one for each image of a list, in its order.

        Raises
        ------
        InputError
            When an image cannot be read or has another form.
        """
        if isinstance(images, list | tuple):
            return self._detect_all(images, batch_size, tiles)
        return self._detect_all([images], batch_size, tiles)[0]  # type: ignore[list-item]

    def _detect_all(self, images: Sequence[ImageLike], batch_size: int, tiles: Tiles | None) -> list[Detections]:
        if batch_size < 1:
            raise InputError(f"{batch_size=} must be at least 1")
        if tiles is not None:
            all_pixels = map(self._pixels, images, range(len(images)))
            return [self._detect_tiles(pixels, batch_size, tiles) for pixels in all_pixels]
        found: list[Detections | None] = [None] * len(images)
        for source, detection in self._each(map(self._pixels, images, range(len(images))), batch_size):
            found[source.image_id] = self._in_image(detection, source.size)
        return found  # type: ignore[return-value]

    def _detect_tiles(self, pixels: Tensor, batch_size: int, tiles: Tiles) -> Detections:
        size = (pixels.shape[1], pixels.shape[2])
        windows = tiles.windows(size)
        cut = (pixels[:, top:bottom, left:right] for left, top, right, bottom in windows)
        found = ((source.image_id, detection) for source, detection in self._each(cut, batch_size))
        detection, is_cut = merged(found, windows, size)
        return replace(self._in_image(detection, size), is_cut=is_cut)

    def _each(self, images: Iterable[Tensor], batch_size: int) -> Iterator[tuple[Source, Detection]]:
        """The detections of images (3, H, W), batch by batch; the id of a source is the place of its image."""
        with self.evaluating():
            for samples in batches_of_one_shape(map(self._sample, images, count()), _padded_size, batch_size):
                batch = collate(samples)
                yield from zip(batch.sources, self.detect_batch(batch), strict=True)

    def _in_image(self, detection: Detection, size: tuple[int, int]) -> Detections:
        bits = self.transforms.significant_bits
        return Detections(detection, size, self.categories, self.drawing_thresholds(), bits)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the batch that an image of ``size`` (height, width) is in: images of one such size share.

        Examples
        --------
        >>> Model(nn.Identity(), [(1, "cat")]).padded_size((40, 60))
        (64, 64)
        """
        return padded_size([self._place(size).after])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The network is in evaluation mode and at its operating point inside, and as it was before at the end."""
        point = self.operating_point
        was_training = self.network.training
        self.network.train(False)
        try:
            with nullcontext() if point is None else point.applied_to(self.network):
                yield
        finally:
            self.network.train(was_training)

    def with_thresholds(self, thresholds: Sequence[float] | None) -> Model:
        """The same network with other thresholds."""
        return replace(self, thresholds=thresholds)

    def drawing_thresholds(self) -> list[float]:
        """C scores from which each class is drawn: its LRP-optimal one, or 0.5 where no evaluation has found it."""
        found = torch.tensor(self.thresholds or [math.nan] * len(self.categories), dtype=torch.float64)
        if self.calibration is not None:  # the same detections are drawn
            (known,) = (~found.isnan()).nonzero(as_tuple=True)
            found[known] = self.calibration.scores(found[known], known)
        return [NO_THRESHOLD if math.isnan(value) else value for value in found.tolist()]

    def _pixels(self, image: ImageLike, number: int) -> Tensor:
        return to_pixels(image, f"image {number}", bits=self.transforms.significant_bits)

    def _place(self, size: tuple[int, int]) -> Placement:
        with torch.random.fork_rng(devices=[]):  # a detection draws nothing that the caller would notice
            return self.transforms.place(size)

    def _sample(self, pixels: Tensor, number: int) -> Sample:
        size = (pixels.shape[1], pixels.shape[2])
        nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return Sample(self._place(size).image(pixels), nothing, Source(number, "", size))

    def _placed(self, images: Images) -> Images:
        moved = images.to(self.device)
        if self.channels_last:
            return replace(moved, pixels=moved.pixels.contiguous(memory_format=torch.channels_last))
        return moved

    def _arithmetic(self) -> torch.autocast | nullcontext[None]:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        if self.precision == "float16" and self.device.type != "cpu":
            return torch.autocast(self.device.type, torch.float16)
        return nullcontext()

    def _check(self, heads: object) -> None:
        kind = type(self.network).__name__
        if not isinstance(heads, list) or not all(isinstance(candidates, Candidates) for candidates in heads):
            raise InputError(f"{kind}.forward must return a list of Candidates, one for each head")
        for candidates in heads:
            if candidates.num_classes not in (1, len(self.categories)):  # 1: whether there is an object at all
                raise InputError(
                    f"head {candidates.head!r} of {kind} has {candidates.num_classes} classes, and the data have "
                    f"{len(self.categories)}"
                )


def _padded_size(sample: Sample) -> tuple[int, int]:
    return padded_size([(sample.image.shape[1], sample.image.shape[2])])


def _on_cpu(detection: Detection) -> Detection:
    return Detection(
        detection.boxes.float().cpu(),
        detection.scores.float().cpu(),
        detection.labels.cpu(),
        None if detection.masks is None else detection.masks.to("cpu"),
    )
