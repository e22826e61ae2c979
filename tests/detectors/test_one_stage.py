"""ATSS and PAA in both forms, on tiny images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, nms

from rankdet.detectors import ATSS, PAA, DetectionSettings
from rankdet.detectors.paa import voted
from rankdet.structures import Candidates, Detection, Target

from .batches import make_batch
from .waits import Waits

OneStage = ATSS | PAA
Build = Callable[[str, bool], OneStage]
FORMS = pytest.mark.parametrize("ranking", [False, True], ids=["standard", "ranking"])
KINDS = pytest.mark.parametrize("kind", ["tiny_atss", "tiny_paa"], ids=["ATSS", "PAA"])
NUM_CLASSES = 3
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
TWO = Target(torch.tensor([[4.0, 4.0, 24.0, 22.0], [20.0, 10.0, 60.0, 50.0]]), torch.tensor([2, 0]))


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Build:
    """Builds a detector by its fixture's name, in either form."""
    return lambda kind, ranking: request.getfixturevalue(kind)(ranking)


def surrogate(dense: Candidates) -> Tensor:
    """Return a scalar that depends on all outputs of a detector, in place of a loss."""
    assert dense.boxes is not None
    assert dense.deltas is not None
    total = dense.logits.float().square().sum() + dense.boxes.predicted.sum() + dense.deltas.predicted.sum()
    return total + sum(pairs.predicted.float().sum() for pairs in (dense.auxiliary or {}).values())


def check_gradients(detector: nn.Module) -> None:
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


SCENES = {
    "two images": ([TWO, TWO], [(64, 64), (64, 64)]),
    "one image": ([TWO], [(64, 64)]),
    "odd sizes": ([TWO, TWO], [(61, 83), (50, 97)]),
    "one without objects": ([EMPTY, TWO], [(64, 64), (64, 64)]),
    "none with objects": ([EMPTY, EMPTY], [(64, 64), (64, 70)]),
    "one alone without objects": ([EMPTY], [(33, 64)]),
}


@KINDS
@FORMS
@pytest.mark.parametrize("scene", SCENES)
def test_every_parameter_receives_a_finite_gradient(build: Build, kind: str, ranking: bool, scene: str) -> None:
    detector, batch = build(kind, ranking), make_batch(*SCENES[scene])
    (dense,) = detector(batch)
    assert dense.head == "dense"
    surrogate(dense).backward()
    check_gradients(detector)


@KINDS
@FORMS
def test_only_the_standard_form_has_an_auxiliary_head(build: Build, kind: str, ranking: bool) -> None:
    detector = build(kind, ranking)
    (dense,) = detector(make_batch([TWO, EMPTY], [(64, 64), (64, 64)]))
    name = {"tiny_atss": "centerness", "tiny_paa": "iou"}[kind]
    assert set(dense.auxiliary or {}) == (set() if ranking else {name})
    assert any("auxiliary" in path for path, _ in detector.named_parameters()) != ranking
    if not ranking:
        predicted, target, _ = dense.auxiliary[name]
        expected = dense.centerness if name == "centerness" else box_iou(*dense.boxes[:2]).diagonal()
        torch.testing.assert_close(target, expected)
        assert predicted.requires_grad
        assert not target.requires_grad


