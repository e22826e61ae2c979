"""Backbones have the same maps and freeze the same weights as those of mmdetection 3.3.0."""

from __future__ import annotations

import pytest
import torch

from rankdet.data import KeepRatio
from rankdet.recipes import RECIPES

from .comparing import assert_equal
from .mmdetection import build_here, build_there, mmcv, prepare, randomize, share_weights
from .scenes import draw_batch

pytestmark = pytest.mark.filterwarnings("ignore")
X101 = "faster_rcnn/faster-rcnn_x101-64x4d_fpn_1x_coco.py"
R50 = "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("resnet34.tv_in1k", R50),
        ("resnet50.tv_in1k", R50),
        ("resnet101.tv_in1k", R50),
        ("resnext101_64x4d.tv_in1k", X101),
    ],
)
def test_maps_and_trained_weights_are_the_same(name: str, config: str) -> None:
    batch = draw_batch([(64, 90)], [2], seed=0)
    thin = {
        "neck.out_channels": 16,
        "rpn_head.in_channels": 16,
        "rpn_head.feat_channels": 16,
        "roi_head.bbox_head.in_channels": 16,
        "roi_head.bbox_head.fc_out_channels": 16,
    }
    there = build_there(config, name, thin)
    inputs = prepare(there, batch)
    randomize(there, inputs, {})
    rcnn = RECIPES["faster_rcnn_r50_coco"]().detector.rcnn.model_copy(update={"channels": 16})
    both = build_here("faster_rcnn_r50_coco", name, 80, {"pyramid_channels": 16, "rcnn": rcnn}, folded=True)
    both = both._replace(there=there)
    share_weights(both)
    # The two round differently, and some of these channels hardly vary: their normalization enlarges what is rounded.
    both.here.double()
    there.double()
    with torch.no_grad():
        here = both.here.backbone(batch.images)
        expected = there.backbone(prepare(there, batch).pixels)
    for level, (own, other) in enumerate(zip(here, expected, strict=True)):
        assert_equal(own, other, f"map {level}")
    trained = {parameter: weight.requires_grad for parameter, weight in there.backbone.named_parameters()}
    assert trained == {n: weight.requires_grad for n, weight in both.here.backbone.network.named_parameters()}
    assert not all(trained.values())
    there.train()
    both.here.train()
    modes = {module: part.training for module, part in there.backbone.named_modules() if "bn" in module}
    assert modes == {n: part.training for n, part in both.here.backbone.network.named_modules() if "bn" in n}


@pytest.mark.parametrize(("long", "short"), [(1333, 800), (768, 448), (333, 640)])
def test_images_of_all_sizes_are_resized_to_the_same_size(long: int, short: int) -> None:
    for height in range(33, 1500, 37):
        for width in range(40, 1500, 41):
            own = KeepRatio(max(long, short), (min(long, short),)).size((height, width))
            assert own == mmcv.rescale_size((width, height), (long, short))[::-1]
