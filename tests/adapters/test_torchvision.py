"""Detectors of torchvision learn by Rank & Sort Loss, and stay detectors of torchvision.

This file is also the program of the second of two processes: ``test_torchvision.py RANK FOLDER``.
"""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign, box_iou

from rankdet.adapters.calibration import find_calibration, match
from rankdet.adapters.torchvision import calibrate, check_labels, on_unit_anchor, plain, use_rank_sort
from rankdet.losses import box_overlap, rank_sort_loss
from rankdet.metrics import evaluate
from rankdet.structures import InputError

if __name__ == "__main__":
    import two_processes
else:
    from . import two_processes

NUM_CLASSES = 4
"""As torchvision counts: with the background."""
SIZE = 64


class Backbone(nn.Sequential):
    """Maps of one or two strides, of 32 channels."""

    out_channels: Any = 32

    def __init__(self, maps: int = 1) -> None:
        layers: list[nn.Module] = []
        for number, channels in enumerate((3, 32, 32, 32)[: 2 + maps]):
            layers += [nn.Conv2d(channels, 32, 3, 2 if number != 1 else 1, 1), nn.GroupNorm(4, 32), nn.ReLU()]
        super().__init__(*layers)
        self.maps = maps
        if maps > 1:
            self.out_channels = [32] * maps

    def forward(self, images: Tensor) -> Any:
        found = []
        for number, layer in enumerate(self):
            images = layer(images)
            if number % 3 == 2:
                found.append(images)
        return OrderedDict((str(number), each) for number, each in enumerate(found[-self.maps :]))


def two_stage(**parts: Any) -> dict[str, Any]:
    return {
        "num_classes": None,
        "min_size": SIZE,
        "max_size": SIZE,
        "rpn_anchor_generator": AnchorGenerator(((12, 24, 48),), ((1.0,),)),
        "rpn_post_nms_top_n_train": 60,
        "rpn_post_nms_top_n_test": 40,
        "box_roi_pool": MultiScaleRoIAlign(["0"], 3, 1),
        "box_head": TwoMLPHead(32 * 9, 32),
        "box_predictor": FastRCNNPredictor(32, NUM_CLASSES),
        **parts,
    }


def faster_rcnn(**parts: Any) -> FasterRCNN:
    return FasterRCNN(Backbone(), **two_stage(**parts))


def mask_rcnn(**parts: Any) -> MaskRCNN:
    heads = {
        "mask_roi_pool": MultiScaleRoIAlign(["0"], 4, 1),
        "mask_head": MaskRCNNHeads(32, (8,), 1),
        "mask_predictor": MaskRCNNPredictor(8, 8, NUM_CLASSES),
    }
    return MaskRCNN(Backbone(), **two_stage(**heads, **parts))


def retinanet() -> RetinaNet:
    anchors = AnchorGenerator(((12, 24, 48),), ((1.0,),))
    return RetinaNet(Backbone(), NUM_CLASSES, SIZE, SIZE, anchor_generator=anchors)


def fcos() -> FCOS:
    anchors = AnchorGenerator(((4,),), ((1.0,),))
    model = FCOS(Backbone(), NUM_CLASSES, SIZE, SIZE, anchor_generator=anchors)
    nn.init.constant_(model.head.regression_head.bbox_reg.bias, 2.0)  # no box without area
    return model


def ssd() -> SSD:
    anchors = DefaultBoxGenerator([[2], [2]], scales=[0.2, 0.4, 0.8])
    return SSD(Backbone(2), anchors, (SIZE, SIZE), NUM_CLASSES)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "faster": faster_rcnn,
    "mask": mask_rcnn,
    "retinanet": retinanet,
    "fcos": fcos,
    "ssd": ssd,
}
CLASSIFICATIONS = {"loss_objectness", "loss_classifier", "classification"}
BOXES = {"loss_rpn_box_reg", "loss_box_reg", "bbox_regression"}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[request.param]()


