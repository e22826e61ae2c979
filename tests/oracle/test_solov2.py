"""Standard SOLOv2 is that of mmdetection 3.3.0.

Legend: M cells of an image, C classes, P' masks.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from rankdet.label_assignment import GridAssigner
from rankdet.recipes import RECIPES
from rankdet.structures import Batch

from .comparing import assert_all_equal, assert_equal, assert_same_rows
from .mmdetection import (
    Both,
    Inputs,
    build_here,
    build_there,
    evaluate,
    gradients,
    prepare,
    randomize,
    share_weights,
    total,
)
from .scenes import NUM_CLASSES, SCENES, WITH_OBJECTS, make_scene

pytestmark = pytest.mark.filterwarnings("ignore")
BACKBONE = "resnet18.tv_in1k"
RECIPE = "solov2_light_r34_coco"


@pytest.fixture(scope="module")
def both() -> Both:
    changes = {
        "neck.out_channels": 64,
        "mask_head.in_channels": 64,
        "mask_head.feat_channels": 64,
        "mask_head.num_classes": NUM_CLASSES,
        "mask_head.mask_feature_head.feat_channels": 32,
        "mask_head.mask_feature_head.out_channels": 32,
    }
    there = build_there("solov2/solov2-light_r34_fpn_ms-3x_coco.py", BACKBONE, changes)
    outputs = {"mask_head.conv_cls": (-3.0, 1.5), "mask_head.conv_kernel": (-0.1, 0.4)}
    randomize(there, prepare(there, make_scene("different sizes")), outputs)
    detector = RECIPES[RECIPE]().detector
    here = {
        "pyramid_channels": 64,
        "grids": detector.grids.model_copy(update={"channels": 64}),
        "mask_features": detector.mask_features.model_copy(update={"channels": 32, "out_channels": 32}),
    }
    both = build_here(RECIPE, BACKBONE, NUM_CLASSES, here)._replace(there=there)
    share_weights(both)
    return both


@pytest.fixture(params=SCENES)
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


def by_cell(levels: list[Tensor]) -> Tensor:
    """(B, M, channels) of maps (B, channels, S, S)."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def test_pixels_pyramid_and_outputs_are_the_same(both: Both, batch: Batch) -> None:
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        here, there = both.here.fpn(both.here.backbone(batch.images)), both.there.extract_feat(inputs.pixels)
        outputs = both.here.grid(here)
        kernels, logits, features = both.there.mask_head(there)
    assert_equal(both.here.backbone.normalization(batch.images), inputs.pixels, "normalized pixels")
    for level, (own, other) in enumerate(zip(here, there, strict=True)):
        assert_equal(own, other, f"level {level} of the pyramid")
    assert_equal(outputs.logits, by_cell(logits), "class logits")
    assert_equal(outputs.kernels, by_cell(kernels), "kernels")
    assert_equal(outputs.features, features, "features of masks")


