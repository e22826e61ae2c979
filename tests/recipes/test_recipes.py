"""Recipes: names, files, overrides, mistakes, numbers."""

import importlib
import inspect
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from pydantic import BaseModel

from rankdet.backbones import CarafeFPN, DeformableConv2d
from rankdet.data import Expansion, MinIoUCrop, PhotometricDistortion
from rankdet.recipes import RECIPES, Recipe, dump, load_recipe
from rankdet.recipes.library.cascade_rcnn import cascade_form
from rankdet.recipes.library.mask_rcnn import mask_form
from rankdet.recipes.library.plus import with_carafe
from rankdet.recipes.library.ranking import ranking_form
from rankdet.recipes.library.solov2 import rank_sort_form
from rankdet.recipes.library.yolact import ranking_yolact
from rankdet.recipes.schema.config import Config
from rankdet.recipes.schema.data import KeepRatio
from rankdet.recipes.schema.detectors import HubWeights
from rankdet.recipes.schema.losses import PositiveCount, RankSortLoss
from rankdet.recipes.schema.optimization import SGD, AdamW, CosineSchedule, StepSchedule
from rankdet.recipes.schema.part import Part
from rankdet.reproduce.tables import table_rows
from rankdet.structures import Batch, Images, InputError, Source, Target

EMPTY_BATCH = Batch(
    Images(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ((64, 64),)),
    (Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),),
    (Source(0, "0.png", (64, 64)),),
)


def test_command_line_and_recipes_start_without_torch():
    code = "import sys, rankdet.cli, rankdet.recipes; print([m for m in sys.modules if m in ('torch', 'torchvision')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", RECIPES)
def test_resolved_recipe_alone_is_the_same_recipe(name: str, tmp_path: Path):
    recipe = RECIPES[name]()
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe))
    assert recipe.name == name
    assert load_recipe(path) == recipe
    assert load_recipe(name) == recipe


def models(parent: type[BaseModel] = Config) -> list[type[BaseModel]]:
    # Only those of the package: the pages of the documentation, which are run as tests too, define their own, and
    # other tests name parts by import path.
    package = [child for child in parent.__subclasses__() if child.__module__.startswith("rankdet.")]
    own = [child for child in package if ":" not in str(child.model_fields.get("type", ""))]
    return [model for child in own for model in (child, *models(child))]


def described(model: type[BaseModel]) -> set[str]:
    """The names in the sections "Parameters" of a part, of its methods and of its bases."""
    module, _, name = getattr(model, "target", "").partition(":")
    if not module.startswith("rankdet."):
        return set()
    part = getattr(importlib.import_module(module), name)
    members = [value for each in part.__mro__ for value in (each, *vars(each).values()) if hasattr(value, "__doc__")]
    sections = [(inspect.getdoc(each) or "").partition("Parameters\n----------\n")[2] for each in members]
    lines = re.findall(r"^([a-z]\w*(?:, \w+)*)\n    \S", "\n".join(sections), re.MULTILINE)
    return {name for line in lines for name in line.split(", ")}


def test_every_field_says_what_it_is():
    missing = [
        f"{model.__name__}.{name}"
        for model in models()
        for name, field in model.model_fields.items()
        if name != "type" and not field.description and name not in described(model)
    ]
    assert models()
    assert missing == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_is(name: str):
    assert RECIPES[name].__doc__.splitlines()[0].endswith(".")


def test_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        RECIPES["rs_faster_rcnn_shapes"]().seed = 3


def test_file_changes_fields_of_its_base_and_overrides_come_last(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "first.yaml").write_text(
        "base: rs_faster_rcnn_shapes\nseed: 5\noptimizer: {lr: 1e-4}\nschedule: {warmup_iterations: 3}\n"
    )
    (tmp_path / "second.yaml").write_text("base: folder/first.yaml\nname: mine\nseed: 6\n")
    recipe = load_recipe(
        tmp_path / "second.yaml",
        ["schedule.warmup_iterations=4", "detector.rpn.sampler.num=7", "detector.rpn.sampler.positive_fraction=0.5"],
    )
    base = load_recipe("rs_faster_rcnn_shapes")
    assert (recipe.name, recipe.seed, recipe.schedule.warmup_iterations) == ("mine", 6, 4)
    assert recipe.optimizer == base.optimizer.model_copy(update={"lr": 1e-4})
    assert recipe.detector.rpn.sampler.num == 7
    assert recipe.detector.rcnn == base.detector.rcnn


def test_another_type_replaces_a_part_whatever_the_order_of_overrides():
    recipe = load_recipe("rs_faster_rcnn_shapes", ["optimizer.lr=0.5", "optimizer.type=sgd"])
    assert recipe.optimizer == SGD(lr=0.5)


