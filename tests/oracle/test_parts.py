"""Anchors, box coding, assigners, samplers, pooling and losses, one by one, are those of mmdetection 3.3.0.

Legend: M anchors, G objects, C classes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rankdet.heads import AnchorGenerator, BoxCoder, RoIPooling
from rankdet.label_assignment import ATSSAssigner, MaxIoUAssigner, PyramidAnchors, RandomSampler
from rankdet.losses import EqualizationLossV2, GIoULoss, focal_loss, quality_focal_loss, varifocal_loss
from rankdet.recipes import RECIPES
from rankdet.structures import Assignment, Candidates, Matched, Target

from .comparing import assert_equal
from .mmdetection import CONFIGS, MODELS, TASK_UTILS, Config, InstanceData

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")
NUM_CLASSES = 5
ONE_STAGE, TWO_STAGE = (8, 16, 32, 64, 128), (4, 8, 16, 32, 64)
OCTAVES = tuple(4 * 2 ** (step / 3) for step in range(3))
ANCHORS = {
    "Faster and Mask R-CNN": (AnchorGenerator(TWO_STAGE), "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "rpn_head", {}),
    "ATSS and PAA": (
        AnchorGenerator(ONE_STAGE, (8.0,), (1.0,)),
        "atss/atss_r50_fpn_1x_coco.py",
        "bbox_head",
        {},
    ),
    "ATSS and PAA with ranking losses": (
        AnchorGenerator(ONE_STAGE, OCTAVES, (1.0,)),
        "atss/atss_r50_fpn_1x_coco.py",
        "bbox_head",
        {"octave_base_scale": 4, "scales_per_octave": 3},
    ),
}
MAX_IOU = {
    "RPN": (MaxIoUAssigner(0.7, 0.3, low_quality_iou=0.3), (0.7, 0.3, 0.3, True, True)),
    "R-CNN": (MaxIoUAssigner(0.5, 0.5), (0.5, 0.5, 0.5, False, True)),
    "second stage of Cascade R-CNN": (MaxIoUAssigner(0.6, 0.6), (0.6, 0.6, 0.6, False, True)),
    "third stage of Cascade R-CNN": (MaxIoUAssigner(0.7, 0.7), (0.7, 0.7, 0.7, False, True)),
    "R-CNN of Mask R-CNN": (MaxIoUAssigner(0.5, 0.5, low_quality_iou=0.5), (0.5, 0.5, 0.5, True, True)),
    "first step of PAA": (MaxIoUAssigner(0.1, 0.1, low_quality_iou=0.0), (0.1, 0.1, 0.0, True, True)),
    "YOLACT": (
        MaxIoUAssigner(0.5, 0.4, low_quality_iou=0.0, claim_ties=False),
        (0.5, 0.4, 0.0, True, False),
    ),
}
"""Here, and thresholds of positives, negatives and low quality, the low-quality step, ties of it there."""


def random_target(seed: int, count: int, grid: float | None = None) -> Target:
    """Objects in 320 × 256 pixels; on a grid of so many pixels many overlaps are equal."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([280.0, 216.0])
    boxes = torch.cat([corners, corners + 6 + 90 * torch.rand(count, 2, generator=generator)], dim=1)
    if grid is not None:
        boxes = (boxes / grid).round() * grid
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + grid)
    return Target(boxes, torch.randint(NUM_CLASSES, (count,), generator=generator))


def labels_there(assigned: Any) -> Tensor:
    """Labels as here: background is C, ignored −1."""
    labels = assigned.labels.clone()
    labels[assigned.gt_inds == 0] = NUM_CLASSES
    labels[assigned.gt_inds < 0] = -1
    return labels


