"""Parts of detectors refuse numbers outside of their ranges where they are made, and parts that do not fit together."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rankdet.detectors import DetectionSettings, MaskDetectionSettings
from rankdet.heads import (
    AnchorGenerator,
    BoxCoder,
    BoxHead,
    CenteredAnchors,
    DenseHead,
    GridHead,
    InstanceStage,
    MaskHead,
    ProposalSettings,
    RoIPooling,
    RPNHead,
)
from rankdet.label_assignment import ATSSAssigner, GridAssigner, MaxIoUAssigner, PAAAssigner, RandomSampler

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no proposal of a level": (lambda: ProposalSettings(per_level=0), "per_level must be at least 1, got 0"),
    "an IoU above one": (lambda: DetectionSettings(nms_iou=1.5), "nms_iou must be at most 1, got 1.5"),
    "a score below zero": (lambda: MaskDetectionSettings(least_score=-0.1), "least_score must be at least 0, got -0.1"),
    "a std of zero": (lambda: BoxCoder((1.0, 1.0, 0.0, 1.0)), "stds must be greater than 0, got 0.0"),
    "a scale of zero": (lambda: AnchorGenerator((4,), scales=(0.0,)), "scales must be greater than 0, got 0.0"),
    "a side below zero": (lambda: CenteredAnchors(sides=(8.0, -8.0)), "sides must be greater than 0, got -8.0"),
    "a prior of one": (lambda: RPNHead(8, prior=1.0), "prior must be less than 1, got 1.0"),
    "no channels": (lambda: BoxHead(8, 3, softmax=False, channels=0), "channels must be at least 1, got 0"),
    "no class": (lambda: MaskHead(8, 0), "num_classes must be at least 1, got 0"),
    "no cell": (lambda: RoIPooling(output_size=0), "output_size must be at least 1, got 0"),
    "no mask": (
        lambda: InstanceStage(CenteredAnchors((8.0,)), BoxCoder(), masks_per_image=0),
        "masks_per_image must be at least 1, got 0",
    ),
    "no candidate": (lambda: ATSSAssigner(0), "candidates_per_level must be at least 1, got 0"),
    "no variance": (lambda: PAAAssigner(added_variance=0.0), "added_variance must be greater than 0, got 0.0"),
    "more than all": (lambda: RandomSampler(256, 1.1), "positive_fraction must be at most 1, got 1.1"),
    "a positive that is also a negative": (lambda: MaxIoUAssigner(0.3, 0.5), "positive_iou = 0.3 is below"),
    "a range that ends before it starts": (lambda: GridAssigner((4,), ((8.0, 4.0),)), "a range from 8.0 to 4.0"),
    "groups of a dense head": (
        lambda: DenseHead(18, 3, num_per_cell=1, num_levels=1, auxiliary=False, groups=4),
        "channels = 18 is no multiple of groups = 4",
    ),
    "groups of a grid head": (
        lambda: GridHead(8, 3, grids=(4,), kernel_channels=8, channels=18, groups=4),
        "channels = 18 is no multiple of groups = 4",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_part_that_cannot_work_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError) as raised:
        make()
    assert message in str(raised.value)


def test_no_convolutions_need_no_groups() -> None:
    head = DenseHead(18, 3, num_per_cell=1, num_levels=1, auxiliary=False, num_convolutions=0, groups=4)
    assert head.classifier.in_channels == 18
