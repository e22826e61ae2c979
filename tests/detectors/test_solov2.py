"""SOLOv2 on tiny images: detections against a plain transcription of the rules, boxes, borders, and empty cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from rankdet.detectors import MaskDetectionSettings, SOLOv2
from rankdet.detectors.solov2 import mask_boxes, mask_statistics
from rankdet.heads import GridOutputs, canvas_scores
from rankdet.structures import Images

Build = Callable[[bool], SOLOv2]


def make_images(sizes: list[tuple[int, int]]) -> Images:
    torch.manual_seed(4)
    return Images(torch.randint(256, (len(sizes), 3, 64, 96), dtype=torch.uint8), tuple(sizes))


def spread(detector: SOLOv2) -> SOLOv2:
    """Weights with which scores, areas and overlaps are all over the place."""
    torch.manual_seed(5)
    for parameter in detector.grid.parameters():
        torch.nn.init.normal_(parameter, mean=0.1 if parameter.ndim == 1 else 0.0, std=0.3)
    torch.nn.init.constant_(detector.grid.head.classifier.bias, -1.5)
    return detector.eval()


def transcribed(
    detector: SOLOv2, outputs: GridOutputs, image: int, settings: MaskDetectionSettings
) -> list[tuple[float, int, Tensor]]:
    """(score, label, probabilities of the small mask) of one image, best first, step by step and mask by mask."""
    found = []
    kernels, features = outputs.kernels[image], outputs.features[image]
    logits, start = outputs.logits[image].sigmoid(), 0
    strides = [8, 8, 16, 16]
    for size, stride in zip(detector.grid.head.grids, strides, strict=True):
        level = logits[start : start + size * size].T.view(1, -1, size, size)
        kept = level * (max_pool2d(level, 2, stride=1, padding=1)[..., :-1, :-1] == level)
        for label, row, column in (kept[0] > settings.score_threshold).nonzero().tolist():
            probabilities = torch.einsum("d,dhw->hw", kernels[start + row * size + column], features).sigmoid()
            binary = probabilities > 0.5
            if int(binary.sum()) > stride:
                score = float(kept[0, label, row, column] * probabilities[binary].mean())
                found.append((score, label, probabilities))
        start += size * size
    found.sort(key=lambda each: -each[0])
    found = found[: settings.num_candidates]

    def iou(one: int, other: int) -> float:
        if found[one][1] != found[other][1]:
            return 0.0
        first, second = found[one][2] > 0.5, found[other][2] > 0.5
        return int((first & second).sum()) / int((first | second).sum())

    overlaps = torch.zeros(len(found), len(found))
    for j in range(len(found)):
        for i in range(j):
            overlaps[i, j] = iou(i, j)
    worst = overlaps.amax(dim=0)
    decayed = []
    for j, (score, label, probabilities) in enumerate(found):
        factors = [
            float(torch.exp(-settings.sigma * (overlaps[i, j] ** 2 - worst[i] ** 2)))
            for i in range(j)
            if found[i][1] == label
        ]
        decayed.append((score * min(factors, default=1.0), label, probabilities))
    decayed = [each for each in decayed if each[0] >= settings.least_score]
    return sorted(decayed, key=lambda each: -each[0])[: settings.per_image]


@pytest.mark.parametrize(
    "settings",
    [
        MaskDetectionSettings(),
        MaskDetectionSettings(score_threshold=0.2, num_candidates=25, sigma=0.5, least_score=0.0, per_image=9),
    ],
    ids=["default", "other numbers"],
)
@pytest.mark.parametrize("chunk", [1, 5000, 1 << 22])
def test_detections_are_those_of_the_rules_whatever_the_pieces(
    tiny_solov2: Build, settings: MaskDetectionSettings, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankdet.detectors.solov2.CHUNK", chunk)
    detector = spread(tiny_solov2(True))
    detector.detection = settings
    images = make_images([(64, 96), (50, 90)])
    with torch.no_grad():
        outputs = detector.grid(detector.fpn(detector.backbone(images)))
        expected = [transcribed(detector, outputs, image, settings) for image in range(2)]
    for found, rows, size in zip(detector.detect(images), expected, images.sizes, strict=True):
        assert len(rows) > 5
        assert found.scores.tolist() == pytest.approx([score for score, *_ in rows], abs=1e-5)
        assert found.labels.tolist() == [label for _, label, _ in rows]
        # At four times the size, as the network sees the image, cropped to what is no padding.
        small = torch.stack([probabilities for *_, probabilities in rows])[:, None]
        large = interpolate(small, scale_factor=4, mode="bilinear")[:, 0, : size[0], : size[1]]
        differs = found.masks.bitmaps(size) != (large >= 0.5)
        assert not (differs & ((large - 0.5).abs() > 1e-5)).any()


def test_boxes_lie_around_the_masks(tiny_solov2: Build) -> None:
    detector = spread(tiny_solov2(True))
    images = make_images([(61, 83)])
    (found,) = detector.detect(images)
    assert len(found.boxes) > 5
    for box, mask in zip(found.boxes, found.masks.bitmaps((61, 83)), strict=True):
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        assert box.tolist() == [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_masks_reach_the_border_of_the_image_and_scale_with_it() -> None:
    masks = canvas_scores(torch.full((1, 4, 6), 0.1), (16, 24))
    assert masks.bitmaps((16, 24)).all()
    assert mask_boxes(masks.scores[:, 1:-1, 1:-1], 4, (16, 24)).tolist() == [[0, 0, 24, 16]]
    assert replace(masks, regions=masks.regions * 2.5).bitmaps((40, 60)).all()


def test_a_mask_in_the_padding_alone_is_no_detection(tiny_solov2: Build) -> None:
    detector = tiny_solov2(True)
    features = torch.zeros(8, 16, 24)
    features[0], features[1] = -9, -9
    features[0, :, 15:] = 9  # right of the image
    features[1, :, :12] = 9
    kernels = torch.zeros(detector.grid.assigner.num_cells, 8)
    peaks = torch.zeros(len(kernels), 3)
    kernels[3, 0], kernels[9, 1] = 1, 1
    peaks[3, 0], peaks[9, 2] = 0.9, 0.5
    found = detector._detect(peaks, kernels, features, (64, 50))
    assert found.labels.tolist() == [2]
    assert found.boxes.tolist() == [[0, 0, 48, 64]]
    assert len(detector._detect(peaks, kernels, features, (64, 96)).labels) == 2


def test_masks_no_larger_than_the_stride_of_their_level_are_dropped(tiny_solov2: Build) -> None:
    detector = tiny_solov2(True)
    features = torch.full((8, 16, 24), -9.0)
    features[0, :2, :4] = 9  # 8 cells
    kernels, peaks = torch.zeros(detector.grid.assigner.num_cells, 8), torch.zeros(detector.grid.assigner.num_cells, 3)
    kernels[:, 0], peaks[0, 0] = 1, 0.9
    assert not len(detector._detect(peaks, kernels, features, (64, 96)).labels)
    features[0, 2, 0] = 9
    assert len(detector._detect(peaks, kernels, features, (64, 96)).labels) == 1


def test_statistics_of_masks_are_those_inside_of_them() -> None:
    torch.manual_seed(0)
    features, kernels = torch.randn(5, 7, 6), torch.randn(9, 5)
    area, mean = mask_statistics(features, kernels)
    scores = torch.einsum("kd,dhw->khw", kernels, features).sigmoid()
    assert area.tolist() == (scores > 0.5).sum(dim=(1, 2)).tolist()
    expected = torch.stack([each[each > 0.5].mean() for each in scores])
    torch.testing.assert_close(mean, expected)


def test_nothing_detected_has_no_masks(tiny_solov2: Build) -> None:
    detector = tiny_solov2(True).eval()
    detector.detection = MaskDetectionSettings(score_threshold=0.999)
    for found in detector.detect(make_images([(64, 96), (40, 30)])):
        assert found.boxes.shape == (0, 4)
        assert len(found.masks) == 0
        assert found.masks.bitmaps((64, 96)).shape == (0, 64, 96)
        assert found.scaled((64, 96), (128, 192)).boxes.shape == (0, 4)


def test_one_image_or_two_give_the_same(tiny_solov2: Build) -> None:
    detector = spread(tiny_solov2(True))
    both = make_images([(64, 96), (50, 90)])
    for index, found in enumerate(detector.detect(both)):
        (alone,) = detector.detect(Images(both.pixels[index : index + 1], both.sizes[index : index + 1]))
        torch.testing.assert_close(found.scores, alone.scores)
        assert torch.equal(found.labels, alone.labels)


def test_detection_works_under_autocast(tiny_solov2: Build) -> None:
    detector = spread(tiny_solov2(True))
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = detector.detect(make_images([(64, 96)]))
    assert len(found.scores)
    assert found.scores.dtype == found.masks.scores.dtype == torch.float32


def test_the_forms_differ_in_the_assigner_alone(tiny_solov2: Build) -> None:
    standard, ranking = tiny_solov2(False), tiny_solov2(True)
    assert standard.state_dict().keys() == ranking.state_dict().keys()
    assert replace(standard.grid.assigner, one_mask_per_cell=True) == ranking.grid.assigner
