"""What is written to files finds, in fixed shapes, what `detect` finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rankdet.backbones import TimmBackbone
from rankdet.data import FixedSize, KeepRatio
from rankdet.data.transforms import Placement
from rankdet.detectors import ATSS
from rankdet.exporting.calibrated import CalibratedScores
from rankdet.exporting.fixed import FixedDetections, FixedImages, not_suppressed
from rankdet.exporting.graph import Graph
from rankdet.exporting.preparation import Prepared, resized
from rankdet.inference.score_maps import Isotonic, Platt, ScoreMap, Unchanged, fit_isotonic
from rankdet.structures import Detection, Images, InputError

from .networks import CALIBRATION, SIZES, assert_same, model, network, two_images

DETECTORS = [
    "atss_shapes",
    "rs_atss_shapes",
    "paa_shapes",
    "faster_rcnn_shapes",
    "rs_faster_rcnn_shapes",
    "cascade_rcnn_shapes",
    "mask_rcnn_shapes",
    "yolact_shapes",
    "rs_yolact_shapes",
    "solov2_shapes",
    "detr_shapes",
]


@pytest.mark.parametrize("recipe", DETECTORS)
def test_fixed_shapes_find_what_detect_finds(recipe: str) -> None:
    detector, images = network(recipe, 3 if "yolact" in recipe else 30), two_images()
    with torch.no_grad():
        found = Graph(detector)(images.pixels, torch.tensor(images.sizes))
    for image, expected in enumerate(detector.detect(images)):
        assert len(expected.scores) > 50
        assert_same(expected, [part[image] for part in found], pixels=1e-3)


@pytest.mark.parametrize("recipe", ["atss_shapes", "mask_rcnn_shapes", "yolact_shapes", "solov2_shapes"])
def test_an_image_without_detections_has_rows_of_zeros(recipe: str) -> None:
    detector = network(recipe, 0.0)  # every score is that of the bias
    object.__setattr__(detector.detection, "score_threshold", 0.9)
    images = two_images()
    with torch.no_grad():
        boxes, scores, labels, *_ = Graph(detector)(images.pixels, torch.tensor(images.sizes))
    assert not detector.detect(images)[0].scores.any()
    assert boxes.shape == (2, 100, 4)
    assert not boxes.any()
    assert not scores.any()
    assert not labels.any()


@pytest.mark.parametrize("recipe", ["atss_shapes", "solov2_shapes", "mask_rcnn_shapes"])
def test_calibrated_detections_are_ordered_anew_with_all_their_parts(recipe: str) -> None:
    detector, images = network(recipe), two_images()
    with torch.no_grad():
        found = Graph(detector, CALIBRATION)(images.pixels, torch.tensor(images.sizes))
    assert bool((found[1].diff(dim=1) <= 0).all())
    for image, expected in enumerate(detector.detect(images)):
        calibrated = CALIBRATION(expected)
        assert not torch.equal(calibrated.labels, expected.labels)  # the order is another
        assert_same(calibrated, [part[image] for part in found], pixels=1e-3)


def test_maps_of_scores_are_those_of_the_model_in_float32() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(0, 1, 300).astype(np.float32).astype(np.float64)
    fitted = fit_isotonic(scores, (random.uniform(0, 1, 300) < scores).astype(np.float64))
    ends = Isotonic((0.0, 0.5, 1.0), (0.1, 0.1, 0.9))
    maps: list[ScoreMap] = [fitted, ends, Platt(0.0, 0.3), Platt(3.0, -2.0), Unchanged()]
    given = torch.cat([torch.linspace(0, 1, 401), torch.tensor(scores, dtype=torch.float32)])
    for label, each in enumerate(maps):
        found = CalibratedScores(maps).scores(given[None], torch.full((1, len(given)), label))[0]
        expected = torch.tensor(each(given.double().numpy()))
        assert (found - expected)[given > 0].abs().max() < 1e-5  # a score of 0 is no detection
    assert len(fitted.state()["scores"]) > 20


def test_rows_that_are_none_remain_none_after_calibration() -> None:
    scores, labels = torch.tensor([[0.9, 0.5, 0.0]]), torch.tensor([[1, 0, 0]])
    boxes = torch.arange(3.0)[None, :, None].expand(1, 3, 4)
    maps = [Platt(1.0, 2.0), Platt(1.0, -3.0)]
    found = CalibratedScores(maps)(FixedDetections(boxes, scores, labels))
    assert found.labels.tolist() == [[0, 1, 0]]
    assert found.boxes[0, :, 0].tolist() == [1, 0, 2]
    assert found.scores[0, 2] == 0
    assert (found.masks, found.regions) == (None, None)


def test_folded_normalization_becomes_ordinary_convolutions() -> None:
    backbone = TimmBackbone("resnet18", (2, 3)).eval()
    images = two_images()
    maps = backbone(images)
    exported = Graph(backbone).network
    assert {type(module) for module in exported.modules() if "Conv" in type(module).__name__} == {nn.Conv2d}
    for before, after in zip(maps, exported(FixedImages(images.pixels, torch.tensor(SIZES))), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def test_only_boxes_of_an_image_and_group_suppress_each_other() -> None:
    box, far = [0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0]
    boxes = torch.tensor([[box, box, box, far, box]] * 9)
    scores = torch.tensor([[0.5, 0.9, 0.4, 0.3, 0.8]] * 9)
    groups = torch.tensor([[0, 0, 6, 0, 6]] * 9)
    alive = torch.tensor([[True, True, True, True, False]] * 9)
    images = FixedImages(torch.zeros(9, 3, 64, 64), torch.tensor([[64, 64]] * 9))
    kept = not_suppressed(boxes, scores, groups, alive, images, num_groups=7, iou=0.5)
    assert kept.tolist() == [[False, True, True, True, False]] * 9


class Suppression(nn.Module):
    def forward(self, boxes: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        images = FixedImages(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]))
        groups = torch.zeros_like(alive, dtype=torch.int64)
        return not_suppressed(boxes, boxes.sum(dim=2), groups, alive, images, num_groups=1, iou=0.5)


@pytest.mark.filterwarnings("ignore:`create_unbacked_symint`")
def test_exported_suppression_takes_images_of_which_no_box_remains() -> None:
    """That of torchvision takes it for granted that two boxes or more do."""
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [9.0, 9.0, 12.0, 12.0], [0.0, 0.0, 4.0, 5.0]]])
    run = torch.export.export(Suppression(), (boxes, torch.ones(1, 3, dtype=torch.bool)), strict=False).module()
    assert run(boxes, torch.tensor([[True, True, True]])).tolist() == [[False, True, True]]
    assert run(boxes, torch.tensor([[True, False, True]])).tolist() == [[False, False, True]]
    assert run(boxes, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[False, False, False]]


@pytest.mark.parametrize(("before", "after"), [((48, 64), (48, 64)), ((97, 61), (40, 25)), ((30, 41), (64, 90))])
def test_images_are_resized_in_the_graph_as_before_detection(before: tuple[int, int], after: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (3, *before), dtype=torch.uint8)
    expected = Placement(before, after).image(pixels)
    sizes = (torch.tensor(size, dtype=torch.float64) for size in (before, after))
    found = resized(pixels.permute(1, 2, 0), *sizes, (100, 96))[0]
    assert found.shape == (3, 100, 96)
    assert not found[:, after[0] :].any()
    assert not found[:, :, after[1] :].any()
    difference = (found[:, : after[0], : after[1]] - expected).abs()
    assert difference.max() <= 1  # torch's weights are rounded
    assert difference.mean() < 0.02


@pytest.mark.parametrize("size", [(192, 256), (60, 80), (150, 120)])
def test_one_photograph_is_prepared_as_before_detection(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    soft = nn.functional.interpolate(torch.rand(1, 3, 9, 12) * 255, size=size, mode="bilinear")[0].byte()
    own = model("rs_atss_shapes")
    assert own.transforms.resize is not None
    height, width = own.padded_size(size)
    found = Prepared(Graph(own.network), own.transforms.resize, (height, width))(soft.permute(1, 2, 0))
    expected = own.detect(soft)
    assert len(expected) == 100
    # Pixels may differ by one from those of torch, whose weights are rounded.
    assert (found[1][0] - expected.scores).abs().max() < 1e-2
    assert (found[0][0].sort(dim=0).values - expected.boxes.sort(dim=0).values).abs().mean() < 1


@pytest.mark.parametrize(
    ("resize", "before", "expected"),
    [
        (KeepRatio(1333, (640, 800)), (480, 640), (800, 1067)),
        (KeepRatio(1333, (800,), test_short=600), (480, 640), (600, 800)),
        (KeepRatio(1333, (800,)), (1000, 200), (1333, 267)),
        (FixedSize(300, 500), (480, 640), (300, 500)),
        (None, (480, 640), (480, 640)),
    ],
)
def test_the_new_size_is_that_of_detection(
    resize: KeepRatio | FixedSize | None, before: tuple[int, int], expected: tuple[int, int]
) -> None:
    prepared = Prepared(Graph(nn.Identity()), resize, (1344, 1344))
    assert tuple(prepared.new_size(torch.tensor(before, dtype=torch.float64)).tolist()) == expected


def test_an_image_larger_than_the_canvas_keeps_its_ratio() -> None:
    prepared = Prepared(Graph(nn.Identity()), KeepRatio(1333, (800,)), (400, 400))
    assert prepared.new_size(torch.tensor([480, 640], dtype=torch.float64)).tolist() == [300, 400]


class Vertical(ATSS):
    def detect(self, images: Images) -> list[Detection]:
        return super().detect(images)


def test_a_detector_with_a_detect_of_its_own_is_refused() -> None:
    """A file would have that of its parent."""
    detector = network("atss_shapes")
    detector.__class__ = Vertical
    with pytest.raises(InputError, match=r"Vertical cannot be exported: it has a detect of its own, .* that of ATSS"):
        Graph(detector)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.tensor([[32, 32]]))


def test_a_network_that_is_no_detector_of_ours_is_refused() -> None:
    with pytest.raises(InputError, match="Linear cannot be exported"):
        Graph(nn.Linear(1, 1))(torch.zeros(1, 3, 32, 32), torch.tensor([[32, 32]]))
