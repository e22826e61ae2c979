"""Standard YOLACT is that of mmdetection 3.3.0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from rankdet.data import FixedSize
from rankdet.heads import CenteredAnchors
from rankdet.label_assignment import PyramidAnchors
from rankdet.recipes import RECIPES
from rankdet.structures import Batch

from .comparing import assert_all_equal, assert_equal, assert_same_detections
from .mmdetection import (
    CONFIGS,
    TASK_UTILS,
    Both,
    Config,
    build_here,
    build_there,
    by_anchor,
    evaluate,
    gradients,
    prepare,
    randomize,
    share_weights,
    total,
)
from .scenes import NUM_CLASSES, draw_batch, read_batch

pytestmark = pytest.mark.filterwarnings("ignore")
BACKBONE = "resnet18.tv_in1k"
CONFIG = "yolact/yolact_r50_1xb8-55e_coco.py"
HEIGHT, WIDTH = 150, 190
MAPS = ((19, 24), (10, 12), (5, 6), (3, 3), (2, 2))
SCENES = ("one image", "two images", "one without objects", "none with objects", "genuine")
NAMES = {"loss_cls": "classification", "loss_bbox": "localization", "loss_mask": "mask", "loss_segm": "semantic"}
WITH_OBJECTS = ("one image", "two images", "genuine")


def make_scene(name: str) -> Batch:
    """Images of one size."""
    counts = {"one image": [6], "two images": [5, 9], "one without objects": [4, 0], "none with objects": [0, 0]}
    if name == "genuine":
        return read_batch(FixedSize(HEIGHT, WIDTH))
    return draw_batch([(HEIGHT, WIDTH)] * len(counts[name]), counts[name], seed=len(name))


class GivenAnchors:
    """The anchors there, bit for bit.

    Strides of a few digits behind the point make anchors that overlap an object equally but for rounding, and only one
    of them is claimed.
    """

    def __init__(self, own: CenteredAnchors, boxes: Tensor) -> None:
        self.own, self.boxes = own, boxes

    def pyramid(
        self, maps: Sequence[Tensor], canvas: tuple[int, int], image_sizes: Sequence[tuple[int, int]]
    ) -> PyramidAnchors:
        return self.own.pyramid(maps, canvas, image_sizes)._replace(boxes=self.boxes)


@pytest.fixture(scope="module")
def both() -> Both:
    strides = [(WIDTH / columns, HEIGHT / rows) for rows, columns in MAPS]
    changes = {
        "neck.out_channels": 64,
        "bbox_head.in_channels": 64,
        "bbox_head.feat_channels": 64,
        "bbox_head.num_classes": NUM_CLASSES,
        # Strides and centers of an image of 550 pixels are written into the configuration.
        "bbox_head.anchor_generator.strides": strides,
        "bbox_head.anchor_generator.centers": [(x / 2, y / 2) for x, y in strides],
        "mask_head.in_channels": 64,
        "mask_head.num_classes": NUM_CLASSES,
        "mask_head.proto_channels": (32, 32, 32, None, 32, 32),
        # A draw of masks is a draw: all of them are compared.
        "mask_head.max_masks_to_train": 10_000,
        "data_preprocessor.pad_mask": False,
    }
    there = build_there(CONFIG, BACKBONE, changes)
    outputs = {
        "bbox_head.conv_cls": (0.0, 2.0),
        "bbox_head.conv_reg": (0.0, 1.0),
        "bbox_head.conv_coeff": (0.0, 1.0),
        # Not more: there gradients of masks vanish where a score is 0 or 1 in single precision.
        "mask_head.protonet.10": (0.0, 0.6),
        "mask_head.segm_branch.segm_conv": (-2.0, 2.0),
    }
    there.mask_head.train()  # without it there is no semantic head
    randomize(there, prepare(there, make_scene("two images")), outputs)
    here = {"pyramid_channels": 64, "mask_channels": 32, "masks_per_image": None}
    both = build_here("yolact_r50_coco", BACKBONE, NUM_CLASSES, here)._replace(there=there)
    share_weights(both)
    priors = there.bbox_head.prior_generator.grid_priors(MAPS, device="cpu")
    both.here.instances.anchors = GivenAnchors(both.here.instances.anchors, torch.cat(priors))
    return both


@pytest.fixture(params=SCENES)
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


@pytest.fixture
def training(both: Both) -> Iterator[Both]:
    """In training, batch normalization takes the statistics of the batch."""
    share_weights(both)
    both.here.train()
    both.there.train()
    yield both
    both.here.eval()
    both.there.eval()


def test_anchors_of_the_published_size_are_the_same() -> None:
    maps = ((69, 69), (35, 35), (18, 18), (9, 9), (5, 5))
    own = RECIPES["yolact_r50_coco"]().detector.build(80, pretrained=False).instances.anchors
    other = TASK_UTILS.build(Config.fromfile(CONFIGS / CONFIG).model.bbox_head.anchor_generator)
    expected = torch.cat(other.grid_priors(maps, device="cpu"))
    assert_equal(own.anchors(maps, (550, 550), torch.device("cpu")), expected, "anchors", relative=1e-6)


def test_pixels_pyramid_outputs_and_anchors_are_the_same(both: Both, batch: Batch) -> None:
    both.here.eval()
    both.there.eval()
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        outputs, finest = both.here._outputs(batch.images)
        levels = both.there.extract_feat(inputs.pixels)
        logits, deltas, coefficients = both.there.bbox_head(levels)
        prototypes = both.there.mask_head.protonet(levels[0])
        semantic = both.there.mask_head.segm_branch(levels[0])
    pixels = both.here.backbone.normalization(batch.images)[..., :HEIGHT, :WIDTH]
    assert_equal(pixels, inputs.pixels, "normalized pixels")
    assert_equal(finest, levels[0], "finest level of the pyramid")
    assert_equal(outputs.logits, by_anchor(logits, NUM_CLASSES + 1), "class logits")
    assert_equal(outputs.deltas, by_anchor(deltas, 4), "deltas")
    assert_equal(outputs.coefficients, by_anchor(coefficients, 32), "coefficients")
    assert_equal(outputs.prototypes, prototypes, "prototypes")
    # There the map of a class is that before it.
    assert_equal(both.here.semantic(finest), semantic.roll(1, 1), "semantic maps")
    own = both.here.instances.anchors.own.anchors(MAPS, (HEIGHT, WIDTH), torch.device("cpu"))
    assert_equal(own, both.here.instances.anchors.boxes, "anchors", relative=1e-6)


def test_labels_masks_and_their_targets_are_the_same(both: Both, batch: Batch) -> None:
    both.here.eval()
    both.there.eval()
    inputs = prepare(both.there, batch)
    head, mask_head = both.there.bbox_head, both.there.mask_head
    with torch.no_grad():
        (candidates,) = both.here(batch)
        levels = both.there.extract_feat(inputs.pixels)
        outputs = head(levels)
        anchors, valid = head.get_anchors(MAPS, inputs.metas, device="cpu")
        head.loss_by_feat(*outputs, inputs.objects, inputs.metas)
        found = head.get_targets(anchors, valid, inputs.objects, inputs.metas)
        infos = head.get_positive_infos()
        masks, _ = mask_head(levels, infos)
        cropped = torch.cat(mask_head.crop_mask_preds(masks, inputs.metas, infos))
    labels, weights = (torch.cat(values, dim=1).flatten() for values in found[:2])
    assert torch.equal(candidates.labels, labels.masked_fill(weights == 0, -1))
    assert_equal(candidates.masks.predicted.sigmoid(), cropped, "masks")
    targets = [target_masks(both.there, *each) for each in zip(inputs.objects, infos, strict=True)]
    assert torch.equal(candidates.masks.target.float(), torch.cat(targets))


def target_masks(there: nn.Module, objects: object, info: object) -> Tensor:
    """(P, h, w) of an image there."""
    size = (2 * MAPS[0][0], 2 * MAPS[0][1])
    if not len(info.pos_inds):
        return torch.zeros(0, *size)
    empty = torch.zeros(len(info.pos_inds), *size)
    return there.mask_head._get_targets_single(empty, torch.zeros(NUM_CLASSES, *MAPS[0]), objects, info)[1]


@pytest.mark.parametrize("scene", WITH_OBJECTS)
def test_loss_terms_gradients_and_running_statistics_are_the_same(training: Both, scene: str) -> None:
    batch = make_scene(scene)
    inputs = prepare(training.there, batch)
    here, there = evaluate(training, batch), total(training.there.loss(inputs.pixels, inputs.samples))
    assert_all_equal(here, {f"dense/{NAMES[name]}": value for name, value in there.items()})
    assert_all_equal(*gradients(training, sum(here.values()), sum(there.values())))
    for name, value in training.there.backbone.state_dict().items():
        if "running" in name:
            assert_equal(training.here.backbone.network.state_dict()[name], value, name)


@pytest.mark.parametrize("scene", ["one without objects", "none with objects"])
def test_loss_terms_are_the_same_but_for_semantic_maps_without_objects(training: Both, scene: str) -> None:
    batch = make_scene(scene)
    inputs = prepare(training.there, batch)
    with torch.no_grad():
        here = evaluate(training, batch)
        there = {f"dense/{NAMES[name]}": value for name, value in total(training.there.loss(*inputs)).items()}
        maps = training.here(batch)[0].auxiliary["semantic"].predicted
    # There an image without objects has no loss; here, and in the paper, all of it is background.
    empty = torch.tensor([not len(target.labels) for target in batch.targets])
    background = nn.functional.softplus(maps[empty]).mean(dim=(2, 3)).sum() / len(maps)
    assert background > 0
    there["dense/semantic"] += background
    assert_all_equal(here, there)


def test_detections_and_their_masks_are_the_same(both: Both, batch: Batch) -> None:
    share_weights(both)
    both.here.eval()
    both.there.eval()
    found = both.here.detect(batch.images)
    inputs = prepare(both.there, batch, training=False)
    with torch.no_grad():
        expected = both.there.predict(inputs.pixels, inputs.samples, rescale=False)
    for own, sample in zip(found, expected, strict=True):
        other = sample.pred_instances
        places = assert_same_detections(own, other.bboxes, other.scores, other.labels)
        masks = own.masks.bitmaps((HEIGHT, WIDTH))[places]
        assert len(own.scores) >= 20
        assert float((masks != other.masks).float().mean()) < 1e-5
        assert int(masks.sum()) > 1000