def test_circle_of_bases_is_reported(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(InputError, match=r"circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        load_recipe(tmp_path / "a.yaml")


def test_all_mistakes_are_reported_at_once_with_their_paths():
    overrides = [
        "optimzer.lr=3",
        "seed=x",
        "detector.backbone.chanels=[8]",
        "losses.rpn.delt=1",
        "detector.rcnn.sampler.positive_fraction=2",
        "data.resize={type: fixed, height: 0, width: 3}",
    ]
    with pytest.raises(InputError) as caught:
        load_recipe("rs_faster_rcnn_shapes", overrides)
    message = str(caught.value)
    for part in (
        "optimzer: unknown field; did you mean 'optimizer'?",
        "seed: input should be a valid integer",
        "detector.backbone.chanels: unknown field; did you mean 'channels'?",
        "losses.rpn.delt: unknown field; did you mean 'delta'?",
        "detector.rcnn.sampler.num: missing",
        "detector.rcnn.sampler.positive_fraction: must be at most 1, got 2",
        "data.resize.height: must be at least 1, got 0",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: [1]\n", "base must be the name"),
        ("- 1\n", "a recipe is a mapping"),
        ("a: [\n", "is no YAML"),
        ("base: faster_rcnn_shape\n", "did you mean 'faster_rcnn_shapes'"),
        ("base: other.yaml\n", "cannot read recipe .*other.yaml: No such file"),
        ("base: rs_faster_rcnn_shapes\nlosses: {rpn: {type: vocal}}\n", "losses.rpn: .*'vocal'"),
        ("base: rs_faster_rcnn_shapes\ndetector: {rcnn: {softmax: true}}\n", "does not fit"),
        ("base: rs_faster_rcnn_shapes\nschedule: {epochs: 3}\n", "exactly one of epochs and iterations"),
    ],
)
def test_broken_file_is_named_with_its_mistake(text: str, message: str, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_recipe(path)


TIMM = "detector.backbone={type: timm, name: resnet18, weights: null, "


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (TIMM + "out_indices: [2, 1]}", "detector.backbone.out_indices: must ascend, each value only once"),
        (TIMM + "out_indices: [1, 1]}", "detector.backbone.out_indices: must ascend, each value only once"),
        (TIMM + "out_indices: []}", "detector.backbone.out_indices: .*at least one entry"),
        ("detector.backbone.channels=[12]", "detector.backbone.channels.0: must be a multiple of 8"),
        ("detector.backbone.channels=[]", "detector.backbone.channels: .*at least one entry"),
        ("detector.rpn.anchor_ratios=[]", "detector.rpn.anchor_ratios: .*at least one entry"),
        ("data.resize={type: keep_ratio, long: 9, shorts: []}", "data.resize.shorts: .*at least one entry"),
        ("detector.rcnn={softmax: true, prior: 0.01}", r"detector.rcnn: prior = 0\.01 is that of a sigmoid"),
        ("detector.rpn.prior=1", "detector.rpn.prior: must be less than 1"),
        ("detector.rpn.positive_iou=0.2", r"detector.rpn: positive_iou = 0\.2 is below negative_iou = 0\.3"),
        ("losses.rpn={type: softmax_cross_entropy, box_loss: {type: l1}}", r"detector\.rpn, which .* sigmoid"),
    ],
)
def test_value_that_no_detector_can_have_is_a_mistake_of_the_recipe(override: str, message: str):
    with pytest.raises(InputError, match=message):
        load_recipe("rs_faster_rcnn_shapes", [override])


@pytest.mark.parametrize("change", ["name: resnet18.nonsense", "name: resnet18, options: {bogus: 1}"])
def test_value_that_only_timm_knows_to_be_wrong_is_a_mistake_of_the_user(change: str):
    recipe = load_recipe("rs_faster_rcnn_shapes", [f"detector.backbone={{type: timm, {change}, weights: null}}"])
    with pytest.raises(InputError, match=r"nonsense|bogus"):
        recipe.detector.build(5)


def test_swin_takes_images_of_any_size_by_an_option():
    swin = "type: timm, name: swin_tiny_patch4_window7_224, weights: null, out_indices: [0, 1], frozen_stages: 0"
    recipe = load_recipe(
        "rs_faster_rcnn_shapes", [f"detector.backbone={{{swin}, options: {{strict_img_size: false}}}}"]
    )
    backbone = recipe.detector.backbone.build(pretrained=False)
    assert recipe.detector.backbone.options == {"strict_img_size": False}
    assert len(backbone(Images(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), ((64, 96),)))) == 2


def test_detection_takes_its_own_short_side_or_the_last_of_training():
    several = KeepRatio(long=1333, shorts=(640, 800))
    assert several.build().shorts == (640, 800)
    assert several.build().for_detection().shorts == (800,)
    assert several.model_copy(update={"test_short": 700}).build().for_detection().shorts == (700,)


@pytest.mark.parametrize("override", ["lr", "=3", "a..b=1", "a=[1"])
def test_override_that_is_none_is_reported(override: str):
    with pytest.raises(InputError, match=r"override|no YAML"):
        load_recipe("rs_faster_rcnn_shapes", [override])


def test_step_schedule_warms_up_and_falls_at_milestones():
    schedule = StepSchedule(epochs=12, milestones=(8 / 12, 11 / 12), warmup_iterations=500, warmup_factor=0.001)
    length = 12 * 7330
    values = {0: 0.001, 250: 0.5005, 500: 1.0, 8 * 7330 - 1: 1.0, 8 * 7330: 0.1, 11 * 7330 - 1: 0.1, 11 * 7330: 0.01}
    for iteration, value in values.items():
        assert schedule.factor(iteration, length) == pytest.approx(value, rel=1e-12)


def test_cosine_schedule_is_half_a_cosine_after_warm_up():
    schedule = CosineSchedule(iterations=10_000, warmup_iterations=500, warmup_factor=0.1)
    assert schedule.factor(0, 10_000) == pytest.approx(0.1)
    assert schedule.factor(2500, 10_000) == pytest.approx(0.5 + 0.5 * 0.5**0.5)
    assert schedule.factor(5000, 10_000) == pytest.approx(0.5)
    assert schedule.factor(10_000, 10_000) == pytest.approx(0.0)


def test_recipes_on_coco_have_the_numbers_of_the_paper():
    rank_sort, standard = load_recipe("rs_faster_rcnn_r50_coco"), load_recipe("faster_rcnn_r50_coco")
    assert (rank_sort.optimizer.lr, standard.optimizer.lr) == (0.012, 0.02)
    assert rank_sort.optimizer == SGD(lr=0.012, reference_batch=16, momentum=0.9, weight_decay=1e-4)
    assert rank_sort.head_weights == {"rpn": 0.2}
    assert standard.head_weights == {}
    assert rank_sort.detector.rpn.sampler is rank_sort.detector.rcnn.sampler is None
    assert (standard.detector.rpn.sampler.num, standard.detector.rcnn.sampler.num) == (256, 512)
    assert rank_sort.detector.rpn.delta_stds == rank_sort.detector.rcnn.delta_stds == (0.1, 0.1, 0.2, 0.2)
    assert standard.detector.rpn.delta_stds == (1, 1, 1, 1)
    assert standard.detector.backbone.mean == tuple(pytest.approx(255 * value) for value in (0.485, 0.456, 0.406))
    assert standard.detector.backbone.std == tuple(pytest.approx(255 * value) for value in (0.229, 0.224, 0.225))
    assert (rank_sort.detector.rcnn.softmax, standard.detector.rcnn.softmax) == (False, True)
    proposals = rank_sort.detector.rpn.train_proposals
    assert (proposals.per_level, proposals.per_image, proposals.nms_iou) == (2000, 1000, 0.7)
    assert standard.losses["rpn"].box_loss.beta == pytest.approx(1 / 9)
    assert standard.losses["rcnn"].box_loss.beta == 1
    assert load_recipe("faster_rcnn_giou_r50_coco").losses["rcnn"].box_loss.weight == 10


