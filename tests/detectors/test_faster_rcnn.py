"""Both forms of Faster R-CNN, on tiny images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from rankdet.backbones import FPN
from rankdet.detectors import DetectionSettings, FasterRCNN
from rankdet.heads import AnchorGenerator, RoIPooling
from rankdet.structures import Candidates, Images, Target

from .batches import make_batch
from .waits import Waits

Build = Callable[[bool], FasterRCNN]
FORMS = pytest.mark.parametrize("ranking", [False, True], ids=["standard", "ranking"])
NUM_CLASSES = 3
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
TWO = Target(torch.tensor([[4.0, 4.0, 24.0, 22.0], [20.0, 10.0, 60.0, 50.0]]), torch.tensor([2, 0]))


def surrogate(heads: list[Candidates]) -> Tensor:
    """Return a scalar that depends on all outputs of a detector, in place of a loss."""
    total = torch.zeros(())
    for head in heads:
        assert head.boxes is not None
        assert head.deltas is not None
        total = total + head.logits.float().square().sum() + head.boxes.predicted.sum() + head.deltas.predicted.sum()
    return total


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


@FORMS
@pytest.mark.parametrize("scene", SCENES)
def test_every_parameter_receives_a_finite_gradient(tiny_faster_rcnn: Build, ranking: bool, scene: str) -> None:
    detector, batch = tiny_faster_rcnn(ranking), make_batch(*SCENES[scene])
    heads = detector(batch)
    assert [head.head for head in heads] == ["rpn", "rcnn"]
    surrogate(heads).backward()
    check_gradients(detector)


@FORMS
def test_detections_lie_inside_of_the_images_best_first(tiny_faster_rcnn: Build, ranking: bool) -> None:
    detector = tiny_faster_rcnn(ranking)
    detector.detection = DetectionSettings(score_threshold=0.0, per_image=20)
    images = make_batch([EMPTY, EMPTY], [(61, 83), (50, 97)]).images
    for found, (height, width) in zip(detector.detect(images), images.sizes, strict=True):
        assert found.boxes.shape == (20, 4)
        assert found.boxes.amin() >= 0
        assert (found.boxes.amax(dim=0) <= torch.tensor([width, height, width, height])).all()
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert set(found.labels.tolist()) <= {0, 1, 2}
        assert not found.scores.requires_grad


@FORMS
def test_nothing_above_the_threshold_is_nothing_detected(tiny_faster_rcnn: Build, ranking: bool) -> None:
    detector = tiny_faster_rcnn(ranking)
    detector.detection = DetectionSettings(score_threshold=0.99)
    found = detector.detect(make_batch([EMPTY], [(64, 64)]).images)[0]
    assert found.boxes.shape == (0, 4)


def test_the_pool_of_the_rpn_goes_by_image_and_ignores_padding(tiny_faster_rcnn: Build) -> None:
    detector = tiny_faster_rcnn(True)
    rpn, _ = detector(make_batch([TWO, TWO], [(64, 64), (32, 96)]))
    cells = [(16, 24), (8, 12), (4, 6)]
    assert rpn.logits.shape == (2 * 3 * sum(height * width for height, width in cells), 1)
    for labels, (height, width) in zip(rpn.labels.view(2, -1), [(64, 64), (32, 96)], strict=True):
        finest = labels[: 16 * 24 * 3].view(16, 24, 3)
        assert (finest[height // 4 :] == -1).all()
        assert (finest[:, width // 4 :] == -1).all()
        assert (finest == 1).any()


def test_without_samplers_every_anchor_and_every_proposal_takes_part(tiny_faster_rcnn: Build) -> None:
    rpn, rcnn = tiny_faster_rcnn(True)(make_batch([TWO, EMPTY], [(64, 64), (64, 64)]))
    assert set(rpn.labels.tolist()) == {-1, 0, 1}
    assert (rpn.labels.view(2, -1)[1] == 1).all()  # no objects: all background, nothing ignored
    assert rcnn.logits.shape[1] == NUM_CLASSES
    assert 52 < len(rcnn.labels) <= 102
    counts = rcnn.labels[:52].tolist()
    assert {2, 0} <= set(counts)


def test_choosing_proposals_and_rois_waits_once_each(tiny_faster_rcnn: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    detector, batch = tiny_faster_rcnn(True), make_batch([TWO, TWO], [(64, 64), (32, 96)])
    sizes = batch.images.sizes
    outputs = detector.rpn(detector.fpn(detector.backbone(batch.images)), sizes)
    assert all(valid is not None for valid in outputs.anchors.valid)
    with Waits() as waits:
        proposals = detector.rpn.proposals(outputs, sizes, detector.rpn.train_proposals)
    assert waits.count == 2  # one for each image with padding, besides the suppression itself
    read: list[Tensor] = []
    to_list = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda values: read.append(values) or to_list(values))
    with Waits() as waits:
        rois = detector.rcnn.choose(proposals[0], TWO)
    assert waits.count + len(read) == 1
    order = (rois.labels == NUM_CLASSES).int()
    assert len(rois.boxes) == len(rois.matched) == len(order)
    assert torch.equal(order, order.sort().values)  # positives first
    assert rois.num_positives == (order == 0).sum()


def test_samplers_limit_both_pools(tiny_faster_rcnn: Build) -> None:
    rpn, rcnn = tiny_faster_rcnn(False)(make_batch([TWO, EMPTY], [(64, 64), (64, 64)]))
    assert ((rpn.labels >= 0).view(2, -1).sum(dim=1) == 64).all()
    assert rcnn.logits.shape == (64, NUM_CLASSES + 1)
    assert ((rcnn.labels < NUM_CLASSES).sum()) >= 2  # the objects' own boxes


@FORMS
def test_boxes_are_aligned_with_the_positives(tiny_faster_rcnn: Build, ranking: bool) -> None:
    """With a regressor of zeros boxes are anchors and RoIs: they overlap their objects as assigned."""
    detector = tiny_faster_rcnn(ranking)
    other = Target(torch.tensor([[30.0, 30.0, 46.0, 46.0]]), torch.tensor([1]))
    for parameter in (*detector.rpn.head.regressor.parameters(), *detector.rcnn.head.regressor.parameters()):
        nn.init.zeros_(parameter)
    rpn, rcnn = detector(make_batch([TWO, EMPTY, other], [(64, 64)] * 3))
    objects = torch.cat([TWO.boxes, other.boxes])
    for head, least, coder in ((rpn, 0.3, detector.rpn.coder), (rcnn, 0.5, detector.rcnn.coder)):
        positives = head.labels[(head.labels >= 0) & (head.labels < head.num_classes)]
        assert len(positives) == len(head.boxes.predicted) == len(head.deltas.target)
        assert (box_iou(head.boxes.predicted, head.boxes.target).diagonal() >= least).all()
        torch.testing.assert_close(
            coder.decode(head.deltas.target, head.boxes.predicted), head.boxes.target, rtol=1e-4, atol=1e-3
        )
        assert not head.boxes.target.requires_grad
    which = (rcnn.boxes.target[:, None] == objects).all(dim=2).int().argmax(dim=1)
    positives = rcnn.labels[rcnn.labels < NUM_CLASSES]
    assert torch.equal(positives, torch.cat([TWO.labels, other.labels])[which])


def test_only_the_regressor_of_the_objects_class_is_used(tiny_faster_rcnn: Build) -> None:
    detector = tiny_faster_rcnn(True)
    _, rcnn = detector(make_batch([TWO], [(64, 64)]))
    rcnn.boxes.predicted.sum().backward()
    gradient = detector.rcnn.head.regressor.weight.grad.view(NUM_CLASSES, 4, -1)
    assert gradient[0].any()
    assert gradient[2].any()
    assert not gradient[1].any()


@FORMS
def test_detectors_run_in_bfloat16(tiny_faster_rcnn: Build, ranking: bool) -> None:
    detector, batch = tiny_faster_rcnn(ranking), make_batch([TWO, EMPTY], [(64, 64), (50, 70)])
    with torch.autocast("cpu", torch.bfloat16):
        heads = detector(batch)
        found = detector.detect(batch.images)
    assert all(head.boxes.predicted.dtype == torch.float32 for head in heads)
    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
    surrogate(heads).backward()
    check_gradients(detector)


@FORMS
def test_no_proposals_leave_the_graph_whole(tiny_faster_rcnn: Build, ranking: bool) -> None:
    detector, batch = tiny_faster_rcnn(ranking), make_batch([EMPTY], [(64, 64)])
    detector.rpn.train_proposals = detector.rpn.test_proposals = replace(detector.rpn.train_proposals, per_image=0)
    heads = detector(batch)
    assert len(heads[1].labels) == 0
    surrogate(heads).backward()
    check_gradients(detector)
    assert detector.detect(batch.images)[0].boxes.shape == (0, 4)


class Pointwise(nn.Module):
    """A backbone whose cells see nothing beyond themselves, so that padding cannot leak into features."""

    channels, strides = (8, 8), (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Conv2d(3, 8, stride, stride=stride) for stride in self.strides)

    def forward(self, images: Images) -> list[Tensor]:
        pixels = images.pixels.float() / 255
        return [level(pixels) for level in self.levels]


@FORMS
def test_padding_of_a_batch_does_not_matter(tiny_faster_rcnn: Build, ranking: bool) -> None:
    detector = tiny_faster_rcnn(ranking)
    detector.backbone = Pointwise()
    detector.fpn = FPN((8, 8), 16, extra_levels=0)
    detector.rpn.anchors = AnchorGenerator((8, 16), scales=(2.0,))
    detector.rcnn.pooling = RoIPooling((8, 16))
    with torch.no_grad():
        for convolution in (*detector.fpn.outputs, detector.rpn.head.convolution):
            center = convolution.weight[:, :, 1:2, 1:2].clone()
            convolution.weight.zero_()[:, :, 1:2, 1:2] = center
        detector.rpn.head.classifier.weight.mul_(100)
    both = make_batch([EMPTY, EMPTY], [(64, 64), (90, 120)]).images
    alone = Images(both.pixels[:1, :, :64, :64], ((64, 64),))
    proposals, maps = [], []
    for images in (both, alone):
        maps.append(detector.fpn(detector.backbone(images)))
        outputs = detector.rpn(maps[-1], images.sizes)
        proposals.append(detector.rpn.proposals(outputs, images.sizes, detector.rpn.test_proposals)[0])
    torch.testing.assert_close(*proposals)
    # Beyond the center of the last cell RoIAlign meets padding in one case and the end of the map in the other.
    inside = proposals[1][(proposals[1][:, 2:] <= 56).all(dim=1)]
    assert len(inside) > 10
    for padded, expected in zip(detector.rcnn(maps[0], [inside]), detector.rcnn(maps[1], [inside]), strict=True):
        torch.testing.assert_close(padded, expected)