@KINDS
@FORMS
def test_the_pool_goes_by_image_and_ignores_padding(build: Build, kind: str, ranking: bool) -> None:
    detector = build(kind, ranking)
    (dense,) = detector(make_batch([TWO, TWO], [(64, 64), (32, 96)]))
    per_cell = 3 if ranking else 1
    cells = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert dense.logits.shape == (2 * per_cell * sum(height * width for height, width in cells), NUM_CLASSES)
    for labels, (height, width) in zip(dense.labels.view(2, -1), [(64, 64), (32, 96)], strict=True):
        finest = labels[: 16 * 24 * per_cell].view(16, 24, per_cell)
        assert (finest[height // 4 :] == -1).all()
        assert (finest[:, width // 4 :] == -1).all()
        assert (finest[: height // 4, : width // 4] >= 0).all()  # no anchor of the image itself is ignored
        assert ((labels >= 0) & (labels < NUM_CLASSES)).any()


@KINDS
@FORMS
def test_without_objects_all_is_background(build: Build, kind: str, ranking: bool) -> None:
    (dense,) = build(kind, ranking)(make_batch([EMPTY, EMPTY], [(64, 64), (64, 64)]))
    assert (dense.labels == NUM_CLASSES).all()
    assert dense.boxes.predicted.shape == (0, 4)
    assert dense.centerness.shape == (0,)


@KINDS
@FORMS
def test_boxes_and_centerness_are_aligned_with_the_positives(build: Build, kind: str, ranking: bool) -> None:
    """With a regressor of zeros boxes are the anchors: they overlap their objects as assigned."""
    detector = build(kind, ranking)
    other = Target(torch.tensor([[30.0, 30.0, 46.0, 46.0]]), torch.tensor([1]))
    for parameter in detector.dense.head.regressor.parameters():
        nn.init.zeros_(parameter)
    (dense,) = detector(make_batch([TWO, EMPTY, other], [(64, 64)] * 3))
    positives = dense.labels[(dense.labels >= 0) & (dense.labels < NUM_CLASSES)]
    anchors, boxes = dense.boxes.predicted.detach(), dense.boxes.target
    assert len(positives) == len(anchors) == len(dense.deltas.target) == len(dense.centerness) > 0
    objects, labels = torch.cat([TWO.boxes, other.boxes]), torch.cat([TWO.labels, other.labels])
    which = (boxes[:, None] == objects).all(dim=2).int().argmax(dim=1)
    assert torch.equal(positives, labels[which])
    assert torch.equal(which, which.sort().values)  # image by image; TWO has its small object on finer levels
    assert (box_iou(anchors, boxes).diagonal() > 0).all()
    decoded = detector.dense.coder.decode(dense.deltas.target, anchors)
    torch.testing.assert_close(decoded, boxes, rtol=1e-4, atol=1e-3)
    for value, (x1, y1, x2, y2), (left, top, right, bottom) in zip(
        dense.centerness.tolist(), anchors.tolist(), boxes.tolist(), strict=True
    ):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        ratios = [
            min(x - left, right - x) / max(x - left, right - x),
            min(y - top, bottom - y) / max(y - top, bottom - y),
        ]
        assert value == pytest.approx((max(ratios[0], 0) * max(ratios[1], 0)) ** 0.5, abs=1e-5)
    assert not dense.centerness.requires_grad


@KINDS
def test_gradient_flows_into_the_boxes_of_positives_alone(build: Build, kind: str) -> None:
    detector = build(kind, True)
    outputs = []
    detector.dense.head.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    (dense,) = detector(make_batch([TWO], [(64, 64)]))
    deltas = outputs[0][1]
    (gradient,) = torch.autograd.grad(dense.boxes.predicted.sum(), deltas)
    touched = gradient[0].any(dim=1).nonzero().squeeze(1)
    assert touched.tolist() == (dense.labels < NUM_CLASSES).nonzero().squeeze(1).tolist()


def test_outputs_of_the_head_stand_in_the_order_of_the_anchors(build: Build) -> None:
    detector = build("tiny_atss", True)
    head = detector.dense.head
    maps = [torch.randn(2, 16, 3, 5), torch.randn(2, 16, 2, 3), torch.randn(2, 16, 1, 2), torch.randn(2, 16, 1, 1)]
    nn.init.constant_(head.scales[1:2], 2.0)
    logits, deltas, auxiliary = head(maps)
    assert auxiliary is None
    assert logits.shape == (2, 3 * (15 + 6 + 2 + 1), NUM_CLASSES)
    scores = head.classifier(head.classification_tower(maps[1]))
    shifts = head.regressor(head.regression_tower(maps[1])) * 2
    for row, column, anchor in ((0, 0, 0), (1, 2, 1), (0, 2, 2)):
        place = 3 * 15 + 3 * (row * 3 + column) + anchor
        torch.testing.assert_close(logits[:, place], scores[:, anchor * 3 : anchor * 3 + 3, row, column])
        torch.testing.assert_close(deltas[:, place], shifts[:, anchor * 4 : anchor * 4 + 4, row, column])


def test_every_score_starts_near_one_percent(build: Build) -> None:
    (dense,) = build("tiny_atss", True)(make_batch([EMPTY], [(64, 64)]))
    torch.testing.assert_close(dense.logits.sigmoid(), torch.full_like(dense.logits, 0.01), rtol=0.5, atol=0)


@pytest.mark.parametrize(("kind", "count"), [("tiny_atss", 1), ("tiny_paa", 2)])
def test_a_batch_waits_for_the_device_once_for_its_positives_and_in_paa_once_for_its_candidates(
    build: Build, kind: str, count: int
) -> None:
    detector, batch = build(kind, True), make_batch([TWO, TWO, EMPTY], [(64, 64), (32, 96), (64, 64)])
    with Waits() as waits:
        detector(batch)
    assert waits.sizes == count
    # Mixtures look whether all are done, on a CPU only.
    assert kind == "tiny_paa" or waits.numbers == 0


@KINDS
@FORMS
def test_detections_lie_inside_of_the_images_best_first(build: Build, kind: str, ranking: bool) -> None:
    detector = build(kind, ranking)
    detector.detection = DetectionSettings(score_threshold=0.0, per_image=20)
    images = make_batch([EMPTY, EMPTY], [(61, 83), (50, 97)]).images
    for found, (height, width) in zip(detector.detect(images), images.sizes, strict=True):
        assert found.boxes.shape == (20, 4)
        assert found.boxes.amin() >= 0
        assert (found.boxes.amax(dim=0) <= torch.tensor([width, height, width, height])).all()
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert set(found.labels.tolist()) <= {0, 1, 2}
        assert not found.scores.requires_grad


@KINDS
@FORMS
def test_nothing_above_the_threshold_is_nothing_detected(build: Build, kind: str, ranking: bool) -> None:
    detector = build(kind, ranking)
    detector.detection = DetectionSettings(score_threshold=0.99)
    assert detector.detect(make_batch([EMPTY], [(64, 64)]).images)[0].boxes.shape == (0, 4)


def sure(detector: OneStage) -> OneStage:
    """The detector with outputs that differ from anchor to anchor."""
    generator = torch.Generator().manual_seed(5)
    head = detector.dense.head
    for convolution in (head.classifier, head.regressor, head.auxiliary):
        if convolution is not None:
            with torch.no_grad():
                convolution.weight.copy_(torch.randn(convolution.weight.shape, generator=generator) * 0.3)
    return detector


@KINDS
@FORMS
def test_detections_equal_those_of_the_rules_one_step_at_a_time(build: Build, kind: str, ranking: bool) -> None:
    detector = sure(build(kind, ranking))
    detector.test_per_level = 30
    images = make_batch([EMPTY, EMPTY], [(64, 64), (40, 90)]).images
    with torch.no_grad():
        outputs = detector.dense(detector.fpn(detector.backbone(images)), images.sizes)
    for image, (found, (height, width)) in enumerate(zip(detector.detect(images), images.sizes, strict=True)):
        scores = outputs.logits[image].sigmoid()
        if outputs.auxiliary is not None:
            scores = scores * outputs.auxiliary[image].sigmoid()[:, None]
            scores = scores.sqrt() if kind == "tiny_paa" else scores
        valid = outputs.anchors.valid[image]
        kept, start = [], 0
        for count in outputs.anchors.num_per_level:
            rows = [row for row in range(start, start + count) if valid is None or valid[row]]
            kept += sorted(rows, key=lambda row: -float(scores[row].max()))[:30]
            start += count
        boxes = detector.dense.coder.decode(outputs.deltas[image][kept], outputs.anchors.boxes[kept])
        limits = torch.tensor([width, height, width, height])
        boxes, scores = torch.minimum(boxes.clamp(min=0), limits), scores[kept]
        pairs = []
        for label in range(NUM_CLASSES):
            rows = (scores[:, label] > 0.05).nonzero().squeeze(1)
            survivors = rows[nms(boxes[rows], scores[rows, label], 0.6)]
            pairs += [(float(scores[row, label]), int(row), label) for row in survivors]
        best = sorted(pairs, reverse=True)[:100]
        assert len(best) > 10
        rows = [row for _, row, _ in best]
        expected = Detection(
            boxes[rows], torch.tensor([score for score, _, _ in best]), torch.tensor([c for *_, c in best])
        )
        if kind == "tiny_paa":
            expected = voted(expected, boxes, scores, 0.05)
        torch.testing.assert_close(found.scores, expected.scores)
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-3)


def test_boxes_are_voted_for_by_all_boxes_of_their_class() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + 1 + torch.rand(60, 2, generator=generator) * 20], dim=1)
    scores = torch.rand(60, NUM_CLASSES, generator=generator) * 0.5
    detection = Detection(boxes[:7], torch.linspace(1, 0.5, 7), torch.tensor([0, 1, 2, 0, 1, 2, 0]))
    scores[torch.arange(7), detection.labels] = detection.scores
    found = voted(detection, boxes, scores, 0.05)
    assert torch.equal(found.scores, detection.scores)
    assert torch.equal(found.labels, detection.labels)
    for box, label, result in zip(detection.boxes, detection.labels, found.boxes, strict=True):
        total, mean = 0.0, torch.zeros(4)
        for other, score in zip(boxes, scores[:, label].tolist(), strict=True):
            iou = float(box_iou(box[None], other[None]))
            if score > 0.05 and iou > 0.01:
                weight = score * torch.exp(torch.tensor(-((1 - iou) ** 2) / 0.025))
                total, mean = total + weight, mean + weight * other
        torch.testing.assert_close(result, mean / total)


def test_a_box_without_area_stays_where_it_is() -> None:
    boxes = torch.tensor([[3.0, 3.0, 3.0, 9.0]])
    detection = Detection(boxes, torch.tensor([0.5]), torch.tensor([0]))
    assert torch.equal(voted(detection, boxes, torch.tensor([[0.5]]), 0.05).boxes, boxes)
    nothing = Detection(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert voted(nothing, boxes, torch.tensor([[0.5]]), 0.05).boxes.shape == (0, 4)


@KINDS
@FORMS
def test_detectors_run_in_bfloat16(build: Build, kind: str, ranking: bool) -> None:
    detector, batch = build(kind, ranking), make_batch([TWO, EMPTY], [(64, 64), (50, 70)])
    with torch.autocast("cpu", torch.bfloat16):
        (dense,) = detector(batch)
        found = detector.detect(batch.images)
    assert dense.boxes.predicted.dtype == torch.float32
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
    surrogate(dense).backward()
    check_gradients(detector)