def test_key_that_stands_twice_is_named_with_its_line(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("base: faster_rcnn_shapes\noptimizer:\n  lr: 1\n  lr: 2\n")
    with pytest.raises(InputError, match=r"a\.yaml .*'lr' stands twice .*line 4"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize("override", [f"seed={2**63}", "seed=-1", "name=a/b", "name=", "name=.."])
def test_seeds_and_names_that_cannot_be_used_are_refused(override: str):
    with pytest.raises(InputError, match=override.partition("=")[0]):
        load_recipe("faster_rcnn_shapes", [override])


def test_fields_that_do_not_fit_together_are_reported_without_the_whole_recipe():
    with pytest.raises(InputError) as caught:
        load_recipe("rs_faster_rcnn_shapes", ["detector.rcnn.softmax=true"])
    assert "got {" not in str(caught.value)


def test_small_recipes_give_both_forms_the_same_budget():
    for name in (
        "faster_rcnn_shapes",
        "faster_rcnn_lite0_bccd",
        "atss_lite0_bccd",
        "faster_rcnn_lite0",
        "mask_rcnn_lite0",
        "mask_rcnn_shapes",
        "mask_rcnn_lite0_nuclei",
        "mask_rcnn_long_tail_shapes",
        "cascade_rcnn_shapes",
        "solov2_shapes",
        "solov2_lite0_nuclei",
        "detr_shapes",
        "detr_lite0_bccd",
    ):
        standard, rank_sort = load_recipe(name), load_recipe(f"rs_{name}")
        for part in ("seed", "data", "optimizer", "schedule", "evaluation", "runtime"):
            assert getattr(standard, part) == getattr(rank_sort, part)
        assert standard.detector.backbone == rank_sort.detector.backbone
        assert isinstance(standard.optimizer, AdamW)


def test_equalization_changes_the_classification_of_the_second_stage_alone():
    standard, equalized = load_recipe("faster_rcnn_long_tail_shapes"), load_recipe("eql_faster_rcnn_long_tail_shapes")
    stage = {"detector.rcnn": {"softmax": False, "prior": 0.01}, "name": equalized.name}
    assert standard.changed(stage, losses=equalized.losses) == equalized
    assert equalized.losses["rpn"] == standard.losses["rpn"]
    for part in ("box_loss", "mask_loss"):
        assert getattr(equalized.losses["rcnn"], part) == getattr(standard.losses["rcnn"], part)


def test_detector_of_the_coco_recipe_has_its_levels_and_heads():
    recipe: Recipe = load_recipe("rs_faster_rcnn_r50_coco")
    detector = recipe.detector.build(80, pretrained=False)
    assert detector.rpn.anchors.strides == (4, 8, 16, 32, 64)
    assert detector.rcnn.pooling.strides == (4, 8, 16, 32)
    assert detector.rcnn.head.classifier.out_features == 80
    assert detector.rpn.sampler is detector.rcnn.sampler is None
    assert not detector.backbone.network.layer1[0].conv1.weight.requires_grad
    assert detector.backbone.network.layer2[0].conv1.weight.requires_grad
    standard = load_recipe("faster_rcnn_r50_coco", ["detector.rcnn.channels=16"]).detector.build(80, pretrained=False)
    assert standard.rcnn.head.classifier.out_features == 81
    assert (standard.rpn.sampler.num, standard.rcnn.sampler.positive_fraction) == (256, 0.25)


def test_mask_rcnn_on_coco_has_the_numbers_of_the_paper():
    rank_sort, standard = load_recipe("rs_mask_rcnn_r50_coco"), load_recipe("mask_rcnn_r50_coco")
    assert (rank_sort.optimizer.lr, standard.optimizer.lr) == (0.012, 0.02)
    assert (rank_sort.detector.mask.budget, standard.detector.mask.budget) == (200, None)
    assert (rank_sort.detector.rcnn.softmax, standard.detector.rcnn.softmax) == (False, True)
    assert standard.losses["rcnn"].mask_loss.type == "cross_entropy"
    assert standard.losses["rcnn"].box_loss.type == "l1"
    boxes = load_recipe("rs_faster_rcnn_r50_coco")
    assert rank_sort.losses == boxes.losses
    assert rank_sort.detector.rpn == boxes.detector.rpn
    assert rank_sort.detector.rcnn == boxes.detector.rcnn.model_copy(update={"low_quality_iou": 0.5})
    detector = rank_sort.detector.build(80, pretrained=False)
    assert detector.mask.pooling.output_size == 14
    assert detector.mask.pooling.strides == detector.rcnn.pooling.strides
    assert len(detector.mask.head.convolutions) == 4
    assert detector.mask.head.classifier.weight.shape == (80, 256)
    assert detector.rcnn.assigner.low_quality_iou == 0.5


def test_recipes_on_lvis_have_the_numbers_of_the_paper():
    rank_sort, standard = load_recipe("rs_mask_rcnn_r50_lvis"), load_recipe("mask_rcnn_r50_lvis")
    assert (rank_sort.optimizer.lr, standard.optimizer.lr) == (0.012, 0.02)
    assert rank_sort.data == standard.data
    assert (standard.data.format, standard.data.repeat_threshold) == ("lvis", 1e-3)
    assert standard.data.resize == KeepRatio(long=1333, shorts=(640, 672, 704, 736, 768, 800))
    assert standard.data.resize.build().for_detection().shorts == (800,)
    for recipe, base in ((rank_sort, "rs_mask_rcnn_r50_coco"), (standard, "mask_rcnn_r50_coco")):
        coco = load_recipe(base)
        assert (recipe.detector.testing.score_threshold, recipe.detector.testing.per_image) == (1e-4, 300)
        assert recipe.detector.model_copy(update={"testing": coco.detector.testing}) == coco.detector
        assert (recipe.losses, recipe.schedule, recipe.head_weights) == (coco.losses, coco.schedule, coco.head_weights)
    detector = rank_sort.detector.build(1203, pretrained=False)
    assert detector.rcnn.head.classifier.out_features == 1203
    assert detector.rcnn.head.regressor.out_features == 4 * 1203
    assert detector.mask.head.classifier.out_features == 1203


LONG = {
    "rs_faster_rcnn_r101_dcn_3x_coco": ("resnet101.tv_in1k", True, False),
    "rs_faster_rcnn_plus_r101_dcn_3x_coco": ("resnet101.tv_in1k", True, True),
    "rs_mask_rcnn_r101_3x_coco": ("resnet101.tv_in1k", False, False),
    "rs_mask_rcnn_plus_r101_3x_coco": ("resnet101.tv_in1k", False, True),
    "rs_mask_rcnn_plus_r101_dcn_3x_coco": ("resnet101.tv_in1k", True, True),
    "rs_mask_rcnn_plus_x101_dcn_3x_coco": ("resnext101_64x4d.tv_in1k", True, True),
}
"""Recipe → network, whether it is deformable, whether the pyramid enlarges by CARAFE."""


@pytest.mark.parametrize("name", LONG)
def test_long_recipes_differ_from_their_short_form_in_backbone_pyramid_length_and_scales(name: str):
    recipe = load_recipe(name)
    short = load_recipe("rs_mask_rcnn_r50_coco" if "mask" in name else "rs_faster_rcnn_r50_coco")
    network, deformable, carafe = LONG[name]
    backbone = short.detector.backbone.model_copy(
        update={"name": network, "weights": HubWeights(name=network), "deformable": deformable}
    )
    assert recipe.detector == short.detector.model_copy(update={"backbone": backbone, "carafe": carafe})
    assert network in timm.list_pretrained()
    schedule = short.schedule.model_copy(update={"epochs": 36, "milestones": (27 / 36, 33 / 36)})
    assert recipe.schedule == schedule
    resize = recipe.data.resize
    assert resize.long == 1333
    narrow = name == "rs_mask_rcnn_r101_3x_coco"
    assert resize.shorts == ((640, 672, 704, 736, 768, 800) if narrow else (480, 560, 640, 720, 800, 880, 960))
    assert resize.build().for_detection().shorts == (800,)
    assert recipe.data == short.data.model_copy(update={"resize": resize})
    for part in ("losses", "head_weights", "optimizer", "evaluation", "runtime", "seed"):
        assert getattr(recipe, part) == getattr(short, part)


@pytest.mark.parametrize("name", ["faster_rcnn_l1_r50_coco", "rs_faster_rcnn_r50_coco", "rs_mask_rcnn_r50_coco"])
def test_plus_is_carafe_in_the_pyramid_and_nothing_else(name: str):
    plain, plus = load_recipe(name), load_recipe(name.replace("_l1", "").replace("_r50", "_plus_r50"))
    detector = plain.detector.model_copy(update={"carafe": True})
    assert plus == plain.model_copy(update={"name": plus.name, "detector": detector})


@pytest.mark.parametrize("name", ["rs_faster_rcnn_plus_r101_dcn_3x_coco", "rs_mask_rcnn_plus_x101_dcn_3x_coco"])
def test_the_largest_detectors_have_their_levels_and_deformable_convolutions(name: str):
    with torch.device("meta"):  # 139 million weights, of which only the shapes matter
        detector = load_recipe(name).detector.build(80, pretrained=False)
    assert len(detector.fpn.upsamplers) == 4
    assert detector.fpn.coarser[0].in_channels == 2048
    assert detector.rpn.anchors.strides == (4, 8, 16, 32, 64)
    assert detector.rcnn.pooling.strides == (4, 8, 16, 32)
    deformable = [part for part in detector.backbone.modules() if isinstance(part, DeformableConv2d)]
    assert len(deformable) == 4 + 23 + 3
    assert {part.offsets.out_channels for part in deformable} == {108}
    widths = {part.weight.shape[1] for part in deformable}
    assert widths == ({8, 16, 32} if "x101" in name else {128, 256, 512})
    assert not detector.backbone.network.layer1[0].conv2.weight.requires_grad


def test_small_backbones_are_deformable_where_the_recipe_says_so():
    small = "detector.backbone={type: timm, name: resnet26, weights: null, deformable: true, out_indices: [1, 2, 3]}"
    detector = load_recipe("rs_faster_rcnn_shapes", [small, "detector.carafe=true"]).detector.build(5)
    assert sum(isinstance(part, DeformableConv2d) for part in detector.backbone.modules()) == 4
    assert isinstance(detector.fpn, CarafeFPN)
    with pytest.raises(InputError, match="resnet18 has no bottlenecks"):
        load_recipe("rs_faster_rcnn_shapes", [small.replace("resnet26", "resnet18")]).detector.build(5)


def test_carafe_is_of_two_stage_detectors_alone():
    with pytest.raises(TypeError, match="rs_atss_shapes has a detector of type atss"):
        with_carafe(load_recipe("rs_atss_shapes"))


def test_a_mask_branch_is_added_to_faster_rcnn_alone():
    with pytest.raises(TypeError, match="mask_rcnn_shapes has a detector of type mask_rcnn"):
        mask_form(load_recipe("mask_rcnn_shapes"))
    with pytest.raises(TypeError, match="mask_rcnn_shapes has a detector of type mask_rcnn"):
        cascade_form(load_recipe("mask_rcnn_shapes"))


@pytest.mark.parametrize("name", ["detr_shapes", "detr_lite0_bccd"])
def test_forms_of_detr_differ_in_the_loss_of_each_head_alone(name: str):
    standard, rank_sort, balanced = (load_recipe(f"{form}{name}") for form in ("", "rs_", "rs_balanced_"))
    heads = ["encoder", *(f"denoising{n}" for n in (1, 2, 3)), *(f"decoder{n}" for n in (1, 2, 3))]
    for recipe, kind, balance in ((standard, "varifocal", "constant"), (rank_sort, "rank_sort", "constant"),
                                  (balanced, "rank_sort", "value")):  # fmt: skip
        assert recipe.detector == standard.detector
        assert list(recipe.losses) == heads
        for loss in recipe.losses.values():
            assert (loss.type, loss.tasks.balancing.type, loss.tasks.weighting.type) == (kind, balance, "none")
            assert (loss.tasks.box_loss.type, loss.tasks.box_loss.weight) == ("giou", 2)
            assert (loss.tasks.delta_loss.type, loss.tasks.delta_loss.weight) == ("l1", 5)
    detector = standard.detector.build(3, pretrained=False)
    assert not [part for part in detector.modules() if isinstance(part, torch.nn.BatchNorm2d) and part.training]


def test_losses_of_detr_follow_its_layers_and_noised_queries():
    recipe = load_recipe("rs_detr_shapes")
    loss = recipe.losses["encoder"]
    changed = recipe.changed(
        {"detector.decoder.layers": 1, "detector.denoising": None}, losses={"encoder": loss, "decoder1": loss}
    )
    assert [candidates.head for candidates in changed.detector.build(3)(EMPTY_BATCH)] == ["encoder", "decoder1"]
    with pytest.raises(InputError, match=r"losses must name the heads .*'decoder2'.*, not \["):
        load_recipe("rs_detr_shapes", ["detector.decoder.layers=2"])
    with pytest.raises(InputError, match=r"detector.decoder: channels = 64 is no multiple of heads = 5"):
        load_recipe("rs_detr_shapes", ["detector.decoder.heads=5"])
    with pytest.raises(InputError, match=r"detector: pyramid_channels = 64 is no multiple of encoder.groups = 3"):
        load_recipe("rs_detr_shapes", ["detector.encoder.groups=3"])


CASCADE = ("rcnn1", "rcnn2", "rcnn3")


def stages_of(detector: Part) -> list[Part]:
    return [getattr(detector, stage) for stage in CASCADE]


def test_cascade_rcnn_on_coco_has_the_numbers_of_the_paper():
    rank_sort, standard = load_recipe("rs_cascade_rcnn_r50_coco"), load_recipe("cascade_rcnn_r50_coco")
    assert (rank_sort.optimizer.lr, standard.optimizer.lr) == (0.012, 0.02)
    assert (rank_sort.head_weights, standard.head_weights) == ({"rpn": 0.2}, {"rcnn2": 0.5, "rcnn3": 0.25})
    for recipe, proposals in ((rank_sort, 1000), (standard, 2000)):
        assert [stage.positive_iou for stage in stages_of(recipe.detector)] == [0.5, 0.6, 0.7]
        assert all(stage.low_quality_iou is None for stage in stages_of(recipe.detector))
        assert recipe.detector.rpn.allowed_border == 0
        assert recipe.detector.rpn.train_proposals.per_level == 2000
        assert recipe.detector.rpn.train_proposals.per_image == proposals
        assert recipe.detector.rpn.test_proposals.per_image == 1000
    assert {stage.delta_stds for stage in stages_of(rank_sort.detector)} == {(0.1, 0.1, 0.2, 0.2)}
    assert rank_sort.detector.rpn.delta_stds == (0.1, 0.1, 0.2, 0.2)
    assert [stage.delta_stds[0] for stage in stages_of(standard.detector)] == [0.1, 0.05, 0.033]
    assert standard.detector.rpn.delta_stds == (1, 1, 1, 1)
    assert [stage.sampler.num for stage in stages_of(standard.detector)] == [512] * 3
    assert standard.losses["rpn"].box_loss.beta == pytest.approx(1 / 9)
    assert [standard.losses[head].box_loss.beta for head in CASCADE] == [1, 1, 1]
    detector = rank_sort.detector.build(80, pretrained=False)
    assert [stage.head.classifier.out_features for stage in detector.stages] == [80] * 3
    assert [stage.head.regressor.out_features for stage in detector.stages] == [4] * 3
    assert [stage.assigner.positive_iou for stage in detector.stages] == [0.5, 0.6, 0.7]
    assert detector.rpn.allowed_border == 0
    assert detector.stages[0].pooling.strides == (4, 8, 16, 32)


def test_stages_of_a_cascade_whose_logits_have_no_mean_are_a_mistake_of_the_recipe():
    loss = "{type: softmax_cross_entropy, box_loss: {type: l1}}"
    with pytest.raises(InputError, match="softmax must be the same in rcnn1, rcnn2 and rcnn3"):
        load_recipe("rs_cascade_rcnn_shapes", ["detector.rcnn2.softmax=true", f"losses.rcnn2={loss}"])


def test_rows_of_other_losses_on_faster_rcnn_have_the_numbers_of_the_paper():
    rank_sort, standard = load_recipe("rs_faster_rcnn_r50_coco"), load_recipe("faster_rcnn_r50_coco")
    alrp, focal = load_recipe("alrp_faster_rcnn_r50_coco"), load_recipe("focal_faster_rcnn_r50_coco")
    assert (alrp.optimizer.lr, focal.optimizer.lr) == (0.009, 0.01)
    assert (alrp.detector, alrp.head_weights) == (rank_sort.detector, {"rpn": 0.2})
    assert [alrp.losses[head].tau for head in ("rpn", "rcnn")] == [0.7, 0.5]
    assert [alrp.losses[head].delta for head in ("rpn", "rcnn")] == [1, 1]
    assert [part.sampler for part in (focal.detector.rpn, focal.detector.rcnn)] == [
        part.sampler for part in (standard.detector.rpn, standard.detector.rcnn)
    ]
    for loss in focal.losses.values():
        assert (loss.alpha, loss.gamma, loss.tasks.box_loss.weight, loss.tasks.weighting.type) == (0.25, 2, 2, "none")
    detector = focal.detector.build(80, pretrained=False)
    assert detector.rcnn.head.classifier.out_features == 80
    for bias in (detector.rpn.head.classifier.bias, detector.rcnn.head.classifier.bias):
        torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))
    for bias in rank_sort.detector.build(80, pretrained=False).rpn.head.classifier.bias:
        assert bias == 0


