"""YOLACT in both forms, on tiny images: who is a positive, whose mask it gets, what is detected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from rankdet.detectors import YOLACT, DetectionSettings
from rankdet.heads import assemble_masks, fast_nms, resize_masks
from rankdet.losses import DiceQuality, IoUQuality, MeanQuality, RankSortLoss
from rankdet.structures import Batch, Candidates, Images, Outlines, Source, Target

from .waits import Waits

Build = Callable[[bool], YOLACT]
FORMS = pytest.mark.parametrize("ranking", [False, True], ids=["standard", "ranking"])
NUM_CLASSES = 3
SIZE = (64, 64)


def with_ellipses(boxes: Sequence[Sequence[float]], labels: list[int], size: tuple[int, int] = SIZE) -> Target:
    """Objects that fill their boxes as ellipses do."""
    corners = torch.tensor(boxes).view(-1, 4)
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    left, top, right, bottom = corners[..., None, None].unbind(1)
    masks = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 < 1
    return Target(corners, torch.tensor(labels, dtype=torch.int64), masks)


EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
TWO = with_ellipses([[4.0, 4, 24, 22], [20, 10, 60, 50]], [2, 0])
OTHER = with_ellipses([[30.0, 30, 62, 46]], [1])


def make_batch(targets: Sequence[Target], sizes: Sequence[tuple[int, int]] | None = None) -> Batch:
    """Images of noise on a canvas that is larger than any of them."""
    sizes = tuple(sizes or [SIZE] * len(targets))
    pixels = torch.zeros(len(targets), 3, 96, 96, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    for image, (rows, columns) in zip(pixels, sizes, strict=True):
        image[:, :rows, :columns] = torch.randint(256, (3, rows, columns), generator=generator, dtype=torch.uint8)
    sources = tuple(Source(i, f"{i}.png", size) for i, size in enumerate(sizes))
    return Batch(Images(pixels, sizes), tuple(targets), sources)


def only(candidates: list[Candidates]) -> Candidates:
    (dense,) = candidates
    assert dense.head == "dense"
    return dense


def assigned_by_hand(anchors: Tensor, target: Target) -> tuple[list[int], list[int]]:
    """Labels and matched objects, anchor by anchor; then each object claims the first of its best anchors."""
    iou = box_iou(anchors, target.boxes).tolist()
    labels, matched = [], []
    for row in iou:
        best = max(row, default=0.0)
        matched.append(row.index(best) if row else 0)
        labels.append(int(target.labels[matched[-1]]) if best >= 0.5 else NUM_CLASSES if best < 0.4 else -1)
    for number in range(len(target.boxes)):
        column = [row[number] for row in iou]
        claimed = column.index(max(column))
        labels[claimed], matched[claimed] = int(target.labels[number]), number
    return labels, matched


@FORMS
def test_labels_boxes_and_masks_are_those_of_the_rules_one_anchor_at_a_time(tiny_yolact: Build, ranking: bool) -> None:
    detector = tiny_yolact(ranking)
    detector.instances.masks_per_image = None
    batch = make_batch([TWO, EMPTY, OTHER])
    dense = only(detector(batch))
    outputs, _ = detector._outputs(batch.images)
    anchors = outputs.anchors.boxes
    assert dense.per_image == (len(anchors),) * 3
    assert dense.logits.shape == (3 * len(anchors), NUM_CLASSES + (not ranking))
    assert outputs.prototypes.shape[2:] == (32, 32)
    positive = 0
    for image, target in enumerate(batch.targets):
        labels, matched = assigned_by_hand(anchors, target)
        assert dense.labels[image * len(anchors) : (image + 1) * len(anchors)].tolist() == labels
        for row, (label, number) in enumerate(zip(labels, matched, strict=True)):
            if not 0 <= label < NUM_CLASSES:
                continue
            box = target.boxes[number]
            assert torch.equal(dense.boxes.target[positive], box)
            deltas = outputs.deltas[image, row]
            torch.testing.assert_close(dense.deltas.predicted[positive], deltas)
            torch.testing.assert_close(
                dense.boxes.predicted[positive], detector.instances.coder.decode(deltas, anchors[row])
            )
            expected = assemble_masks(
                outputs.prototypes[image], outputs.coefficients[image, row : row + 1], box[None], SIZE
            )
            torch.testing.assert_close(dense.masks.predicted[positive : positive + 1], expected)
            (mask,) = resize_masks(target.masks[number : number + 1], SIZE, [(32, 32)])
            assert torch.equal(dense.masks.target[positive], mask[0])
            area = (box[2] - box[0]) * (box[3] - box[1]) / (SIZE[0] * SIZE[1])
            assert dense.box_shares[positive].item() == pytest.approx(area.item())
            positive += 1
    assert positive == len(dense.boxes.target) == len(dense.masks.target) > 5
    assert dense.masks.rows is None
    assert (dense.labels == -1).any()


def test_the_canvas_is_the_largest_image_and_other_padding_is_ignored(tiny_yolact: Build) -> None:
    detector = tiny_yolact(True)
    targets = [TWO, with_ellipses([[4.0, 4, 30, 26]], [1], (32, 90))]
    dense = only(detector(make_batch(targets, [(64, 64), (32, 90)])))
    levels = [(16, 23), (8, 12), (4, 6), (2, 3)]
    assert dense.per_image == (3 * sum(height * width for height, width in levels),) * 2
    for labels, (height, width) in zip(dense.labels.view(2, -1), [(64, 64), (32, 90)], strict=True):
        finest = labels[: 3 * 16 * 23].view(16, 23, 3)
        rows, columns = ((torch.arange(n) + 0.5) * side / n for n, side in ((16, 64), (23, 90)))
        is_padding = (rows[:, None] >= height) | (columns >= width)
        assert torch.equal((finest == -1).all(dim=2) & is_padding, is_padding)
        assert ((labels >= 0) & (labels < NUM_CLASSES)).any()
        assert is_padding.any()
    assert dense.masks.predicted.shape[1:] == (32, 46)


def test_no_more_masks_per_image_than_asked_for_each_with_its_own_positive(tiny_yolact: Build) -> None:
    detector, batch = tiny_yolact(False), make_batch([TWO, OTHER])
    detector.instances.masks_per_image = None
    every = only(detector(batch))
    detector.instances.masks_per_image = 2
    some = only(detector(batch))
    rows = some.masks.rows
    numbers = [((part >= 0) & (part < NUM_CLASSES)).sum().item() for part in every.labels.split(every.per_image)]
    assert min(numbers) > 2
    assert (rows < numbers[0]).sum() == (rows >= numbers[0]).sum() == 2
    assert torch.equal(rows, rows.unique())
    assert torch.equal(some.masks.target, every.masks.target[rows])
    torch.testing.assert_close(some.masks.predicted, every.masks.predicted[rows])
    drawn = {tuple(only(detector(batch)).masks.rows.tolist()) for _ in range(5)}
    assert len(drawn) > 1


def test_semantic_maps_unite_the_objects_of_a_class(tiny_yolact: Build) -> None:
    detector = tiny_yolact(False)
    target = with_ellipses([[4.0, 4, 24, 22], [20, 10, 60, 50], [2, 30, 22, 60]], [2, 0, 2])
    batch = make_batch([target, EMPTY])
    predicted, maps, _ = only(detector(batch)).auxiliary["semantic"]
    (masks,) = resize_masks(target.masks, SIZE, [(16, 16)])
    assert predicted.shape == maps.shape == (2, NUM_CLASSES, 16, 16)
    assert torch.equal(maps[0, 0], masks[1])
    assert torch.equal(maps[0, 2], masks[0] | masks[2])
    assert not maps[0, 1].any()
    assert not maps[1].any()
    torch.testing.assert_close(predicted, detector.semantic(detector._outputs(batch.images)[1]))
    assert only(tiny_yolact(True)(batch)).auxiliary is None


@FORMS
def test_outlines_give_the_masks_of_their_bitmaps(tiny_yolact: Build, ranking: bool) -> None:
    angles = torch.arange(60) * (2 * torch.pi / 60)
    ring = torch.stack([angles.cos(), angles.sin()], dim=1)
    edges = []
    for left, top, right, bottom in TWO.boxes.tolist():
        points = torch.tensor([left + right, top + bottom]) / 2 + ring * torch.tensor([right - left, bottom - top]) / 2
        edges.append(torch.cat([points, points.roll(-1, 0)], dim=1))
    outlined = replace(TWO, masks=Outlines(torch.stack(edges)))
    detector = tiny_yolact(ranking)
    detector.instances.masks_per_image = None
    bitmaps, outlines = (only(detector(make_batch([target]))).masks.target for target in (TWO, outlined))
    assert bitmaps.shape == outlines.shape
    assert (bitmaps != outlines).float().mean() < 0.02


@FORMS
def test_an_image_without_objects_needs_no_masks_but_objects_do(tiny_yolact: Build, ranking: bool) -> None:
    detector = tiny_yolact(ranking)
    dense = only(detector(make_batch([EMPTY, EMPTY])))
    assert (dense.labels == NUM_CLASSES).all()
    assert dense.masks.predicted.shape == (0, 32, 32)
    assert dense.boxes.predicted.shape == (0, 4)
    assert dense.box_shares.shape == (0,)
    with pytest.raises(ValueError, match="2 objects but no masks"):
        detector(make_batch([replace(TWO, masks=None)]))


@FORMS
def test_an_object_of_one_pixel_is_a_positive_with_an_empty_mask(tiny_yolact: Build, ranking: bool) -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, 33, 21] = True
    target = Target(torch.tensor([[21.0, 33.0, 22.0, 34.0]]), torch.tensor([1]), masks)
    dense = only(tiny_yolact(ranking)(make_batch([target])))
    assert (dense.labels == 1).sum() == len(dense.boxes.target) == 1
    assert not dense.masks.target.any()
    assert 4 <= dense.masks.predicted.isfinite().sum() <= 16
    if ranking:
        for quality in (DiceQuality(), MeanQuality(), IoUQuality()):
            terms = RankSortLoss(quality=quality)(dense).terms
            assert all(term.isfinite() for term in terms.values())
            sum(terms.values()).backward(retain_graph=True)


@FORMS
def test_a_batch_waits_for_the_device_once_for_its_positives(
    tiny_yolact: Build, ranking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, batch = tiny_yolact(ranking), make_batch([TWO, OTHER, EMPTY], [(64, 64), (64, 64), (40, 64)])
    read: list[Tensor] = []
    to_list = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda values: read.append(values) or to_list(values))
    with Waits() as waits:
        detector(batch)
    assert waits.count == 0
    assert len(read) == 1


@FORMS
def test_detections_equal_those_of_the_rules_one_step_at_a_time(tiny_yolact: Build, ranking: bool) -> None:
    detector = tiny_yolact(ranking)
    detector.detection = DetectionSettings(score_threshold=0.2, nms_iou=0.5, per_image=15)
    detector.test_per_level, detector.test_per_class = 20, 12
    batch = make_batch([EMPTY, EMPTY], [(64, 64), (40, 60)])
    with torch.no_grad():
        outputs, _ = detector._outputs(batch.images)
        detections = detector.detect(batch.images)
    for image, (found, (height, width)) in enumerate(zip(detections, batch.images.sizes, strict=True)):
        scores = detector.head.scores(outputs.logits[image])
        valid = outputs.anchors.valid[image]
        kept, start = [], 0
        for count in outputs.anchors.num_per_level:
            rows = [row for row in range(start, start + count) if valid is None or valid[row]]
            kept += sorted(rows, key=lambda row: -float(scores[row].max()))[:20]
            start += count
        boxes = detector.instances.coder.decode(outputs.deltas[image][kept], outputs.anchors.boxes[kept])
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
        rows, best, labels = fast_nms(boxes, scores[kept], threshold=0.2, iou=0.5, limit=15, per_class=12)
        assert len(rows) > 5
        torch.testing.assert_close(found.scores, best)
        assert torch.equal(found.labels, labels)
        torch.testing.assert_close(found.boxes, boxes[rows])
        coefficients = outputs.coefficients[image][kept][rows]
        masks = assemble_masks(outputs.prototypes[image], coefficients, boxes[rows], outputs.canvas).sigmoid()
        torch.testing.assert_close(found.masks.scores[:, 1:-1, 1:-1], masks)
        bitmaps = found.masks.bitmaps((64, 64))
        for mask, (left, top, right, bottom) in zip(bitmaps, found.boxes.tolist(), strict=True):
            places = mask.nonzero()
            if len(places):  # a cell of two pixels around the box, and half of one for the interpolation
                assert places[:, 0].amin() >= top - 4
                assert places[:, 0].amax() <= bottom + 4
                assert places[:, 1].amin() >= left - 4
                assert places[:, 1].amax() <= right + 4
        assert bitmaps.any()


@FORMS
def test_nothing_above_the_threshold_is_nothing_detected(tiny_yolact: Build, ranking: bool) -> None:
    detector = tiny_yolact(ranking)
    detector.detection = DetectionSettings(score_threshold=0.999)
    (found,) = detector.detect(make_batch([EMPTY]).images)
    assert found.boxes.shape == (0, 4)
    assert found.masks.bitmaps((64, 64)).shape == (0, 64, 64)


@FORMS
def test_detector_runs_in_bfloat16(tiny_yolact: Build, ranking: bool) -> None:
    detector, batch = tiny_yolact(ranking), make_batch([TWO, EMPTY])
    with torch.autocast("cpu", torch.bfloat16):
        dense = only(detector(batch))
        (found, _) = detector.detect(batch.images)
    assert dense.boxes.predicted.dtype == found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.masks.scores.dtype == torch.float32


def test_the_default_assigner_is_the_published_one(tiny_yolact: Build) -> None:
    assigner = tiny_yolact(True).instances.assigner
    assert (assigner.positive_iou, assigner.negative_iou) == (0.5, 0.4)
    assert (assigner.low_quality_iou, assigner.claim_ties) == (0.0, False)
