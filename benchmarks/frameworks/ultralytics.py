"""YOLO11 nano of Ultralytics, in the environment and with the paste of docs/plugging-in.md; all from scratch.

Their license is the AGPL; nothing of it is in this file, which runs what its user has installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.nms import non_max_suppression

from rankdet.adapters.calibration import find_calibration, rescale
from rankdet.structures import Batch, Detection, Images

from .interface import CLASSES, Family, matches, relative_boxes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugging-in.md"
THRESHOLD = 0.25
"""The default of ``predict``."""
LOWEST, SUPPRESSED = 1e-9, 0.7
"""A threshold that drops nothing, and the IoU from which ``predict`` suppresses."""


@cache
def pasted() -> dict[str, Any]:
    """The names of the lines that a user pastes."""
    section = PAGE.read_text(encoding="utf-8").split("\n## Ultralytics\n")[1]
    names: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[0], PAGE, "exec"), names)
    return names


class UltralyticsDetector:
    """A detector of Ultralytics in the form of `interface.Detector`."""

    threshold = THRESHOLD

    def __init__(self, num_classes: int) -> None:
        self.network: Any = DetectionModel("yolo11n.yaml", nc=num_classes, verbose=False)
        self.network.args = get_cfg()
        self.network.criterion = self.network.init_criterion()

    def use_rank_sort(self, boxes: Literal["theirs", "balanced"]) -> None:
        """Change the criterion as the paste does."""
        if boxes != "theirs":
            raise ValueError("YOLO keeps its own losses of boxes")
        pasted()["use_rank_sort"](self.network.criterion)

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the terms, per image."""
        counts = torch.tensor([len(target.labels) for target in batch.targets])
        objects = {
            "img": batch.images.pixels / 255,
            "batch_idx": torch.arange(len(counts)).repeat_interleave(counts).float(),
            "cls": torch.cat([target.labels for target in batch.targets]).float()[:, None],
            "bboxes": torch.cat(relative_boxes(batch)),
        }
        terms: Tensor = self.network.loss(objects)[0]
        return terms.sum() / len(counts)

    def detect(self, images: Images) -> list[Detection]:
        """Detections as ``predict`` makes them."""
        found = non_max_suppression(self.network(images.pixels / 255), LOWEST, SUPPRESSED)
        return [Detection(each[:, :4], each[:, 4], each[:, 5].long()) for each in found]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Store scale and shift in the classifiers of all levels."""
        found = find_calibration(matches(self.detect, batches), self.threshold)
        for level in self.network.model[-1].cv3:
            rescale(level[-1].weight, level[-1].bias, found)


def small(num_classes: int, size: tuple[int, int], pretrained: bool) -> UltralyticsDetector:
    """YOLO11 nano; there are no pretrained weights without a download."""
    return UltralyticsDetector(num_classes)


def large(size: tuple[int, int]) -> UltralyticsDetector:
    """The same network of 80 classes."""
    return UltralyticsDetector(CLASSES)


FAMILIES = {"yolo11n": Family(small, large, rates=(1e-3, 2e-3, 4e-3), clip=10.0, forms=("theirs", "rs"))}