def test_heavy_training_has_the_numbers_of_the_paper():
    for name, lr in (("alrp_faster_rcnn_r50_coco", 0.012), ("rs_faster_rcnn_r50_coco", 0.024)):
        recipe, standard = load_recipe(f"heavy_{name}"), load_recipe(name)
        assert (recipe.detector, recipe.losses) == (standard.detector, standard.losses)
        assert (recipe.optimizer.lr, recipe.optimizer.reference_batch, recipe.data.batch_size) == (lr, 32, 8)
        length = 100 * 3665
        factors = [recipe.schedule.factor(epoch * 3665, length) for epoch in (74, 75, 94, 95)]
        assert factors == pytest.approx([1, 0.1, 0.1, 0.01])
        training, detection = (recipe.data.build_transforms(training) for training in (True, False))
        assert training.resize.size((480, 640)) == (512, 512)
        assert detection.resize.size((480, 640)) == (500, 667)
        assert training.horizontal_flip == 0.5
        assert training.expansion.ratios == (1, 4)
        assert training.distortion is not None
        assert training.crop is not None
        assert (detection.expansion, detection.distortion, detection.crop) == (None, None, None)


def test_nuclei_leave_room_for_all_of_them():
    detector = load_recipe("rs_mask_rcnn_lite0_nuclei").detector
    assert detector.testing.per_image > 375
    assert detector.rpn.train_proposals.per_image > 375
    assert detector.rpn.test_proposals.per_image > detector.testing.per_image