def check_assignment(own: Assignment, other: Any) -> None:
    assert torch.equal(own.labels, labels_there(other))
    is_positive = other.gt_inds > 0
    assert torch.equal(own.matched[is_positive], other.gt_inds[is_positive] - 1)


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_of_a_whole_image_are_the_same(name: str) -> None:
    own, config, head, changes = ANCHORS[name]
    settings = Config.fromfile(CONFIGS / config).model[head].anchor_generator
    other = TASK_UTILS.build(dict(settings) | changes)
    sizes = tuple((-(-800 // stride), -(-1344 // stride)) for stride in own.strides)
    expected = torch.cat(other.grid_priors(sizes, device="cpu"))
    assert_equal(own.anchors(sizes, CPU), expected, "anchors", relative=1e-7)
    for size in ((800, 1333), (600, 800), (33, 97)):
        padded = tuple(-(-side // 32) * 32 for side in size)
        valid = torch.cat(other.valid_flags(sizes, padded, device="cpu"))
        found = own.valid(sizes, size, CPU)
        assert torch.equal(torch.ones_like(valid) if found is None else found, valid)


@pytest.mark.parametrize(
    "stds", [(1.0,) * 4, (0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)]
)
def test_boxes_are_coded_in_the_same_way(stds: tuple[float, float, float, float]) -> None:
    torch.manual_seed(0)
    anchors, boxes = random_target(1, 500).boxes, random_target(2, 500).boxes
    deltas = torch.randn(500, 4) * 30  # far beyond the largest scale
    own = BoxCoder(stds)
    other = TASK_UTILS.build({"type": "DeltaXYWHBBoxCoder", "target_stds": stds})
    assert_equal(own.encode(boxes, anchors), other.encode(anchors, boxes), "deltas", relative=1e-6)
    assert_equal(own.decode(deltas, anchors), other.decode(anchors, deltas), "boxes", relative=1e-6)


@pytest.mark.parametrize("name", MAX_IOU)
@pytest.mark.parametrize("grid", [None, 4.0, 16.0])
@pytest.mark.parametrize("count", [0, 1, 25])
def test_labels_by_overlap_are_the_same(name: str, grid: float | None, count: int) -> None:
    own, (positive, negative, low_quality, claims, claims_ties) = MAX_IOU[name]
    other = TASK_UTILS.build(
        {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": positive,
            "neg_iou_thr": negative,
            "min_pos_iou": low_quality,
            "match_low_quality": claims,
            "gt_max_assign_all": claims_ties,
            "ignore_iof_thr": -1,
        }
    )
    sizes = tuple((-(-256 // stride), -(-320 // stride)) for stride in TWO_STAGE)
    anchors = AnchorGenerator(TWO_STAGE).anchors(sizes, CPU)
    for seed in range(5):
        target = random_target(seed, count, grid)
        # Proposals are near objects.
        near = (
            target.boxes.repeat(20, 1) + torch.randn(20 * count, 4, generator=torch.Generator().manual_seed(seed)) * 8
        )
        near = torch.cat([torch.minimum(near[:, :2], near[:, 2:]), torch.maximum(near[:, :2], near[:, 2:])], dim=1)
        for boxes in (anchors, near):
            objects = InstanceData(bboxes=target.boxes, labels=target.labels)
            assigned = other.assign(InstanceData(priors=boxes), objects)
            check_assignment(own(boxes, target, NUM_CLASSES), assigned)


@pytest.mark.parametrize("scales", [(8.0,), OCTAVES], ids=["one anchor", "three anchors"])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_labels_of_atss_are_the_same(scales: tuple[float, ...], count: int) -> None:
    sizes = tuple((-(-256 // stride), -(-320 // stride)) for stride in ONE_STAGE)
    generator = AnchorGenerator(ONE_STAGE, scales, (1.0,))
    anchors, levels = generator.anchors(sizes, CPU), generator.num_per_level(sizes)
    other = TASK_UTILS.build({"type": "ATSSAssigner", "topk": 9})
    for seed in range(10):
        target = random_target(seed, count)
        own = ATSSAssigner()(PyramidAnchors(anchors, levels, [None]), [target], NUM_CLASSES)
        objects = InstanceData(bboxes=target.boxes, labels=target.labels)
        check_assignment(own, other.assign(InstanceData(priors=anchors), levels, objects))


@pytest.mark.parametrize(("num", "fraction"), [(256, 0.5), (512, 0.25), (16, 0.25)])
@pytest.mark.parametrize(
    ("positives", "negatives"), [(0, 900), (7, 900), (300, 900), (300, 20), (3, 0), (0, 5), (0, 0)]
)
def test_samplers_draw_as_many_of_each_kind(num: int, fraction: float, positives: int, negatives: int) -> None:
    labels = torch.cat([torch.zeros(positives), torch.full((negatives,), 1), torch.full((40,), -1)]).long()
    labels = labels[torch.randperm(len(labels))]
    own = RandomSampler(num, fraction)(Assignment(labels, torch.zeros_like(labels)), 1).labels
    other = TASK_UTILS.build(
        {"type": "RandomSampler", "num": num, "pos_fraction": fraction, "add_gt_as_proposals": False}
    )
    assigned = type("Assigned", (), {"gt_inds": torch.where(labels < 0, -1, 1 - labels)})
    drawn = other._sample_pos(assigned, int(num * fraction))
    assert int((own == 0).sum()) == drawn.numel()
    assert int((own == 1).sum()) == other._sample_neg(assigned, num - drawn.numel()).numel()
    assert torch.equal(own[own >= 0], labels[own >= 0])


def test_rois_of_every_size_are_read_from_the_same_level() -> None:
    settings = Config.fromfile(CONFIGS / "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py").model.roi_head
    other = MODELS.build(settings.bbox_roi_extractor)
    sides = torch.cat([torch.tensor([0.0, 56.0, 112.0, 224.0, 448.0, 896.0]), torch.rand(5000) ** 3 * 1000])
    heights = sides * torch.cat([torch.ones(6), torch.rand(5000) + 0.5])
    corners = torch.rand(len(sides), 2) * 100
    boxes = torch.cat([corners, corners + torch.stack([sides, heights], dim=1)], dim=1)
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes], dim=1)
    assert torch.equal(RoIPooling().levels(boxes), other.map_roi_levels(rois, 4))


def test_focal_losses_and_their_gradients_are_the_same() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(400, NUM_CLASSES) * 3).requires_grad_()
    labels = torch.randint(NUM_CLASSES + 1, (400,))
    rows = torch.nonzero(labels < NUM_CLASSES).squeeze(1)
    quality = torch.rand(len(rows))
    quality[::5] = 0
    all_quality = torch.zeros(400).scatter(0, rows, quality)
    focal = MODELS.build({"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "reduction": "sum"})
    quality_focal = MODELS.build({"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "reduction": "sum"})
    targets = torch.zeros(400, NUM_CLASSES)
    targets[rows, labels[rows]] = quality
    varifocal = [
        MODELS.build({"type": "VarifocalLoss", "iou_weighted": iou_weighted, "reduction": "sum"})
        for iou_weighted in (True, False)
    ]
    for own, other in (
        (focal_loss(logits, labels), focal(logits, labels)),
        (quality_focal_loss(logits, labels, quality), quality_focal(logits, (labels, all_quality))),
        (varifocal_loss(logits, labels, quality), varifocal[0](logits, targets)),
        (varifocal_loss(logits, labels, quality, iou_weighted=False), varifocal[1](logits, targets)),
    ):
        assert_equal(own.detach(), other.detach(), "loss")
        (found,), (expected,) = torch.autograd.grad(own, logits), torch.autograd.grad(other, logits)
        assert_equal(found, expected, "gradient")


def test_classes_are_equalized_in_the_same_way() -> None:
    """Over iterations; there the last logit is background's, a cross-entropy of its own."""
    other = MODELS.build({"type": "EQLV2Loss", "num_classes": NUM_CLASSES})
    own = EqualizationLossV2(GIoULoss())
    torch.manual_seed(0)
    for _ in range(6):
        logits = (torch.randn(400, NUM_CLASSES + 1) - 1).requires_grad_()
        labels = (torch.rand(400) ** 2 * (NUM_CLASSES + 1)).long()  # few of the last classes
        boxes = torch.rand(int((labels < NUM_CLASSES).sum()), 4)
        candidates = Candidates("rcnn", logits[:, :-1], labels, NUM_CLASSES, boxes=Matched(boxes, boxes))
        found = own(candidates).terms["classification"]
        background = binary_cross_entropy_with_logits(logits[:, -1], (labels == NUM_CLASSES).float(), reduction="sum")
        expected = other(logits, labels) - background / len(labels)
        assert_equal(found.detach(), expected.detach(), "loss")
        (ours,), (theirs,) = torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits)
        assert_equal(ours, theirs, "gradient")
    assert_equal(own.gradients.float(), torch.stack([other.pos_grad, other.neg_grad]), "gradients so far")


@pytest.mark.parametrize(
    ("recipe", "config", "head"),
    [
        ("faster_rcnn_r50_coco", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", "rpn_head"),
        ("atss_r50_coco", "atss/atss_r50_fpn_1x_coco.py", "bbox_head"),
    ],
)
def test_recipes_have_the_anchors_of_the_configurations(recipe: str, config: str, head: str) -> None:
    detector = RECIPES[recipe]().detector.build(80, pretrained=False)
    own = (detector.rpn if head == "rpn_head" else detector.dense).anchors
    other = TASK_UTILS.build(Config.fromfile(CONFIGS / config).model[head].anchor_generator)
    sizes = tuple((-(-256 // stride), -(-320 // stride)) for stride in own.strides)
    assert_equal(own.anchors(sizes, CPU), torch.cat(other.grid_priors(sizes, device="cpu")), "anchors", relative=1e-7)
