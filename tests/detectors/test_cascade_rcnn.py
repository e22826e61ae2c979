"""Both forms of Cascade R-CNN, on tiny images, against a plain transcription of what moves from stage to stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from rankdet.detectors import CascadeRCNN, DetectionSettings
from rankdet.heads import BoxStage, ProposalSettings
from rankdet.label_assignment import RandomSampler
from rankdet.structures import Batch, Candidates, Images, Source, Target

Build = Callable[[bool], CascadeRCNN]
Box = tuple[float, ...]
FORMS = pytest.mark.parametrize("ranking", [False, True], ids=["standard", "ranking"])
NUM_CLASSES = 3
SIZES = (61, 83), (64, 70)
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
TWO = Target(torch.tensor([[4.0, 4, 24, 22], [20, 10, 60, 50]]), torch.tensor([2, 0]))
OTHER = Target(torch.tensor([[30.0, 30, 46, 46]]), torch.tensor([1]))


def make_batch(targets: Sequence[Target], sizes: Sequence[tuple[int, int]] = SIZES) -> Batch:
    """Images of noise in a canvas of 64 × 96."""
    pixels = torch.zeros(len(sizes), 3, 64, 96, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    for image, (rows, columns) in zip(pixels, sizes, strict=True):
        image[:, :rows, :columns] = torch.randint(256, (3, rows, columns), generator=generator, dtype=torch.uint8)
    sources = tuple(Source(i, f"{i}.png", size) for i, size in enumerate(sizes))
    return Batch(Images(pixels, tuple(sizes)), tuple(targets), sources)


def restless(detector: CascadeRCNN) -> CascadeRCNN:
    """The same detector with boxes that move by pixels from stage to stage, and scores that differ between stages."""
    for number, stage in enumerate(detector.stages):
        torch.manual_seed(number)
        nn.init.normal_(stage.head.regressor.weight, std=0.5)
        nn.init.normal_(stage.head.classifier.weight, std=0.5)
        nn.init.constant_(stage.head.classifier.bias[:NUM_CLASSES], 4.0 - 4.0 * number)
    return detector


def iou(one: Box, other: Box) -> float:
    sides = [max(0.0, min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis])) for axis in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    overlap = sides[0] * sides[1]
    return overlap / (sum(areas) - overlap)


def moved(box: Box, delta: Sequence[float], stds: Sequence[float]) -> Box:
    """A box by its deltas."""
    (x, y), (width, height) = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), (box[2] - box[0], box[3] - box[1])
    x, y = x + delta[0] * stds[0] * width, y + delta[1] * stds[1] * height
    largest = math.log(1000 / 16)
    width *= math.exp(max(-largest, min(largest, delta[2] * stds[2])))
    height *= math.exp(max(-largest, min(largest, delta[3] * stds[3])))
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def clipped(box: Box, size: tuple[int, int]) -> Box:
    return tuple(max(0.0, min(value, (size[1], size[0])[axis % 2])) for axis, value in enumerate(box))


def read(stage: BoxStage, maps: Sequence[Tensor], boxes: Sequence[Sequence[Box]]) -> tuple[list, list]:
    """Logits and deltas of a stage for the boxes of each image."""
    logits, deltas = stage(maps, [torch.tensor(found).reshape(-1, 4) for found in boxes])
    counts = [len(found) for found in boxes]
    return [part.tolist() for part in logits.split(counts)], [part[:, 0].tolist() for part in deltas.split(counts)]


def transcribed(detector: CascadeRCNN, batch: Batch) -> list[dict[str, list]]:
    """The inputs and outputs of each stage of the ranking form, RoI by RoI, the positives of each image first."""
    maps = detector.fpn(detector.backbone(batch.images))
    outputs = detector.rpn(maps, batch.images.sizes)
    proposals = detector.rpn.proposals(outputs, batch.images.sizes, detector.rpn.train_proposals)
    pools = [found.tolist() for found in proposals]
    heads = []
    for stage, threshold in zip(detector.stages, (0.5, 0.6, 0.7), strict=True):
        chosen = []
        for pool, target in zip(pools, batch.targets, strict=True):
            objects, labels = target.boxes.tolist(), target.labels.tolist()
            found = []  # box, label, its object, whether it is an appended object
            for box in pool:
                overlaps = [iou(box, other) for other in objects]
                is_positive = bool(objects) and max(overlaps) >= threshold
                best = overlaps.index(max(overlaps)) if is_positive else None
                found.append((box, NUM_CLASSES if best is None else labels[best], best, False))
            found += [(box, label, i, True) for i, (box, label) in enumerate(zip(objects, labels, strict=True))]
            chosen.append(sorted(found, key=lambda roi: roi[1] == NUM_CLASSES))
        logits, deltas = read(stage, maps, [[roi[0] for roi in found] for found in chosen])
        head: dict[str, list] = {"labels": [], "logits": [], "boxes": [], "objects": [], "rois": []}
        pools = []
        for found, target, size, one_logits, one_deltas in zip(
            chosen, batch.targets, batch.images.sizes, logits, deltas, strict=True
        ):
            head["rois"].append([roi[0] for roi in found])
            head["labels"] += [roi[1] for roi in found]
            head["logits"] += one_logits
            regressed = [moved(roi[0], d, stage.coder.stds) for roi, d in zip(found, one_deltas, strict=True)]
            positives = [i for i, roi in enumerate(found) if roi[2] is not None]
            head["boxes"] += [regressed[i] for i in positives]
            head["objects"] += [target.boxes[found[i][2]].tolist() for i in positives]
            pools.append([clipped(box, size) for roi, box in zip(found, regressed, strict=True) if not roi[3]])
        heads.append(head)
    return heads


def spy(detector: CascadeRCNN) -> list[list[Tensor]]:
    """The RoIs of each image that each stage pools, as the detector runs."""
    seen: list[list[Tensor]] = []
    for stage in detector.stages:
        stage.pooling.register_forward_pre_hook(lambda module, inputs: seen.append(list(inputs[1])))
    return seen


@pytest.mark.parametrize("targets", [(TWO, OTHER), (EMPTY, TWO), (EMPTY, EMPTY)], ids=["both", "one", "none"])
def test_ranking_form_is_its_transcription(tiny_cascade_rcnn: Build, targets: tuple[Target, Target]) -> None:
    detector, batch = restless(tiny_cascade_rcnn(True)), make_batch(targets)
    seen = spy(detector)
    rpn, *stages = detector(batch)
    assert [head.head for head in (rpn, *stages)] == ["rpn", "rcnn1", "rcnn2", "rcnn3"]
    pooled = seen[:3]  # the transcription pools, too
    for head, expected, rois in zip(stages, transcribed(detector, batch), pooled, strict=True):
        for found, boxes in zip(rois, expected["rois"], strict=True):
            torch.testing.assert_close(found, torch.tensor(boxes).reshape(-1, 4), rtol=1e-4, atol=2e-3)
            assert not found.requires_grad
        assert head.labels.tolist() == expected["labels"]
        torch.testing.assert_close(head.logits, torch.tensor(expected["logits"]), rtol=1e-3, atol=1e-3)
        boxes = torch.tensor(expected["boxes"]).reshape(-1, 4)
        torch.testing.assert_close(head.boxes.predicted, boxes, rtol=1e-4, atol=5e-3)
        assert torch.equal(head.boxes.target, torch.tensor(expected["objects"]).reshape(-1, 4))


def test_every_stage_appends_the_objects_anew_and_they_do_not_move_on(tiny_cascade_rcnn: Build) -> None:
    detector, batch = restless(tiny_cascade_rcnn(True)), make_batch([TWO, OTHER])
    seen = spy(detector)
    detector(batch)
    counts = [[len(found) for found in rois] for rois in seen]
    assert counts[0] == counts[1] == counts[2]
    for rois in seen:
        for found, target in zip(rois, batch.targets, strict=True):
            is_object = (found[:, None] == target.boxes).all(dim=2)
            assert (is_object.sum(dim=0) == 1).all()


def test_samplers_bound_what_moves_on(tiny_cascade_rcnn: Build) -> None:
    detector, batch = restless(tiny_cascade_rcnn(False)), make_batch([TWO, OTHER])
    seen = spy(detector)
    detector(batch)
    maps = detector.fpn(detector.backbone(batch.images))
    for stage, rois, following in zip(detector.stages, seen[:2], seen[1:3], strict=False):
        _, deltas = stage(maps, rois)
        moving = stage.boxes(deltas, rois, batch.images.sizes)
        for found, candidates, target in zip(following, moving, batch.targets, strict=True):
            assert len(found) <= 32
            known = torch.cat([candidates[:, 0], target.boxes])
            assert ((found[:, None] - known).abs().amax(dim=2).amin(dim=1) < 1e-3).all()


def test_objects_that_a_sampler_drops_are_not_taken_for_proposals(tiny_cascade_rcnn: Build) -> None:
    stage: BoxStage = tiny_cascade_rcnn(False).stages[0]
    stage.sampler = RandomSampler(8, 0.25)
    near = torch.cat([TWO.boxes + 1, TWO.boxes - 1, TWO.boxes + torch.tensor([40.0, 30, 40, 30])])
    counts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        rois = stage.choose(near, TWO)
        own = (rois.boxes[:, None] == TWO.boxes).all(dim=2).any(dim=1)
        assert rois.num_objects == own.sum()
        assert torch.equal(rois.of_proposals(rois.boxes), rois.boxes[~own])
        counts.add(rois.num_objects)
    assert counts == {0, 1, 2}


@FORMS
def test_logits_are_averaged_before_the_activation_and_boxes_are_those_of_the_last_stage(
    tiny_cascade_rcnn: Build, ranking: bool
) -> None:
    detector, images = restless(tiny_cascade_rcnn(ranking)), make_batch([EMPTY, EMPTY]).images
    detector.detection = DetectionSettings(score_threshold=0.0, per_image=10)
    maps = detector.fpn(detector.backbone(images))
    pools: list[list] = [
        found.tolist()
        for found in detector.rpn.proposals(detector.rpn(maps, images.sizes), images.sizes, detector.rpn.test_proposals)
    ]
    sums = [torch.zeros(len(pool), NUM_CLASSES + (not ranking)) for pool in pools]
    for stage in detector.stages:
        logits, deltas = read(stage, maps, pools)
        for image, size in enumerate(images.sizes):
            sums[image] += torch.tensor(logits[image])
            pools[image] = [
                clipped(moved(box, delta, stage.coder.stds), size)
                for box, delta in zip(pools[image], deltas[image], strict=True)
            ]
    for found, total, pool in zip(detector.detect(images), sums, pools, strict=True):
        mean = total / 3
        scores = mean.sigmoid() if ranking else mean.softmax(dim=1)[:, :-1]
        expected = detector.detection.select(torch.tensor(pool)[:, None], scores)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-3, atol=2e-2)
        assert torch.equal(found.labels, expected.labels)


@pytest.mark.parametrize("border", [0, 5])
def test_anchors_that_cross_the_border_are_ignored(tiny_cascade_rcnn: Build, border: int) -> None:
    detector, batch = tiny_cascade_rcnn(True), make_batch([EMPTY, EMPTY])
    detector.rpn.allowed_border = border
    anchors = detector.rpn(detector.fpn(detector.backbone(batch.images)), SIZES).anchors.boxes.tolist()
    found = detector(batch)[0].labels.view(2, -1).tolist()
    for labels, (height, width) in zip(found, SIZES, strict=True):
        expected = [
            1 if min(x1, y1) >= -border and x2 < width + border and y2 < height + border else -1
            for x1, y1, x2, y2 in anchors
        ]
        assert labels == expected
        assert {1, -1} == set(labels)


def test_objects_take_their_best_anchor_inside_of_the_border(tiny_cascade_rcnn: Build) -> None:
    detector = tiny_cascade_rcnn(True)
    corner = Target(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([1]))
    batch = make_batch([corner, EMPTY])
    anchors = detector.rpn(detector.fpn(detector.backbone(batch.images)), SIZES).anchors.boxes
    for border, best in ((None, [-2.0, -2.0, 10.0, 10.0]), (0, [2.0, 2.0, 14.0, 14.0])):  # IoU 0.69 and 0.36
        detector.rpn.allowed_border = border
        labels = detector(batch)[0].labels.view(2, -1)
        assert anchors[labels[0] == 0].tolist() == [best]


def test_anchors_beyond_the_border_make_proposals_all_the_same(tiny_cascade_rcnn: Build) -> None:
    detector, images = tiny_cascade_rcnn(True), make_batch([EMPTY, EMPTY]).images
    found = []
    for border in (0, None):
        detector.rpn.allowed_border = border
        outputs = detector.rpn(detector.fpn(detector.backbone(images)), SIZES)
        found.append(detector.rpn.proposals(outputs, SIZES, detector.rpn.test_proposals))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@FORMS
def test_one_box_serves_all_classes(tiny_cascade_rcnn: Build, ranking: bool) -> None:
    detector = tiny_cascade_rcnn(ranking)
    heads = detector(make_batch([TWO, OTHER]))
    for stage, head in zip(detector.stages, heads[1:], strict=True):
        assert stage.head.regressor.out_features == 4
        assert head.logits.shape[1] == NUM_CLASSES + (not ranking)
        assert len(head.boxes.predicted) == ((head.labels >= 0) & (head.labels < NUM_CLASSES)).sum()


@FORMS
def test_detections_lie_inside_of_the_images_best_first(tiny_cascade_rcnn: Build, ranking: bool) -> None:
    detector = restless(tiny_cascade_rcnn(ranking))
    detector.detection = DetectionSettings(score_threshold=0.0, per_image=20)
    images = make_batch([EMPTY, EMPTY]).images
    for found, (height, width) in zip(detector.detect(images), images.sizes, strict=True):
        assert found.boxes.shape == (20, 4)
        assert found.boxes.amin() >= 0
        assert (found.boxes.amax(dim=0) <= torch.tensor([width, height, width, height])).all()
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert not found.scores.requires_grad


@FORMS
def test_no_proposals_leave_the_graph_whole(tiny_cascade_rcnn: Build, ranking: bool) -> None:
    detector, batch = tiny_cascade_rcnn(ranking), make_batch([EMPTY], [(64, 64)])
    detector.rpn.train_proposals = detector.rpn.test_proposals = ProposalSettings(per_image=0)
    heads: list[Candidates] = detector(batch)
    assert [len(head.labels) for head in heads[1:]] == [0, 0, 0]
    total = sum(head.logits.sum() + head.boxes.predicted.sum() for head in heads)
    total.backward()
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
    assert detector.detect(batch.images)[0].boxes.shape == (0, 4)


@FORMS
def test_detectors_run_in_bfloat16(tiny_cascade_rcnn: Build, ranking: bool) -> None:
    detector, batch = tiny_cascade_rcnn(ranking), make_batch([TWO, EMPTY])
    with torch.autocast("cpu", torch.bfloat16):
        heads = detector(batch)
        found = detector.detect(batch.images)
    assert all(head.boxes.predicted.dtype == torch.float32 for head in heads)
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