def test_recipes_of_one_stage_detectors_have_the_numbers_of_the_paper():
    names = [name for name in RECIPES if name.endswith(("atss_r50_coco", "paa_r50_coco"))]
    rows = {name: load_recipe(name) for name in names if not name.startswith("vfl_")}  # no row of the paper
    assert len(rows) == 14
    for name, recipe in rows.items():
        kind = name.split("_")[0]
        lr = {"alrp": 0.005, "rs": 0.008, "ap": 0.008}.get(kind, 0.01)
        assert recipe.optimizer == SGD(lr=lr, reference_batch=16, momentum=0.9, weight_decay=1e-4)
        three = pytest.approx((4, 5.0397, 6.3496), abs=1e-4)
        assert recipe.detector.dense.anchor_scales == (three if kind in ("alrp", "rs", "ap") else (8,))
        assert recipe.detector.dense.auxiliary == (kind in ("atss", "paa") or "centerness" in name or "iou" in name)
        assert recipe.detector.dense.delta_stds == (0.1, 0.1, 0.2, 0.2)
        testing = recipe.detector.testing
        assert (testing.score_threshold, testing.nms_iou, testing.per_image) == (0.05, 0.6, 100)
        assert recipe.head_weights == {}
        if recipe.detector.type == "paa":
            cost = recipe.detector.cost_giou_weight, recipe.detector.added_variance
            assert cost == ((1.0, 1e-5) if kind == "rs" else (1.3, 1e-6))
    standard_atss, standard_paa = rows["atss_r50_coco"].losses["dense"], rows["paa_r50_coco"].losses["dense"]
    assert (standard_atss.tasks.box_loss.weight, standard_atss.tasks.weighting.type) == (2.0, "centerness")
    assert (standard_paa.tasks.box_loss.weight, standard_paa.tasks.weighting.type) == (1.3, "iou")
    assert [standard_atss.tasks.auxiliary[0].weight, standard_paa.tasks.auxiliary[0].weight] == [1.0, 0.5]