def targets_there(there: nn.Module, inputs: Inputs, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(B · M,) labels; of each mask that is learned, (P',) its cell and (P', h, w) its pixels."""
    labels, cells, masks = [], [], []
    num_cells = sum(side * side for side in there.mask_head.num_grids)
    for image, objects in enumerate(inputs.objects):
        found = there.mask_head._get_targets_single(objects, featmap_sizes=size)
        labels.append(torch.cat([level.flatten() for level in found[1]]))
        start = image * num_cells
        for side, own_masks, own_cells in zip(there.mask_head.num_grids, found[0], found[3], strict=True):
            masks.append(own_masks)
            cells.append(torch.tensor(own_cells, dtype=torch.int64) + start)
            start += side * side
    return torch.cat(labels), torch.cat(cells), torch.cat(masks)


def in_order(cells: Tensor, masks: Tensor) -> Tensor:
    """Rows that sort pairs of cell and mask, as one cell may learn several masks."""
    weights = torch.rand(masks[0].numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (cells + masks.flatten(1).double() @ weights / (2 * weights.sum())).argsort()


@pytest.mark.parametrize("ranges", ["light", "full"])
@pytest.mark.parametrize("scene", [*SCENES, "crowded"])
def test_labels_masks_and_their_targets_are_the_same(
    both: Both, scene: str, ranges: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_scene(scene)
    if ranges == "full":
        full = RECIPES["solov2_r101_coco"]().detector.grids
        assigner = GridAssigner(full.sizes, full.scale_ranges, full.center_size, full.one_mask_per_cell)
        monkeypatch.setattr(both.here.grid, "assigner", assigner)
        monkeypatch.setattr(both.there.mask_head, "scale_ranges", full.scale_ranges)
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        (candidates,) = both.here(batch)
        kernels, _, features = both.there.mask_head(both.there.extract_feat(inputs.pixels))
    labels, cells, masks = targets_there(both.there, inputs, features.shape[-2:])
    assert torch.equal(candidates.labels, labels)
    rows = candidates.masks.rows
    if scene == "crowded":  # cells that learn several masks
        assert len(cells) > int((labels < NUM_CLASSES).sum())
    own_cells = torch.nonzero(candidates.labels < NUM_CLASSES).squeeze(1)
    own_cells = own_cells if rows is None else own_cells[rows]
    assert torch.equal(own_cells.sort().values, cells.sort().values)
    if not len(cells):
        return
    own, other = in_order(own_cells, candidates.masks.target), in_order(cells, masks)
    assert torch.equal(candidates.masks.target[own], masks[other].bool())
    flat = by_cell(kernels)
    expected = torch.stack(
        [
            conv2d(features[cell // flat.shape[1]], flat.flatten(0, 1)[cell][None, :, None, None])[0]
            for cell in cells[other].tolist()
        ]
    )
    assert_equal(candidates.masks.predicted[own], expected, "mask logits")


@pytest.mark.parametrize("scene", [*WITH_OBJECTS, "crowded", "one without objects"])
def test_loss_terms_and_their_gradients_are_the_same(both: Both, scene: str) -> None:
    batch = make_scene(scene)
    inputs = prepare(both.there, batch)
    here, there = evaluate(both, batch), total(both.there.loss(inputs.pixels, inputs.samples))
    size = inputs.pixels.shape[-2] // 4, inputs.pixels.shape[-1] // 4
    labels, cells, _ = targets_there(both.there, inputs, size)
    # The mean over the masks in 2.x and here; 3.x divides their sum by the number of cells.
    there["loss_mask"] = there["loss_mask"] * int((labels < NUM_CLASSES).sum()) / len(cells)
    names = {"loss_cls": "classification", "loss_mask": "mask"}
    assert_all_equal(here, {f"grid/{names[name]}": value for name, value in there.items()})
    assert_all_equal(*gradients(both, sum(here.values()), sum(there.values())))


def test_detections_are_the_same(both: Both, batch: Batch) -> None:
    found = both.here.detect(batch.images)
    inputs = prepare(both.there, batch, training=False)
    with torch.no_grad():
        expected = both.there.predict(inputs.pixels, inputs.samples, rescale=False)
    for own, sample, size in zip(found, expected, batch.images.sizes, strict=True):
        other = sample.pred_instances
        # Here a mask that lies in the padding is no detection.
        other = other[other.masks.flatten(1).any(dim=1)]
        masks = own.masks.bitmaps(size)
        here = torch.stack([own.scores * 100, own.labels * 1e6, masks.flatten(1).sum(dim=1) / 100], dim=1)
        there = torch.stack([other.scores * 100, other.labels * 1e6, other.masks.flatten(1).sum(dim=1) / 100], dim=1)
        places = assert_same_rows(here, there, "detections", tolerance=0.1)
        assert float((masks[places] != other.masks).float().mean()) < 1e-5
        assert len(own.scores) >= 10
