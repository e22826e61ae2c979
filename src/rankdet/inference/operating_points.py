"""Where a network drops what it has found: the score threshold before NMS, and the IoU threshold of NMS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn
from typing_extensions import Self

from rankdet.structures import InputError


@dataclass(frozen=True)
class OperatingPoint:
    """Two settings of detection, which trade speed for AP.

    Parameters
    ----------
    score_threshold
        In [0, 1]: pairs of box and class up to this score of the network are dropped before NMS.
    nms_iou
        In [0, 1]: the IoU above which the lower-scored of two boxes of a class is dropped; None for networks that have
        no such setting.

    Raises
    ------
    InputError
        When a number is out of its range.
    """

    score_threshold: float
    nms_iou: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} must be from 0 to 1, not {value}")

    @classmethod
    def of(cls, network: nn.Module) -> Self:
        """Where a network is.

        Raises InputError when it has no ``detection`` with a ``score_threshold``, as our detectors have.
        """
        settings: Any = getattr(network, "detection", None)
        if not hasattr(settings, "score_threshold"):
            raise InputError(f"{type(network).__name__} has no settings of detection with a score threshold")
        return cls(settings.score_threshold, getattr(settings, "nms_iou", None))

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """The network detects at this point inside, and where it was at the end; raises InputError as `of` does."""
        has_nms = OperatingPoint.of(network).nms_iou is not None
        if has_nms != (self.nms_iou is not None):
            has = "an IoU threshold of NMS, which the point lacks" if has_nms else "no IoU threshold of NMS"
            raise InputError(f"{type(network).__name__} has {has}")
        before: Any = network.detection
        values = {name: value for name, value in asdict(self).items() if value is not None}
        network.detection = replace(before, **values)
        try:
            yield
        finally:
            network.detection = before

    def __str__(self) -> str:
        return f"score threshold {self.score_threshold:g}" + ("" if self.nms_iou is None else f", NMS {self.nms_iou:g}")

    def state(self) -> dict[str, float | None]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Self:
        """The point whose `state` this is; raises KeyError, TypeError or ValueError where it is none."""
        iou = state["nms_iou"]
        return cls(float(state["score_threshold"]), None if iou is None else float(iou))