@pytest.mark.parametrize("name", ["rs_atss_r50_coco", "paa_r50_coco"])
def test_one_stage_detector_of_the_coco_recipe_has_its_levels_and_heads(name: str):
    detector = load_recipe(name).detector.build(80, pretrained=False)
    head, per_cell = detector.dense.head, 3 if name.startswith("rs") else 1
    assert detector.dense.anchors.strides == (8, 16, 32, 64, 128)
    assert detector.dense.anchors.num_per_cell == per_cell
    assert [len(maps) for maps in (detector.fpn.laterals, detector.fpn.coarser)] == [3, 2]
    assert detector.fpn.laterals[0].in_channels == 512
    assert (head.classifier.out_channels, head.regressor.out_channels) == (80 * per_cell, 4 * per_cell)
    assert (head.auxiliary is None) == name.startswith("rs")
    assert sum(isinstance(layer, torch.nn.GroupNorm) for layer in head.classification_tower) == 4
    assert not detector.backbone.network.layer1[0].conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        (
            "rs_atss_shapes",
            "detector.dense.auxiliary=true",
            r"learns the auxiliary heads \[\], .* are \['centerness'\]",
        ),
        ("atss_shapes", "losses.dense.tasks.auxiliary=[]", r"learns the auxiliary heads \[\], .* are \['centerness'\]"),
        ("paa_shapes", "losses.dense.tasks.auxiliary=[{type: centerness}]", r"\['centerness'\], .* are \['iou'\]"),
        ("paa_shapes", "detector.dense.groups=7", r"pyramid_channels = 32 is no multiple of dense.groups = 7"),
        ("rs_paa_shapes", "losses.dense={type: softmax_cross_entropy, box_loss: {type: l1}}", "detector.dense, which"),
        ("rs_paa_shapes", "detector.rpn.sampler=null", "detector.rpn: unknown field"),
    ],
)
def test_loss_that_does_not_fit_a_one_stage_detector_is_a_mistake_of_the_recipe(name: str, override: str, message: str):
    with pytest.raises(InputError, match=message):
        load_recipe(name, [override])


def test_small_recipes_of_one_stage_detectors_give_both_forms_the_same_budget():
    for detector in ("atss", "paa"):
        standard, rank_sort = load_recipe(f"{detector}_shapes"), load_recipe(f"rs_{detector}_shapes")
        for part in ("seed", "data", "optimizer", "schedule", "evaluation", "runtime"):
            assert getattr(standard, part) == getattr(rank_sort, part)


def test_the_ranking_form_of_faster_rcnn_is_of_no_other_detector():
    with pytest.raises(TypeError, match=r"rs_atss_shapes .* type atss"):
        ranking_form(load_recipe("rs_atss_shapes"))


def test_cosine_schedule_falls_once_per_epoch_where_it_counts_epochs():
    schedule, per_epoch = CosineSchedule(epochs=55, warmup_iterations=500, warmup_factor=0.1), 3665
    for epoch in (1, 13, 27, 54):
        value = 0.5 * (1 + math.cos(math.pi * epoch / 55))
        for iteration in (epoch * per_epoch, epoch * per_epoch + 1, (epoch + 1) * per_epoch - 1):
            assert schedule.factor(iteration, 55 * per_epoch) == pytest.approx(value, rel=1e-12)
    assert schedule.factor(250, 55 * per_epoch) == pytest.approx(0.55)


