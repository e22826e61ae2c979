"""Both forms of Mask R-CNN, on tiny images: which RoIs get a mask, that it is theirs, and masks of detections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rankdet.detectors import DetectionSettings, FasterRCNN, MaskRCNN
from rankdet.heads import crop_masks
from rankdet.losses import RankSortLoss, find_positives
from rankdet.structures import Batch, Images, Outlines, Source, Target

Build = Callable[[bool], MaskRCNN]
FORMS = pytest.mark.parametrize("ranking", [False, True], ids=["standard", "ranking"])
SIZE = (64, 64)
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def with_ellipses(boxes: Sequence[Sequence[float]], labels: list[int], size: tuple[int, int] = SIZE) -> Target:
    """Objects that fill their boxes as ellipses do."""
    corners = torch.tensor(boxes)
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    left, top, right, bottom = corners[..., None, None].unbind(1)
    masks = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 < 1
    return Target(corners, torch.tensor(labels), masks)


TWO = with_ellipses([[4.0, 4, 24, 22], [20, 10, 60, 50]], [2, 0])
OTHER = with_ellipses([[30.0, 30, 62, 46]], [1])


def make_batch(targets: Sequence[Target], size: tuple[int, int] = SIZE) -> Batch:
    pixels = torch.randint(256, (len(targets), 3, 64, 64), dtype=torch.uint8)
    sources = tuple(Source(i, f"{i}.png", size) for i in range(len(targets)))
    return Batch(Images(pixels, (size,) * len(targets)), tuple(targets), sources)


class Telltale(nn.Module):
    """A mask head whose mask of a RoI shows what was pooled for it and which class it was given."""

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        shown = pooled.mean(dim=(1, 2, 3)) + 1000 * labels
        return shown[:, None, None].expand(-1, 2 * pooled.shape[2], 2 * pooled.shape[3])


@FORMS
def test_every_positive_has_the_mask_target_of_its_object_and_its_own_pooled_features(
    tiny_mask_rcnn: Build, ranking: bool
) -> None:
    detector = tiny_mask_rcnn(ranking)
    detector.mask.budget = None
    detector.mask.head = Telltale()
    for parameter in detector.rcnn.head.regressor.parameters():
        nn.init.zeros_(parameter)  # regressed boxes are the RoIs
    batch = make_batch([TWO, EMPTY, OTHER])
    _, rcnn = detector(batch)
    rois, labels = rcnn.boxes.predicted, rcnn.labels[rcnn.labels < 3]
    assert rcnn.masks.rows is None
    assert rcnn.masks.predicted.shape == (len(rois), 14, 14)
    objects = torch.cat([TWO.boxes, OTHER.boxes])
    which = (rcnn.boxes.target[:, None] == objects).all(dim=2).int().argmax(dim=1)
    masks = torch.cat([TWO.masks, OTHER.masks])
    assert torch.equal(rcnn.masks.target, crop_masks(masks, rois, which, 14))
    maps = detector.fpn(detector.backbone(batch.images))
    rois_of_each = [rois[which < 2], rois[:0], rois[which == 2]]
    expected = Telltale()(detector.mask.pooling(maps, rois_of_each), labels)
    torch.testing.assert_close(rcnn.masks.predicted, expected)


def test_drawn_masks_are_those_of_their_rows(tiny_mask_rcnn: Build) -> None:
    """Weights of masks come from the box head by ``rows``; in the published code they are those of other RoIs."""
    detector, batch = tiny_mask_rcnn(True), make_batch([TWO, OTHER, TWO])
    detector.mask.head = Telltale()
    detector.mask.budget = None
    _, whole = detector(batch)
    assert len(whole.boxes.predicted) > 6
    detector.mask.budget = 5
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        _, part = detector(batch)
        rows = part.masks.rows
        assert len(rows) == 5
        assert torch.equal(rows, rows.unique())
        assert torch.equal(part.masks.predicted, whole.masks.predicted[rows])
        assert torch.equal(part.masks.target, whole.masks.target[rows])
        seen |= set(rows.tolist())
        dice = find_positives(part).dice
        torch.testing.assert_close(dice, find_positives(whole).dice[rows])
    assert seen == set(range(len(whole.boxes.predicted)))


def test_the_masks_are_weighted_like_their_boxes_and_balanced_by_value(tiny_mask_rcnn: Build) -> None:
    _, rcnn = tiny_mask_rcnn(True)(make_batch([TWO, OTHER]))
    terms, stats = RankSortLoss()(rcnn)
    positives = find_positives(rcnn)
    weights = positives.logits.amax(dim=1).sigmoid()
    weights = weights if rcnn.masks.rows is None else weights[rcnn.masks.rows]
    expected = (weights * (1 - positives.dice)).sum() / weights.sum()
    torch.testing.assert_close(stats["mask_error"], expected.detach())
    torch.testing.assert_close(terms["mask"], terms["ranking"] + terms["sorting"])


def test_only_the_layer_of_the_objects_class_learns(tiny_mask_rcnn: Build) -> None:
    detector = tiny_mask_rcnn(True)
    _, rcnn = detector(make_batch([TWO]))
    rcnn.masks.predicted.sum().backward()
    gradient = detector.mask.head.classifier.weight.grad
    assert gradient[0].any()
    assert gradient[2].any()
    assert not gradient[1].any()


def test_outlines_serve_as_well_as_bitmaps(tiny_mask_rcnn: Build) -> None:
    detector = tiny_mask_rcnn(True)
    left, top, right, bottom = OTHER.boxes[0].tolist()
    around = [
        [left, top, right, top],
        [right, top, right, bottom],
        [right, bottom, left, bottom],
        [left, bottom, left, top],
    ]
    _, rcnn = detector(make_batch([replace(OTHER, masks=Outlines(torch.tensor([around])))]))
    own = (rcnn.boxes.target == OTHER.boxes).all(dim=1)
    assert own.all()
    assert rcnn.masks.target[-1].all()  # the last positive is the object's own box


def test_objects_without_masks_are_a_mistake(tiny_mask_rcnn: Build) -> None:
    with pytest.raises(ValueError, match="2 objects but no masks"):
        tiny_mask_rcnn(True)(make_batch([replace(TWO, masks=None)]))


@FORMS
def test_boxes_are_those_of_faster_rcnn_and_each_has_its_mask(
    tiny_mask_rcnn: Build, tiny_faster_rcnn: Callable[[bool], FasterRCNN], ranking: bool
) -> None:
    detector, boxes = tiny_mask_rcnn(ranking).eval(), tiny_faster_rcnn(ranking).eval()
    detector.detection = boxes.detection = DetectionSettings(score_threshold=0.0, per_image=9)
    images = make_batch([EMPTY, EMPTY], (61, 50)).images
    weights = detector.state_dict()
    assert {name for name in weights if not name.startswith("mask.")} == set(boxes.state_dict())
    maps = detector.fpn(detector.backbone(images))
    for image, (found, expected) in enumerate(zip(detector.detect(images), boxes.detect(images), strict=True)):
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.scores, expected.scores)
        assert expected.masks is None
        assert torch.equal(found.masks.regions, found.boxes)
        per_image = [found.boxes[:0]] * 2
        per_image[image] = found.boxes
        torch.testing.assert_close(found.masks.scores, detector.mask(maps, per_image, found.labels).sigmoid())


@FORMS
def test_nothing_detected_has_no_masks(tiny_mask_rcnn: Build, ranking: bool) -> None:
    detector = tiny_mask_rcnn(ranking)
    detector.detection = DetectionSettings(score_threshold=0.999)
    found = detector.detect(make_batch([EMPTY]).images)[0]
    assert found.masks.scores.shape == (0, 14, 14)
    assert found.masks.bitmaps((64, 64)).shape == (0, 64, 64)