def scene(*counts: int, seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of bright rectangles on noise, whose colors are their classes, and the objects."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for count in counts:
        corner = torch.randint(0, 30, (count, 2), generator=generator)
        boxes = torch.cat([corner, corner + torch.randint(14, 32, (count, 2), generator=generator)], dim=1)
        labels = torch.randint(1, NUM_CLASSES, (count,), generator=generator)
        image = 0.3 * torch.rand(3, SIZE, SIZE, generator=generator)
        masks = torch.zeros(count, SIZE, SIZE, dtype=torch.uint8)
        for (left, top, right, bottom), label, mask in zip(boxes.tolist(), labels.tolist(), masks, strict=True):
            image[label - 1, top:bottom, left:right] += 0.7
            mask[top:bottom, left:right] = 1
        images.append(image.clamp(max=1))
        targets.append({"boxes": boxes.float(), "labels": labels, "masks": masks})
    return images, targets


def sums(terms: dict[str, Tensor], names: set[str] | None = None) -> Tensor:
    return torch.stack([value for name, value in terms.items() if names is None or name in names]).sum()


def same(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> bool:
    return all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(first, second, strict=True)
    )


def test_steps_lower_the_ranking_error_and_all_weights_learn_that_learned_before(model: nn.Module) -> None:
    images, targets = scene(2, 1, 0)
    sums(model(images, targets)).backward()
    learned = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    model.zero_grad()
    use_rank_sort(model)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=2e-3)
    values = []
    for _ in range(12):
        terms = model(images, targets)
        optimizer.zero_grad()
        sums(terms).backward()
        if not values:
            learns = {
                name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()
            }
            assert learned - learns == {name for name in learned if "ctrness" in name}
        optimizer.step()
        values.append(sums(terms, CLASSIFICATIONS).item())
    assert values[-1] < 0.9 * values[0]


def test_the_boxes_of_a_head_have_the_value_of_its_classification(model: nn.Module) -> None:
    terms = use_rank_sort(model)(*scene(2, 1))
    assert sums(terms, CLASSIFICATIONS) > 0
    torch.testing.assert_close(sums(terms, BOXES), sums(terms, CLASSIFICATIONS))


def test_without_objects_all_terms_are_zero_and_gradients_finite(model: nn.Module) -> None:
    terms = use_rank_sort(model)(*scene(0, 0))
    assert all(value == 0 for value in terms.values())
    sums(terms).backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_bfloat16_autocast_learns(model: nn.Module) -> None:
    use_rank_sort(model)
    images, targets = scene(2, 0)
    whole = model(images, targets)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images, targets)
    sums(half).backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    torch.testing.assert_close(sums(half, CLASSIFICATIONS), sums(whole, CLASSIFICATIONS), rtol=0.2, atol=0.1)


