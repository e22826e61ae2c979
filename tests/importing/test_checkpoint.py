"""Which recipe a file becomes, what the recipe takes over from it, its categories; and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from rankdet.importing import Imported, import_checkpoint
from rankdet.importing.categories import COCO
from rankdet.importing.checkpoint import understood
from rankdet.importing.reading import ForeignCheckpoint
from rankdet.recipes import RECIPES, dump, load_recipe
from rankdet.runs.checkpoint import FOR_DETECTION, load_checkpoint
from rankdet.structures import InputError

from . import foreign
from .foreign import R18, R50

NAMES = [name for _, name in COCO]
BACKBONE = foreign.resnet18()
RESNET_34 = foreign.resnet("backbone", (3, 4, 6, 3), False)
RESNET_101 = foreign.resnet("backbone", (3, 4, 23, 3), True)
CONFIG = """
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='{kind}',
    backbone=dict(type='ResNet', depth=50, norm_cfg=norm_cfg, style='{style}'),
    rpn_head=dict(
        anchor_generator=dict(type='AnchorGenerator', scales=[{scale}], ratios=[0.5, 1.0, 2.0]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[{mean}, .0, .0, .0], target_stds=[{stds}])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
        bbox_head=dict(bbox_coder=dict(target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2]))),
    bbox_head=dict(
        anchor_generator=dict(octave_base_scale={base}, scales_per_octave={octaves}, ratios=[1.0]),
        bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2])))
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 2.0, 3.0], to_rgb={rgb})
"""
DEFAULTS: dict[str, Any] = {
    "kind": "FasterRCNN", "style": "pytorch", "scale": 8, "mean": 0, "stds": "1, 1, 1, 1", "rgb": True,
    "base": 4, "octaves": 3,
}  # fmt: skip


def config(**changes: Any) -> str:
    return CONFIG.format(**DEFAULTS | changes)


def checkpoint(shapes: foreign.Shapes, **meta: Any) -> ForeignCheckpoint:
    return ForeignCheckpoint(Path("theirs.pth"), foreign.numbered(shapes), meta)


def imported(shapes: foreign.Shapes, *arguments: Any, **meta: Any) -> tuple[Imported, dict[str, Any]]:
    return understood(checkpoint(BACKBONE | shapes, **meta), *arguments)


@pytest.mark.parametrize(
    ("shapes", "text", "name"),
    [
        (foreign.faster_rcnn(True, R18), None, "rs_faster_rcnn_r50_coco"),
        (foreign.mask_rcnn(False, R18), None, "mask_rcnn_r50_coco"),
        (foreign.dense(3, False, R18), config(kind="ATSS"), "rs_atss_r50_coco"),
        (foreign.dense(1, True, R18), config(kind="PAA", base=8, octaves=1), "paa_r50_coco"),
        (foreign.older_of(foreign.faster_rcnn(False, R18)), None, "faster_rcnn_r50_coco"),
    ],
)
def test_recipe_is_found_by_the_tensors(shapes: foreign.Shapes, text: str | None, name: str):
    made, state = imported(shapes, config=text)
    assert made.recipe.name == name
    assert state["categories"] == [list(category) for category in COCO]
    assert state["thresholds"] is None
    backbone = made.recipe.detector.backbone
    assert backbone.name == "resnet18.tv_in1k"
    changed = {field for field, _, _ in made.changes}
    assert {"detector.backbone.name", "detector.backbone.weights.name"} <= changed


def test_atss_or_paa_is_asked_for_where_the_file_does_not_say():
    shapes = foreign.dense(3, False, R18)
    with pytest.raises(InputError, match=r"atss and paa .*give --recipe rs_atss_r50_coco or --recipe rs_paa_r50_coco"):
        imported(shapes)
    assert imported(shapes, "rs_paa_r50_coco")[0].recipe.name == "rs_paa_r50_coco"


def test_configuration_says_how_boxes_are_coded_and_pixels_ordered():
    made, _ = imported(
        foreign.faster_rcnn(False, R18),
        None,
        None,
        mmdet_version="2.8.0",
        config=config(rgb=False, scale=4, stds="0.1, 0.1, 0.2, 0.2") + "# RankBasedRPNHead",
    )
    assert made.origin == "mmdetection 2.8.0, the authors' fork for Rank & Sort Loss"
    assert made.notes == []
    changes = {field: theirs for field, _, theirs in made.changes if "backbone" not in field or "name" not in field}
    assert changes == {
        "detector.backbone.std": [3.0, 2.0, 1.0],  # from blue, green, red to red, green, blue; so is the mean
        "detector.rpn.delta_stds": [0.1, 0.1, 0.2, 0.2],
        "detector.rpn.anchor_scale": 4.0,
    }
    stem = torch.rand(64, 3, 7, 7)
    file = checkpoint(BACKBONE | foreign.faster_rcnn(False, R18), config=config(rgb=False))
    file.tensors["backbone.conv1.weight"] = stem
    assert torch.equal(understood(file)[1]["detector"]["backbone.network.conv1.weight"], stem.flip(1))
    assert "rpn.delta_stds = [0.1, 0.1, 0.2, 0.2] (the recipe has [1.0, 1.0, 1.0, 1.0])" in "\n".join(made.describe())


@pytest.mark.parametrize(
    ("shapes", "text", "name"),
    [
        (foreign.deformable(RESNET_101) | foreign.mask_rcnn(True) | foreign.carafe_pyramid(R50, 256), None,
         "rs_mask_rcnn_plus_r101_dcn_3x_coco"),
        (RESNET_34 | foreign.solov2(True, R18, width=256, layers=2, kernel=128), None, "rs_solov2_light_r34_coco"),
        (RESNET_34 | foreign.solov2(True, R18, width=256, layers=2, kernel=128), config(kind="SOLOv2"),
         "solov2_light_r34_coco"),
        (foreign.resnet50() | foreign.mask_rcnn(True, classes=1203), None, "rs_mask_rcnn_r50_lvis"),
    ],
)  # fmt: skip
def test_recipe_is_the_one_of_which_the_file_changes_least(shapes: foreign.Shapes, text: str | None, name: str):
    names = [f"class {number}" for number in range(1203)] if "lvis" in name else NAMES
    made, _ = understood(checkpoint(shapes, config=text, CLASSES=names))
    assert made.recipe.name == name
    assert not [field for field, _, _ in made.changes if not field.startswith("detector.backbone.") or "name" in field]


def test_newer_configuration_is_read_too():
    text = "model = dict(data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True))"
    made, _ = imported(foreign.faster_rcnn(False, R18), cfg=text, dataset_meta={"classes": tuple(NAMES)})
    changes = {field: theirs for field, _, theirs in made.changes}
    assert changes["detector.backbone.mean"] == [1.0, 2.0, 3.0]
    assert made.categories[1] == "the 80 of COCO, by their names"


def test_what_is_assumed_without_a_configuration_is_said():
    made, _ = imported(foreign.faster_rcnn(False, R18))
    text = "\n".join(made.describe())
    assert "note: the file holds no configuration: pixels are taken to be RGB" in text
    assert "the 80 of COCO, by their number: the file names none" in text


def test_networks_that_no_recipe_has_are_refused():
    shapes = foreign.faster_rcnn(False, R18)
    with pytest.raises(InputError, match="caffe style"):
        imported(shapes, config=config(style="caffe"))
    with pytest.raises(InputError, match=r"rpn_head codes boxes with means \[0.5, 0.0, 0.0, 0.0\]"):
        imported(shapes, config=config(mean=0.5))
    neck = "model = dict(neck=dict(add_extra_convs='on_lateral'))"
    with pytest.raises(InputError, match=r"neck\.add_extra_convs = on_lateral\) makes coarser levels of laterals"):
        imported(foreign.dense(3, False, R18), "rs_atss_r50_coco", config=neck)
    with pytest.raises(InputError, match=r"faster_rcnn of mmdetection .*1 left over: roi_head.bbox_head.extra"):
        imported(shapes | {"roi_head.bbox_head.extra": (1,)})


def test_weight_that_is_not_finite_is_refused():
    file = checkpoint(BACKBONE | foreign.faster_rcnn(False, R18))
    file.tensors["rpn_head.rpn_cls.bias"] = torch.full((3,), torch.nan)
    with pytest.raises(InputError, match=r"weight rpn\.head\.classifier\.bias is not finite"):
        understood(file)


def rows(state: dict[str, Any], name: str) -> Tensor:
    return state["detector"][name]


def test_labels_follow_the_categories_of_the_data_folder():
    shapes = foreign.mask_rcnn(False, R18, classes=3, channels=256)
    file = checkpoint(BACKBONE | shapes, CLASSES=("dog", "house_Cat", "bird"))
    file.tensors["roi_head.bbox_head.fc_cls.bias"] = torch.tensor([1.0, 2, 3, 9])
    file.tensors["roi_head.bbox_head.fc_reg.bias"] = torch.arange(12.0)
    file.tensors["roi_head.mask_head.conv_logits.bias"] = torch.tensor([1.0, 2, 3])
    made, state = understood(file, None, [(4, "bird"), (7, "house cat"), (8, "dog")])
    assert made.categories == (
        [(4, "bird"), (7, "house cat"), (8, "dog")], "of the data folder, found by their names, in another order"
    )  # fmt: skip
    assert rows(state, "rcnn.head.classifier.bias").tolist() == [3, 2, 1, 9]
    assert rows(state, "rcnn.head.regressor.bias").tolist() == [8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3]
    assert rows(state, "mask.head.classifier.bias").tolist() == [3, 2, 1]
    with pytest.raises(InputError, match="1 only in the file: dog; 1 only in the data folder: cow"):
        understood(file, None, [(4, "bird"), (7, "house cat"), (8, "cow")])
    with pytest.raises(InputError, match="the file has 3 classes, and the data folder 2"):
        understood(file, None, [(4, "bird"), (7, "cat")])


def test_labels_of_every_anchor_follow_the_data_folder():
    file = checkpoint(
        BACKBONE | foreign.dense(3, False, R18, classes=2), CLASSES=["b", "a"], config=config(kind="ATSS")
    )
    file.tensors["bbox_head.atss_cls.bias"] = torch.arange(6.0)
    _, state = understood(file, None, [(1, "a"), (2, "b")])
    assert rows(state, "dense.head.classifier.bias").tolist() == [1, 0, 3, 2, 5, 4]


def test_classes_without_names_need_a_data_folder():
    shapes = foreign.faster_rcnn(False, R18, classes=3)
    with pytest.raises(InputError, match="does not name its 3 classes: name a folder in COCO format with --data"):
        imported(shapes)
    made, _ = imported(shapes, None, [(1, "a"), (2, "b"), (3, "c")])
    assert made.categories[1] == "of the data folder, in the order of their ids: the file names none"
    made, _ = imported(shapes, CLASSES=["x", "y", "z"])
    assert made.categories[0] == [(1, "x"), (2, "y"), (3, "z")]


def test_import_writes_an_ordinary_checkpoint_or_nothing(tmp_path: Path):
    recipe = tmp_path / "small.yaml"
    changes = {
        "base": "faster_rcnn_r50_coco",
        "name": "small",
        "detector": {
            "backbone": {"name": "resnet18.tv_in1k", "weights": None},
            "pyramid_channels": 16,
            "rcnn": {"channels": 8},
        },
    }
    recipe.write_text(yaml.safe_dump(changes))
    shapes = foreign.resnet18("backbone.body", counted=False)
    shapes |= foreign.torchvision_mask_rcnn(True, R18, channels=16, width=8)
    shapes = {name: shape for name, shape in shapes.items() if "mask" not in name}
    file, out = tmp_path / "theirs.pth", tmp_path / "ours.pt"
    torch.save(foreign.numbered(shapes), file)
    made = import_checkpoint(file, out, str(recipe))
    state = load_checkpoint(out, FOR_DETECTION)
    assert state["recipe"]["detector"]["rcnn"]["half_pixel_shift"] is False
    assert load_recipe(write(tmp_path / "resolved.yaml", dump(made.recipe))).name == "small"
    assert state["imported"]["origin"] == "torchvision"
    torch.save(foreign.numbered(dict(list(shapes.items())[:-1])), file)
    with pytest.raises(InputError, match=r"theirs\.pth: .*1 missing: roi_heads.box_predictor.bbox_pred.bias"):
        import_checkpoint(file, tmp_path / "other.pt", str(recipe))
    assert not (tmp_path / "other.pt").exists()
    with pytest.raises(InputError, match="is the file to be imported"):
        import_checkpoint(file, file, str(recipe))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_layout_names_recipes_of_its_family():
    from rankdet.importing.origins import ORIGINS

    for origin in ORIGINS:
        for layout in origin.layouts:
            assert {RECIPES[name]().detector.type for name in layout.recipes} == {layout.family}