def test_yolact_on_coco_has_the_numbers_of_the_paper():
    rank_sort, standard = load_recipe("rs_yolact_r50_coco"), load_recipe("yolact_r50_coco")
    assert rank_sort.optimizer == SGD(lr=0.006, reference_batch=32, momentum=0.9, weight_decay=5e-4)
    assert standard.optimizer == SGD(lr=0.008, reference_batch=64, momentum=0.9, weight_decay=5e-4)
    assert rank_sort.schedule == CosineSchedule(epochs=55, warmup_iterations=500, warmup_factor=0.1)
    assert (standard.schedule.warmup_iterations, standard.schedule.warmup_factor) == (1000, 0.1)
    length = 55 * 1833
    for epoch, value in {1: 1, 20: 0.1, 41: 0.1, 42: 0.01, 49: 1e-3, 52: 1e-4, 54: 1e-4}.items():
        assert standard.schedule.factor(epoch * 1833, length) == pytest.approx(value)
    assert (rank_sort.runtime.clip_gradient_norm, standard.runtime.clip_gradient_norm) == (None, 35)
    assert rank_sort.data == standard.data
    assert (standard.data.resize.height, standard.data.resize.width, standard.data.batch_size) == (550, 550, 8)
    assert standard.data.min_object == 4
    transforms = standard.data.build_transforms(training=True)
    assert transforms.distortion == PhotometricDistortion(32, (0.5, 1.5), (0.5, 1.5), 18)
    assert transforms.expansion == Expansion(transforms.expansion.fill, 0.5, (1, 4))
    assert transforms.crop == MinIoUCrop((0.1, 0.3, 0.5, 0.7, 0.9, 0), 0.3, (0.5, 2))
    assert transforms.expansion.fill == standard.detector.backbone.mean == (123.68, 116.78, 103.94)
    assert (transforms.horizontal_flip, transforms.vertical_flip) == (0.5, 0)
    loss = standard.losses["dense"]
    assert (loss.hard_negatives, loss.box_loss.beta, loss.box_loss.weight) == (3, 1, 1.5)
    assert (loss.mask_loss.weight, loss.mask_loss.over_box_size) == (6.125, True)
    assert [(head.type, head.weight) for head in loss.auxiliary] == [("semantic", 1)]
    assert rank_sort.losses["dense"] == RankSortLoss()
    forms = {
        each.name: (each.detector.softmax, each.detector.semantic, each.detector.masks_per_image)
        for each in (standard, rank_sort)
    }
    assert forms == {"yolact_r50_coco": (True, True, 100), "rs_yolact_r50_coco": (False, False, None)}
    testing = rank_sort.detector.testing
    assert (testing.score_threshold, testing.nms_iou, testing.per_image) == (0.05, 0.5, 100)
    assert (rank_sort.detector.test_per_level, rank_sort.detector.test_per_class) == (1000, 200)


@pytest.mark.parametrize("name", ["rs_yolact_r50_coco", "yolact_r50_coco"])
def test_yolact_of_the_coco_recipe_has_its_levels_and_heads_and_trains_all_of_its_backbone(name: str):
    detector = load_recipe(name).detector.build(80, pretrained=False)
    softmax = not name.startswith("rs")
    assert detector.instances.anchors.sides == (24, 48, 96, 192, 384)
    assert detector.head.classifier.out_channels == 3 * (80 + softmax)
    assert (detector.semantic is not None) == softmax
    assert detector.fpn.coarser[0].in_channels == 2048
    assert all(parameter.requires_grad for parameter in detector.parameters())
    norms = [module for module in detector.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(norm.training and norm.track_running_stats for norm in norms)
    detector.to("meta")
    maps = detector.fpn(detector.backbone.network(torch.zeros(1, 3, 550, 550, device="meta")))
    sizes = [tuple(features.shape[2:]) for features in maps]
    assert sizes == [(69, 69), (35, 35), (18, 18), (9, 9), (5, 5)]


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("rs_yolact_shapes", "detector.semantic=true", r"auxiliary heads \[\], .* are \['semantic'\]"),
        ("yolact_shapes", "losses.dense.auxiliary=[]", r"auxiliary heads \[\], .* are \['semantic'\]"),
        ("rs_yolact_shapes", "detector.softmax=true", "losses.dense.type = rank_sort does not fit detector.dense"),
        ("yolact_shapes", "detector.positive_iou=0.3", r"detector: positive_iou = 0\.3 is below negative_iou = 0\.4"),
        ("yolact_shapes", "losses.dense.hard_negatives=0", "losses.dense.hard_negatives: must be at least 1, got 0"),
        (
            "mask_rcnn_shapes",
            "losses.rcnn.hard_negatives=3",
            "losses.rcnn.hard_negatives looks at the image of each candidate, which detector.type = mask_rcnn",
        ),
        (
            "mask_rcnn_shapes",
            "losses.rcnn.mask_loss={type: cross_entropy, over_box_size: true}",
            "losses.rcnn.mask_loss.over_box_size looks at the size of objects .* mask_rcnn does not give its head rcnn",
        ),
    ],
)
def test_what_does_not_fit_yolact_is_a_mistake_of_the_recipe(name: str, override: str, message: str):
    with pytest.raises(InputError, match=message):
        load_recipe(name, [override])


def test_small_recipes_of_yolact_give_both_forms_the_same_budget():
    for data in ("shapes", "lite0_nuclei"):
        standard, rank_sort = load_recipe(f"yolact_{data}"), load_recipe(f"rs_yolact_{data}")
        for part in ("seed", "data", "optimizer", "schedule", "evaluation", "runtime"):
            assert getattr(standard, part) == getattr(rank_sort, part)
        assert standard.detector.backbone == rank_sort.detector.backbone
    assert rank_sort.detector.testing.per_image > 375
    assert rank_sort.detector.test_per_class > rank_sort.detector.testing.per_image
    assert rank_sort.detector.masks_per_image == standard.detector.masks_per_image == 64
    with pytest.raises(TypeError, match="has a detector of type atss, not yolact"):
        ranking_yolact(load_recipe("atss_shapes"))