def test_copies_and_pickles_have_a_loss_of_their_own(model: nn.Module) -> None:
    use_rank_sort(model)
    inputs = scene(1, 2)
    torch.manual_seed(0)
    expected = model(*inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.manual_seed(0)
        terms = other(*inputs)
        assert {name: value.item() for name, value in terms.items()} == {n: v.item() for n, v in expected.items()}
        sums(terms).backward()
        assert all(weight.grad is None for weight in model.parameters())
        assert any(weight.grad is not None for weight in other.parameters())


def test_a_plain_model_has_the_same_detections_by_code_of_torchvision_alone(model: nn.Module) -> None:
    classes = {name: type(part) for name, part in model.named_modules()}
    images, targets = scene(2, 1)
    use_rank_sort(model)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    sums(model(images, targets)).backward()
    optimizer.step()
    detections = model.eval()(images)
    scored = getattr(model, "roi_heads", model)
    scored.score_thresh = detections[0]["scores"][9:11].mean().item()
    kept = model(images)
    assert len(kept[0]["scores"]) == 10 < len(detections[0]["scores"])

    own, buffers = plain(model, lowered_by=40), dict(model.named_buffers())
    assert {name: type(part) for name, part in own.named_modules()} == classes
    assert b"rankdet" not in pickle.dumps(own)
    for found, expected in zip(own(images), kept, strict=True):
        if isinstance(model, FasterRCNN | SSD):
            found["scores"] = (found["scores"].log() + 40).sigmoid()
        torch.testing.assert_close(found, expected)
    scored.score_thresh = 0.0
    assert same(model(images), detections)
    assert buffers.keys() == dict(model.named_buffers()).keys()


def test_boxes_without_an_area_are_no_detections() -> None:
    torch.manual_seed(0)
    model = use_rank_sort(faster_rcnn())
    proposals = [
        torch.tensor([[4.0, 4, 20, 20], [30, 30, 30.001, 50], [70, 8, 90, 20]]),
        torch.tensor([[9.0, 9, 40, 50]]),
    ]
    arguments = (torch.randn(4, NUM_CLASSES), torch.zeros(4, 4 * NUM_CLASSES), proposals, [(SIZE, SIZE)] * 2)
    boxes, scores, labels = model.roi_heads.postprocess_detections(*arguments)
    assert [len(each) for each in boxes] == [3, 3]
    plain_heads = plain(model, lowered_by=40).roi_heads
    plain_boxes, plain_scores, plain_labels = plain_heads.postprocess_detections(*arguments)
    for image in range(2):
        torch.testing.assert_close(boxes[image], plain_boxes[image])
        assert labels[image].equal(plain_labels[image])
        torch.testing.assert_close(scores[image].shape, plain_scores[image].shape)


def test_a_plain_model_of_one_class_has_the_same_scores() -> None:
    torch.manual_seed(0)
    model = use_rank_sort(faster_rcnn(box_predictor=FastRCNNPredictor(32, 2))).eval()
    images, _ = scene(2)
    torch.testing.assert_close(plain(model)(images), model(images))


def test_weights_of_a_plain_model_are_loaded_by_any_model(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    assert "All keys matched" in str(other.load_state_dict(plain(use_rank_sort(model)).state_dict()))


def test_weights_and_model_must_both_be_of_the_loss_or_neither(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*rankdet_use_rank_sort"):
        other.load_state_dict(use_rank_sort(model).state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key.*rankdet_use_rank_sort"):
        model.load_state_dict(other.state_dict())
    use_rank_sort(other).load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", ["faster", "ssd"])
def test_a_detector_that_has_learned_starts_with_its_odds_against_the_background(name: str) -> None:
    """And with the same softmax. The background's logit is 0 from then on, also under weight decay."""
    torch.manual_seed(0)
    model = MODELS[name]()
    part = model.roi_heads.box_predictor if name == "faster" else model.head.classification_head
    with torch.no_grad():
        for weight in part.parameters():
            weight.normal_(std=0.3)
    found: list[Tensor] = []
    part.register_forward_hook(
        lambda _, inputs, output: found.append((output[0] if name == "faster" else output).flatten(0, -2))
    )
    images, targets = scene(2)
    model.eval()(images)
    use_rank_sort(model)(images)
    before, after = found
    torch.testing.assert_close(after.softmax(dim=1), before.softmax(dim=1))
    probabilities = before.double().softmax(dim=1)
    torch.testing.assert_close(after.double(), (probabilities / probabilities[:, :1]).log(), rtol=1e-4, atol=1e-4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    sums(model.train()(images, targets)).backward()
    optimizer.step()
    model.eval()(images)
    assert not found[-1][:, 0].any()
    assert found[-1][:, 1:].any()


def test_detections_are_kept_at_any_score_and_a_second_call_changes_the_options_alone(model: nn.Module) -> None:
    scored = getattr(model, "roi_heads", model)
    usual = scored.score_thresh
    use_rank_sort(model)
    use_rank_sort(model, delta=0.25, boxes="theirs")
    assert (scored.score_thresh, scored.usual_score_thresh) == (0.0, usual)
    losses = [part for part in model.modules() if type(part).__name__ == "HeadLoss"]
    assert {(part.loss.delta, part.boxes) for part in losses} == {(0.25, "theirs")}


def hooks(model: nn.Module) -> dict[tuple[str, str], int]:
    """How many hooks of each kind the parts have that have some."""
    return {
        (name, kind): len(found)
        for name, part in model.named_modules()
        for kind, found in vars(part).items()
        if kind.endswith("_hooks") and found
    }


def test_models_that_are_changed_again_and_again_are_as_after_the_first_time(model: nn.Module) -> None:
    before, classes = hooks(model), [type(part) for part in model.modules()]
    attributes = [set(vars(part)) for part in model.modules()]
    use_rank_sort(model)
    keys, after = list(model.state_dict()), hooks(model)
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), use_rank_sort(plain(model))]
    for other in [*others, use_rank_sort(model)]:
        assert hooks(other) == after
        assert list(other.state_dict()) == keys
        again = plain(plain(other))
        assert hooks(again) == before
        assert [type(part) for part in again.modules()] == classes
        assert [vars(part).keys() for part in again.modules()] == attributes
        assert hooks(other) == after


def test_their_box_terms_are_theirs(model: nn.Module) -> None:
    for part in model.modules():
        if hasattr(part, "fg_bg_sampler"):  # draws all
            part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction = 10**6, 1.0
    inputs = scene(2, 0, 1)
    theirs = model(*inputs)
    ours = use_rank_sort(model, boxes="theirs")(*inputs)
    for name in BOXES & theirs.keys():
        torch.testing.assert_close(ours[name], theirs[name])
    assert theirs.keys() - ours.keys() <= {"bbox_ctrness"}


class Classified(TorchDispatchMode):
    """Counts the logits that the largest cross-entropy of a forward pass reads."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function in (torch.ops.aten._log_softmax.default, torch.ops.aten.binary_cross_entropy_with_logits.default):
            self.most = max(self.most, arguments[0].numel())
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("name", ["faster", "retinanet", "fcos", "ssd"])
def test_their_box_terms_come_without_their_classification(name: str) -> None:
    """Of the logits of a sample two are left, and of dense heads one for a positive."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for part in model.modules():
        if hasattr(part, "fg_bg_sampler"):
            part.fg_bg_sampler.batch_size_per_image = 12
    inputs = scene(2, 0, 1)
    with Classified() as theirs:
        model(*inputs)
    with Classified() as ours:
        use_rank_sort(model, boxes="theirs")(*inputs)
    assert ours.most <= theirs.most / 2


def test_an_rcnn_learns_from_no_more_proposals_than_allowed() -> None:
    torch.manual_seed(0)
    model = faster_rcnn()
    seen: list[int] = []
    model.roi_heads.box_head.register_forward_hook(lambda part, inputs, output: seen.append(len(output)))
    use_rank_sort(model, proposals_per_image=7)(*scene(2, 0, 1))
    assert seen == [7 * 3 + 3]
    use_rank_sort(model)(*scene(2, 0, 1))
    assert 50 * 3 < seen[1] <= 60 * 3 + 3
    model.eval()(scene(1)[0])
    assert 7 < seen[2] <= 40
    assert use_rank_sort(faster_rcnn(rpn_post_nms_top_n_train=2000)).rpn.post_nms_top_n() == 1000


def test_overlaps_do_not_need_the_anchors() -> None:
    generator = torch.Generator().manual_seed(0)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    corner = 500 * torch.rand(300, 2, generator=generator)
    anchors = torch.cat([corner, corner + 1 + 300 * torch.rand(300, 2, generator=generator)], dim=1).double()
    moved = anchors + 40 * torch.rand(300, 4, generator=generator) * torch.tensor([-1, -1, 1, 1])
    deltas = torch.randn(300, 4, generator=generator).double()
    pairs = on_unit_anchor(coder, deltas, coder.encode_single(moved, anchors))
    pixels = box_overlap(coder.decode_single(deltas, anchors), moved)
    assert (pixels.iou > 0).any()
    torch.testing.assert_close(box_overlap(*pairs[:2]).iou, pixels.iou)
    torch.testing.assert_close(box_overlap(*pairs[:2]).giou, pixels.giou)


def test_the_rpn_ranks_all_anchors_by_the_overlap_in_pixels() -> None:
    torch.manual_seed(0)
    model = use_rank_sort(faster_rcnn())
    generator = torch.Generator().manual_seed(1)
    anchors = [torch.tensor([[0.0, 0, 20, 20], [10, 10, 42, 30], [30, 5, 60, 60]])] * 2
    labels = [torch.tensor([1.0, 0, 1]), torch.tensor([-1.0, 1, 0])]
    objects = [anchors[0] + torch.tensor([1.0, 2, 3, -1])] * 2
    deltas, logits = 0.3 * torch.randn(6, 4, generator=generator), torch.randn(6, 1, generator=generator)
    encoded = [model.rpn.box_coder.encode_single(*each) for each in zip(objects, anchors, strict=True)]
    found, _ = model.rpn.compute_loss(logits, deltas, labels, encoded)
    decoded = model.rpn.box_coder.decode_single(deltas, torch.cat(anchors))
    iou = box_iou(decoded, torch.cat(objects)).diagonal()
    targets = torch.where(torch.cat(labels) > 0, iou, torch.cat(labels))
    torch.testing.assert_close(found, sum(rank_sort_loss(logits[:, 0], targets)))


class Fixed(nn.Module):
    """A predictor of the same logits and deltas for any features, some for each proposal."""

    def __init__(self, logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas = nn.Parameter(logits), nn.Parameter(deltas)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits[: len(features)], self.deltas[: len(features)]


def test_an_rcnn_ranks_all_proposals_and_the_objects_themselves() -> None:
    torch.manual_seed(0)
    heads = use_rank_sort(faster_rcnn()).roi_heads
    heads.box_predictor = Fixed(torch.randn(9, NUM_CLASSES), 0.5 * torch.randn(9, 4 * NUM_CLASSES))
    proposals = [torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60], [8, 8, 30, 36]]), torch.tensor([[5.0, 5, 15, 25]])]
    targets = [
        {"boxes": torch.tensor([[2.0, 1, 21, 22], [8, 6, 30, 34]]), "labels": torch.tensor([3, 1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    features = {"0": torch.rand(2, 32, 16, 16)}
    _, found = heads(features, [each.clone() for each in proposals], [(SIZE, SIZE)] * 2, targets)

    everything = torch.cat([proposals[0], targets[0]["boxes"], proposals[1]])  # with the objects of the first image
    expected = torch.zeros(6, NUM_CLASSES - 1)
    for row, (label, place) in {0: (3, 0), 2: (1, 1), 3: (3, 0), 4: (1, 1)}.items():
        deltas = heads.box_predictor.deltas[row : row + 1, 4 * label : 4 * label + 4]
        box = heads.box_coder.decode_single(deltas, everything[row : row + 1])
        expected[row, label - 1] = box_iou(box, targets[0]["boxes"][place : place + 1]).item()
    torch.testing.assert_close(
        found["loss_classifier"], sum(rank_sort_loss(heads.box_predictor.logits[:6, 1:], expected))
    )


@pytest.mark.parametrize(("name", "first"), [("retinanet", 0), ("fcos", 0), ("ssd", 1)])
def test_a_dense_head_ranks_all_anchors_of_all_images(name: str, first: int) -> None:
    torch.manual_seed(0)
    model = use_rank_sort(MODELS[name]())
    num_anchors, columns = 5, NUM_CLASSES
    outputs = {"cls_logits": torch.randn(2, num_anchors, columns), "bbox_regression": torch.rand(2, num_anchors, 4)}
    if name == "fcos":
        outputs["bbox_ctrness"] = torch.zeros(2, num_anchors, 1)
    anchors = [torch.tensor([[0.0, 0, 16, 16], [8, 8, 24, 24], [20, 4, 36, 20], [30, 30, 46, 46], [4, 40, 20, 56]])] * 2
    matches = [torch.tensor([1, -1, 0, -1, -1]), torch.tensor([-1, -1, -1, 0, -1])]
    if name == "retinanet":
        matches[1][4] = -2
    targets = [
        {"boxes": torch.tensor([[18.0, 2, 34, 22], [1, 1, 20, 14]]), "labels": torch.tensor([2, 1])},
        {"boxes": torch.tensor([[28.0, 31, 50, 44]]), "labels": torch.tensor([3])},
    ]
    head = model if name == "ssd" else model.head
    found = head.compute_loss(targets, outputs, anchors, matches)["classification"]

    logits = outputs["cls_logits"].flatten(0, 1)[:, first:]
    expected = torch.zeros_like(logits)
    for image, own in enumerate(matches):
        for anchor, place in enumerate(own.tolist()):
            row = image * num_anchors + anchor
            if place == -2:
                expected[row] = -1
            if place >= 0:
                box = model.box_coder.decode(
                    *(
                        (outputs["bbox_regression"][image, anchor][None], anchors[image][anchor][None])
                        if name == "fcos"
                        else (outputs["bbox_regression"][image, anchor][None], [anchors[image][anchor][None]])
                    )
                ).reshape(1, 4)
                label = targets[image]["labels"][place] - first
                expected[row, label] = box_iou(box, targets[image]["boxes"][place : place + 1]).item()
    assert (expected > 0).sum() == 3
    torch.testing.assert_close(found, sum(rank_sort_loss(logits, expected)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_fcos_scores_without_centerness_are_those_of_its_classes(is_replaced: bool) -> None:
    torch.manual_seed(0)
    model = use_rank_sort(fcos()).eval()
    if is_replaced:
        model.head.regression_head = fcos().head.regression_head.requires_grad_(False)
    images, _ = scene(2)
    (found,) = model(images)
    with torch.no_grad():
        outputs = model.head(list(model.backbone(model.transform(images)[0].tensors).values()))
    assert (outputs["bbox_ctrness"].sigmoid() == 1).all()
    assert not any(weight.requires_grad for weight in model.head.regression_head.bbox_ctrness.parameters())
    torch.testing.assert_close(found["scores"].max(), outputs["cls_logits"].max().sigmoid().sqrt())


@pytest.mark.parametrize("masks", ["theirs", "dice"])
def test_no_more_positives_get_a_mask_than_allowed(masks: Any) -> None:
    torch.manual_seed(0)
    model = use_rank_sort(mask_rcnn(), masks=masks, masks_per_image=1)
    seen: list[int] = []
    model.roi_heads.mask_predictor.register_forward_hook(lambda part, inputs, output: seen.append(len(output)))
    terms = model(*scene(3, 2, 0))
    assert seen == [2]
    terms["loss_mask"].backward()
    assert model.roi_heads.mask_predictor.mask_fcn_logits.weight.grad.any()


def test_dice_compares_masks_of_the_own_class_with_those_of_the_own_object() -> None:
    """Logits of class c are c; masks of objects are full or empty, by their class."""
    torch.manual_seed(0)
    model = use_rank_sort(mask_rcnn(), masks="dice", masks_per_image=2)
    last = model.roi_heads.mask_predictor.mask_fcn_logits
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(float(NUM_CLASSES)))
    images, targets = scene(3, 3)
    for target in targets:
        target["labels"] = torch.tensor([1, 2, 3])
        target["masks"][:] = torch.tensor([1, 0, 1])[:, None, None]
    found: list[Any] = []
    model.roi_heads.rank_sort.register_forward_hook(lambda part, inputs, output: found.append(inputs[0]))
    terms = model(images, targets)
    (candidates,) = found
    masks, positives = candidates.masks, candidates.labels[candidates.rows]
    assert len(masks.rows) == 4 < len(positives)
    own = positives[masks.rows] + 1
    assert (masks.predicted == own[:, None, None]).all()
    assert (masks.target.mean(dim=(1, 2)) > 0.5).equal(own != 2)
    torch.testing.assert_close(terms["loss_mask"], terms["loss_classifier"])


@pytest.mark.parametrize(("name", "label", "message"), [
    ("faster", 0, "image 1 has an object of class 0, but classes are 1 … 3, and 0 is the background"),
    ("faster", 4, "image 1 has an object of class 4, but classes are 1 … 3"),
    ("mask", 0, "class 0"),
    ("ssd", 0, "class 0"),
    ("ssd", 4, "class 4"),
    ("retinanet", 4, "image 1 has an object of class 4, but classes are 0 … 3"),
    ("fcos", -1, "class -1"),
])  # fmt: skip
def test_labels_that_the_model_does_not_have_are_refused(name: str, label: int, message: str) -> None:
    model = use_rank_sort(MODELS[name]())
    images, targets = scene(1, 1)
    targets[1]["labels"] = torch.tensor([label])
    with pytest.raises(ValueError, match=message):
        model(images, targets)


def test_labels_within_the_range_are_no_error() -> None:
    check_labels([{"labels": torch.tensor([1, 3])}, {"labels": torch.zeros(0, dtype=torch.int64)}], range(1, 4))


@pytest.mark.parametrize(("name", "path"), [
    ("faster", "rpn.head"),
    ("faster", "roi_heads.box_predictor"),
    ("mask", "roi_heads.mask_predictor"),
    ("retinanet", "head.classification_head"),
    ("fcos", "head.classification_head"),
    ("ssd", "head"),
])  # fmt: skip
def test_layers_that_are_put_in_afterwards_learn_by_the_loss(name: str, path: str) -> None:
    torch.manual_seed(0)
    model = use_rank_sort(MODELS[name]())
    model.set_submodule(path, MODELS[name]().get_submodule(path))
    terms = model(*scene(2, 1))
    torch.testing.assert_close(sums(terms, BOXES), sums(terms, CLASSIFICATIONS))
    sums(terms).backward()
    assert all(weight.grad is not None for weight in model.get_submodule(path).parameters() if weight.requires_grad)


@pytest.mark.parametrize(("name", "path"), [
    ("faster", "rpn"),
    ("mask", "roi_heads"),
    ("retinanet", "head"),
    ("fcos", "head"),
])  # fmt: skip
def test_parts_with_a_loss_that_are_put_in_afterwards_are_not_learned_before_another_call(name: str, path: str) -> None:
    torch.manual_seed(0)
    images, targets = scene(2, 1)
    theirs = MODELS[name]().get_submodule(path)
    model = use_rank_sort(MODELS[name]())
    model.set_submodule(path, theirs)
    for forward in (lambda: model(images, targets), lambda: plain(model), lambda: calibrate(model, [])):
        with pytest.raises(
            RuntimeError, match=f"a {type(theirs).__name__} was put in after .*call use_rank_sort again"
        ):
            forward()
    model.eval()(images)
    terms = use_rank_sort(model).train()(images, targets)
    torch.testing.assert_close(sums(terms, BOXES), sums(terms, CLASSIFICATIONS))


def test_what_is_not_known_is_refused() -> None:
    class OwnHeads(RoIHeads):
        pass

    model = faster_rcnn()
    model.roi_heads.__class__ = OwnHeads
    with pytest.raises(TypeError, match="OwnHeads has a loss of its own"):
        use_rank_sort(model)
    assert type(model.rpn).__name__ == "RegionProposalNetwork"
    with pytest.raises(TypeError, match="before it is compiled or wrapped; got DataParallel"):
        use_rank_sort(nn.DataParallel(faster_rcnn()))
    with pytest.raises(ValueError, match="keypoints are learned by a loss of their own"):
        use_rank_sort(KeypointRCNN(Backbone(), **two_stage(keypoint_roi_pool=MultiScaleRoIAlign(["0"], 3, 1))))


@pytest.mark.parametrize("option", [{"delta": -1.0}, {"boxes": "their"}, {"masks": "bce"}, {"masks_per_image": 0}])
def test_options_out_of_range_are_refused_and_leave_the_model(option: dict[str, Any]) -> None:
    model = retinanet()
    (name,) = option
    with pytest.raises(ValueError, match=name):
        use_rank_sort(model, **option)
    assert type(model.head).__name__ == "RetinaNetHead"


def own_objects(model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Objects where the model sees some anyway: some of its detections, a bit off."""
    found = model.eval()(images)
    return [{"boxes": each["boxes"][1:30:4] + 0.3, "labels": each["labels"][1:30:4]} for each in found]


def ap50(found: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> float:
    """By the evaluator of COCO."""

    def records(images: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
        return [
            {"image_id": image, "category_id": label, "bbox": [x, y, w - x, h - y], "score": score}
            for image, each in enumerate(images)
            for (x, y, w, h), label, score in zip(
                *(each[name].tolist() for name in ("boxes", "labels", "scores")), strict=True
            )
        ]

    objects = [target | {"scores": target["labels"]} for target in targets]
    annotations = [record | {"id": number} for number, record in enumerate(records(objects))]
    truth = {
        "images": [{"id": image, "width": SIZE, "height": SIZE} for image in range(len(targets))],
        "categories": [{"id": label, "name": str(label)} for label in range(NUM_CLASSES)],
        "annotations": annotations,
    }
    return evaluate(truth, records(found))["AP50"]


def test_after_calibration_the_usual_threshold_keeps_what_ap50_needs(model: nn.Module) -> None:
    scored = getattr(model, "roi_heads", model)
    usual = scored.score_thresh
    use_rank_sort(model)
    for name, weight in model.named_parameters():
        if "cls_score" in name or "classification_head" in name:
            nn.init.normal_(weight, std=0.1)  # logits further apart than float32 rounds
    images, _ = scene(2, 2, 1)
    targets = own_objects(model, images)
    before = model(images)
    model.train()
    found = calibrate(model, [(images[:1], targets[:1]), (images[1:], targets[1:])])
    assert model.training
    assert scored.score_thresh == found.threshold == usual

    model.eval()
    kept = model(images)
    scored.score_thresh = 0.0
    everything = model(images)
    power = 2 if isinstance(model, FCOS) else 1
    for one, other in zip(before, everything, strict=True):
        # Scores far below the threshold may become 0, above which detections are.
        number = len(other["scores"])
        one = {name: values[:number] for name, values in one.items()}
        logits = (one["scores"] ** power).double().logit()
        scores = (found.scale * logits + found.shift).sigmoid() ** (1 / power)
        torch.testing.assert_close(other["scores"].double(), scores, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(other["boxes"], one["boxes"])
    logits = [(each["scores"].double() ** power).logit() for each in before]
    matches = [
        match(one["boxes"], score, one["labels"], target["boxes"], target["labels"])
        for one, score, target in zip(before, logits, targets, strict=True)
    ]
    assert found[:2] == pytest.approx(find_calibration(matches, usual**power)[:2], rel=1e-4)
    scored.score_thresh = usual
    for one, other in zip(plain(model, lowered_by=40)(images), model(images), strict=True):
        if isinstance(model, FasterRCNN | SSD):
            one["scores"] = (one["scores"].log() + 40).sigmoid()
        torch.testing.assert_close(one, other)
    expected = ap50(before, targets)
    assert expected > 0.3
    assert ap50(everything, targets) == pytest.approx(expected, abs=1e-6)
    assert found.ap50 == pytest.approx(expected, abs=1e-3)
    assert found.kept_ap50 == pytest.approx(ap50(kept, targets), abs=1e-3)
    assert expected - 0.005 <= ap50(kept, targets) <= expected
    assert sum(len(each["scores"]) for each in kept) < 0.9 * sum(len(each["scores"]) for each in everything)


@pytest.mark.parametrize("name", ["faster", "retinanet", "fcos", "ssd"])
def test_weights_of_a_plain_model_fit_the_threshold_of_any_model(name: str) -> None:
    """Also in half precision."""
    torch.manual_seed(0)
    model = use_rank_sort(MODELS[name]())
    images, targets = scene(3, 2, 3, 2, 1, 0, seed=1)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sums(model(images, targets)).backward()
        optimizer.step()
    expected = ap50(model.eval()(images), targets)
    assert expected > 0.5
    calibrate(model, [(images, targets)])
    other: Any = MODELS[name]().eval()
    other.load_state_dict(plain(model).state_dict())
    found = other(images)
    assert ap50(found, targets) == pytest.approx(expected, abs=0.02)
    assert sum(len(each["scores"]) for each in found) < 50
    with torch.autocast("cpu", torch.float16):
        assert ap50(other(images), targets) == pytest.approx(expected, abs=0.05)
    assert max(each["scores"].max() for each in found if len(each["scores"])) > 0.5


@pytest.mark.parametrize("lowered_by", [0.0, 3.0])
def test_classes_share_a_softmax_with_a_background_of_zero(lowered_by: float) -> None:
    torch.manual_seed(0)
    model = use_rank_sort(faster_rcnn())
    model.roi_heads.box_predictor = FastRCNNPredictor(32, NUM_CLASSES)  # whose background is not 0
    model.roi_heads.score_thresh = 0.2
    own = plain(model, lowered_by).roi_heads
    features = 5 * torch.rand(6, 32)
    logits, _ = model.roi_heads.box_predictor(features)
    found, _ = own.box_predictor(features)
    odds = (logits - lowered_by).exp()
    torch.testing.assert_close(found.softmax(dim=1)[:, 1:], odds[:, 1:] / (1 + odds[:, 1:].sum(dim=1, keepdim=True)))
    assert own.score_thresh == pytest.approx(1 / (1 + 4 * math.exp(lowered_by)))


@pytest.mark.parametrize("shift", [-60.0, 11.0])
def test_logits_may_lie_anywhere_before_calibration(shift: float) -> None:
    torch.manual_seed(0)
    model = use_rank_sort(retinanet())
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.1)
    images, _ = scene(2, 1)
    targets = own_objects(model, images)
    with torch.no_grad():
        model.head.classification_head.cls_logits.bias.add_(shift)
    found = calibrate(model, [(images, targets)])
    assert found.kept_ap50 > 0.3
    # Logits far from 0 have few digits, so that some detections change places.
    assert ap50(model(images), targets) == pytest.approx(found.kept_ap50, abs=0.02)


def test_a_calibrated_model_learns_on_from_its_scores_after_another_call() -> None:
    torch.manual_seed(0)
    model = use_rank_sort(retinanet())
    images, _ = scene(2, 1)
    targets = own_objects(model, images)
    calibrate(model, [(images, targets)])
    state = copy.deepcopy(model.state_dict())
    use_rank_sort(model)
    assert (model.score_thresh, model.usual_score_thresh) == (0.0, 0.05)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_cannot_be_calibrated_is_refused_and_stays() -> None:
    torch.manual_seed(0)
    with pytest.raises(TypeError, match="calibrate takes a model of use_rank_sort"):
        calibrate(retinanet(), [])
    model = use_rank_sort(retinanet())
    images, targets = scene(1)
    targets[0]["boxes"] = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="no detection hits an object"):
        calibrate(model, [(images, targets)])
    with pytest.raises(InputError, match="must be between 0 and 1, not 0"):
        calibrate(model, [(images, own_objects(model, images))], threshold=0.0)
    assert model.score_thresh == 0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def stepped(rank: int) -> dict[str, Any]:
    """Weights of two detectors after two steps, in one pool and in two; the second process sees no object."""
    found = {}
    for name in ("fcos", "faster"):
        for sync in (False, True):
            torch.manual_seed(0)
            model = DistributedDataParallel(use_rank_sort(MODELS[name](), sync=sync))
            optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
            for _ in range(2):
                optimizer.zero_grad()
                sums(model(*scene(0 if rank else 2, seed=rank))).backward()
                optimizer.step()
            found[f"{name} {sync}"] = model.module.state_dict()
    return found


def test_processes_keep_the_same_weights_where_one_sees_no_object(tmp_path: Path) -> None:
    both = two_processes.in_both(__file__, stepped, tmp_path)
    for name in ("fcos", "faster"):
        torch.manual_seed(0)
        start = use_rank_sort(MODELS[name]()).state_dict()
        for sync in (False, True):
            first, second = (found[f"{name} {sync}"] for found in both)
            assert all(torch.equal(first[key], second[key]) for key in first)
            assert any(not torch.equal(first[key], start[key]) for key in first)


if __name__ == "__main__":
    two_processes.join(stepped, int(sys.argv[1]), Path(sys.argv[2]))
