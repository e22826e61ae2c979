"""Images with their targets: files become a Batch, which a detector is trained and evaluated on.

Legend: B images, G objects of an image, H, W height and width of the canvas in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from rankdet.structures.masks import Outlines


@dataclass(frozen=True)
class Images:
    """Images of different sizes in one tensor, each in the top-left corner, zeros elsewhere.

    Parameters
    ----------
    pixels
        (B, 3, H, W) uint8 RGB.
    sizes
        (height, width) in pixels of each of B images: the part that is not padding.
    """

    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[0] != len(self.sizes):
            raise ValueError(
                f"pixels of shape {tuple(self.pixels.shape)} do not hold {len(self.sizes)} images (B, 3, H, W)"
            )

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``; the transfer does not block where the memory is pinned."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Target:
    """The objects of one image that a detector is to find (crowd regions are not among them).

    Parameters
    ----------
    boxes
        (G, 4) float32, xyxy, in pixels of the image as it enters the detector.
    labels
        (G,) int64 in 0 … C−1.
    masks
        (G, height, width) bool, or outlines where these were asked for. None: the data set has no masks, or none were
        asked for.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | Outlines | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or len(self.boxes) != len(self.labels):
            raise ValueError(
                f"boxes of shape {tuple(self.boxes.shape)} and labels of shape {tuple(self.labels.shape)} do not pair"
            )
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes and {len(self.masks)} masks do not pair")

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``."""
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            masks=masks,
        )


class Source(NamedTuple):
    """Where an image of a batch comes from, so that a message can name it and a detection can return to it."""

    image_id: int
    path: str
    size: tuple[int, int]
    """(height, width) of the file in pixels, before any transform."""


@dataclass(frozen=True)
class Batch:
    """What a detector is trained or evaluated on: images with their targets.

    Parameters
    ----------
    images, targets, sources
        B images, the objects of each, and where each comes from.
    skipped
        Why image files could not be read, each named. In training other images are in their place, in an evaluation
        none.
    """

    images: Images
    targets: tuple[Target, ...]
    sources: tuple[Source, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.targets) == len(self.sources):
            raise ValueError(
                f"{len(self.images)} images, {len(self.targets)} targets and {len(self.sources)} sources do not pair"
            )

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``."""
        return replace(self, images=self.images.to(device), targets=tuple(target.to(device) for target in self.targets))

    def share_memory(self) -> None:
        """Move the tensors into shared memory, from which another process takes them without a copy.

        Raises RuntimeError of torch where it is used up.
        """
        self.images.pixels.share_memory_()
        for target in self.targets:
            masks = target.masks.edges if isinstance(target.masks, Outlines) else target.masks
            for tensor in (target.boxes, target.labels, masks):
                if tensor is not None:
                    tensor.share_memory_()

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory; a data loader calls this by its name."""
        return replace(
            self,
            images=replace(self.images, pixels=self.images.pixels.pin_memory()),
            targets=tuple(
                replace(
                    target,
                    boxes=target.boxes.pin_memory(),
                    labels=target.labels.pin_memory(),
                    masks=None if target.masks is None else target.masks.pin_memory(),
                )
                for target in self.targets
            ),
        )