def test_each_heuristic_of_yolact_can_be_taken_away_alone():
    rows = {row.name.removeprefix("yolact-"): row.experiments for row in table_rows("6")}
    expected = {
        "ohem_size_norm_semseg": (3, True, True),
        "size_norm_semseg": (None, True, True),
        "ohem_semseg": (3, False, True),
        "ohem_size_norm": (3, True, False),
        "plain": (None, False, False),
    }
    for name, (negatives, over_box_size, semantic) in expected.items():
        for experiment in rows[name].values():
            recipe = load_recipe(experiment.base().name, experiment.overrides())
            loss = recipe.losses["dense"]
            assert (loss.hard_negatives, loss.mask_loss.over_box_size) == (negatives, over_box_size)
            assert loss.mask_loss.weight == 6.125
            assert (recipe.detector.semantic, bool(loss.auxiliary)) == (semantic, semantic)
    labels = {row.name: row.experiments for row in table_rows("A.16")}
    for name, kind in {"binary": "binary", "iou": "iou", "dice": "dice", "mean_iou_dice": "mean"}.items():
        for experiment in labels[name].values():
            recipe = load_recipe(experiment.base().name, experiment.overrides())
            assert recipe.losses["dense"] == RankSortLoss(quality={"type": kind})
            assert recipe.detector.masks_per_image is None  # labels by Dice need the masks of all positives


def test_solov2_on_coco_has_the_numbers_of_the_paper():
    for size, images, lrs in (("light_r34", 32, (0.02, 0.012)), ("r101", 16, (0.01, 0.006))):
        standard, rank_sort = load_recipe(f"solov2_{size}_coco"), load_recipe(f"rs_solov2_{size}_coco")
        for recipe, lr in zip((standard, rank_sort), lrs, strict=True):
            assert recipe.optimizer == SGD(lr=lr, reference_batch=images, momentum=0.9, weight_decay=1e-4)
            assert 4 * recipe.data.batch_size == images
            schedule = recipe.schedule
            assert (schedule.epochs, schedule.warmup_iterations, schedule.warmup_factor) == (36, 500, 0.01)
            assert [round(36 * milestone) for milestone in schedule.milestones] == [27, 33]
            assert recipe.runtime.clip_gradient_norm == 35
            testing = recipe.detector.testing
            assert (testing.score_threshold, testing.sigma, testing.least_score) == (0.1, 2, 0.05)
            assert (testing.num_candidates, testing.per_image) == (500, 100)
            assert recipe.detector.grids.sizes == (40, 36, 24, 16, 12)
        focal, loss = standard.losses["grid"], rank_sort.losses["grid"]
        assert (focal.alpha, focal.gamma, focal.normalizer) == (0.25, 2, PositiveCount(added=1.0))
        assert focal.tasks.mask_balancing.weight == 3
        assert (loss.quality.type, loss.tasks.weighting.type, loss.tasks.balancing.type) == ("dice", "score", "value")
        assert focal.tasks.dice_epsilon == loss.tasks.dice_epsilon == 2e-3
        assert not standard.detector.grids.one_mask_per_cell
        assert rank_sort.detector.grids.one_mask_per_cell
    light, full = load_recipe("rs_solov2_light_r34_coco"), load_recipe("rs_solov2_r101_coco")
    assert light.data.resize == KeepRatio(long=768, shorts=(352, 384, 416, 448, 480, 512), test_short=448)
    assert full.data.resize == KeepRatio(long=1333, shorts=(640, 672, 704, 736, 768, 800))
    assert light.detector.grids.scale_ranges == ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))
    assert full.detector.grids.scale_ranges == ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))


@pytest.mark.parametrize(
    ("name", "depth", "channels", "kernels"),
    [("solov2_light_r34_coco", 2, 256, 128), ("rs_solov2_r101_coco", 4, 512, 256)],
)
def test_solov2_of_the_coco_recipe_has_its_levels_and_heads(name: str, depth: int, channels: int, kernels: int):
    detector = load_recipe(name).detector.build(80, pretrained=False)
    head, features = detector.grid.head, detector.grid.mask_features
    assert detector.grid.strides == (4, 8, 16, 32, 64)
    assert not detector.fpn.coarser
    assert [detector.grid.cell_strides[end - 1].item() for end in (1600, 2896, 3472, 3728, 3872)] == [8, 8, 16, 32, 32]
    for part, inputs in ((head.classification_tower, 256), (head.kernel_tower, 258)):
        convolutions = [layer for layer in part if isinstance(layer, torch.nn.Conv2d)]
        assert [layer.out_channels for layer in convolutions] == [channels] * depth
        assert convolutions[0].in_channels == inputs
    assert (head.classifier.out_channels, head.kernels.out_channels) == (80, kernels)
    assert [len(level) for level in features.levels] == [1, 1, 2, 3]
    assert [level[0][0].in_channels for level in features.levels] == [256, 256, 256, 258]
    assert features.last[0].out_channels == kernels
    assert not detector.backbone.network.layer1[0].conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses.grid.quality.type=iou", r"losses.grid.quality.type = iou looks at boxes, .* solov2 does not give"),
        ("losses.grid.tasks.weighting.type=iou", r"losses.grid.tasks.weighting.type = iou looks at boxes"),
        ("losses.grid={type: quality_focal}", r"losses.grid.quality.type = iou looks at boxes"),
        ("losses.grid={type: rank_sort, quality: {type: mean}}", r"losses.grid.quality.type = mean looks at boxes"),
        ("detector.grids.sizes=[8,4,2]", "3 sizes but 4 scale_ranges"),
        ("detector.extra_levels=0", "4 grids, but the pyramid 3 levels of the backbone and 0 more"),
        ("detector.grids.groups=7", "channels = 64 is no multiple of groups = 7"),
        ("detector.mask_features.groups=7", "channels = 32 is no multiple of groups = 7"),
        ("detector.grids.scale_ranges=[[9,3],[1,2],[1,2],[1,2]]", "scale_ranges.0: must be two limits, the lower one"),
    ],
)
def test_solov2_whose_parts_do_not_fit_is_a_mistake_of_the_recipe(override: str, message: str):
    with pytest.raises(InputError, match=message):
        load_recipe("rs_solov2_shapes", [override])


def test_the_ranking_form_of_solov2_is_of_no_other_detector():
    with pytest.raises(TypeError, match=r"rs_atss_shapes has a detector of type atss, not solov2"):
        rank_sort_form(load_recipe("rs_atss_shapes"))
