"""Names, shapes and class order of every origin: nothing missing, nothing left over, bits equal, or a refusal."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rankdet.importing import convert, from_mmdetection, from_mmdetection_1, from_torchvision
from rankdet.importing.layout import Layout
from rankdet.recipes import RECIPES, Recipe
from rankdet.structures import InputError

from . import foreign
from .foreign import R18, R50, Inverse, Shapes

Small = Callable[[str], Recipe]
SIZES = {"into": R18, "classes": 3, "channels": 16}
BOXES = SIZES | {"width": 8}
SOLO = {"width": 32, "layers": 2, "kernel": 16, "features": 8}
SEMANTIC_2, SEMANTIC_3 = "segm_head.segm_conv", "mask_head.segm_branch.segm_conv"
RESNET_50, RESNET_101 = foreign.resnet50(), foreign.resnet("backbone", (3, 4, 23, 3), True)
RESNEXT_101 = foreign.resnet("backbone", (3, 4, 23, 3), True, groups=64, group_width=4)
DCN_50, DCN_101, DCN_X101 = (foreign.deformable(shapes) for shapes in (RESNET_50, RESNET_101, RESNEXT_101))
RESNET_34 = foreign.resnet("backbone", (3, 4, 6, 3), False)
LIGHT = {"width": 256, "layers": 2, "kernel": 128}
CARAFE = foreign.carafe_pyramid(R50, 256)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("faster-rcnn_r50_fpn_1x_coco", RESNET_50 | foreign.faster_rcnn()),
        ("mask-rcnn_r50_fpn_1x_coco", RESNET_50 | foreign.mask_rcnn()),
        ("cascade-rcnn_r50_fpn_1x_coco", RESNET_50 | foreign.cascade_rcnn()),
        ("atss_r50_fpn_1x_coco", RESNET_50 | foreign.dense(1, True)),
        ("paa_r50_fpn_1x_coco", RESNET_50 | foreign.dense(1, True)),
        ("yolact_r50_1xb8-55e_coco", RESNET_50 | foreign.yolact(SEMANTIC_3)),
        ("faster-rcnn_r50_fpn-carafe_1x_coco", RESNET_50 | foreign.faster_rcnn() | CARAFE),
        ("faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco", DCN_50 | foreign.faster_rcnn()),
        ("solov2_r50_fpn_1x_coco", RESNET_50 | foreign.solov2(False)),
        ("solov2-light_r34_fpn_ms-3x_coco", RESNET_34 | foreign.solov2(False, R18, **LIGHT)),
        ("mask-rcnn_x101-64x4d_fpn_1x_coco", RESNEXT_101 | foreign.mask_rcnn()),
    ],
)
def test_tables_of_names_are_those_of_mmdetection(name: str, shapes: Shapes):
    assert foreign.digest(shapes) == foreign.DIGESTS[name]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("rs_faster_rcnn_r50_coco", RESNET_50 | foreign.faster_rcnn(True)),
        ("rs_mask_rcnn_plus_x101_dcn_3x_coco", DCN_X101 | foreign.mask_rcnn(True) | CARAFE),
        ("rs_cascade_rcnn_r50_coco", RESNET_50 | foreign.cascade_rcnn(True)),
        ("rs_paa_r50_coco", RESNET_50 | foreign.dense(3, False)),
        ("rs_yolact_r50_coco", RESNET_50 | foreign.yolact()),
        ("rs_solov2_r101_coco", RESNET_101 | foreign.solov2(True)),
        ("rs_solov2_light_r34_coco", RESNET_34 | foreign.solov2(True, R18, **LIGHT)),
    ],
)
def test_full_detectors_take_every_tensor_of_the_published_ones(name: str, shapes: Shapes):
    recipe = RECIPES[name]()
    weights = convert(foreign.numbered(shapes), recipe)
    with torch.device("meta"):
        expected = recipe.detector.build(80, pretrained=False).state_dict()
    assert {key: value.shape for key, value in weights.items()} == {key: value.shape for key, value in expected.items()}


def as_convolution(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim == 1 else tensor[:, :, None, None]


def background_first(tensor: Tensor) -> Tensor:
    return tensor.roll(1, dims=0)


def with_background(per_class: int) -> Inverse:
    return lambda tensor: torch.cat([tensor.new_full((per_class, *tensor.shape[1:]), 7), tensor])


def coco_rows(per_class: int) -> Inverse:
    """80 classes → one for each id up to 90, and the background before them."""

    def spread(tensor: Tensor) -> Tensor:
        rows = tensor.new_full((91, per_class, *tensor.shape[1:]), 7)
        rows[[number for number, _ in from_torchvision.COCO]] = tensor.unflatten(0, (-1, per_class))
        return rows.flatten(0, 1)

    return spread


def coco_logits(tensor: Tensor) -> Tensor:
    rows = coco_rows(1)(tensor[:-1])
    rows[0] = tensor[-1]
    return rows


SEMANTIC: dict[str, Inverse] = {"semantic.classifier": lambda tensor: tensor.roll(-1, dims=0)}
MASKS: dict[str, Inverse] = {"mask.head.classifier": as_convolution}
OLD: dict[str, Inverse] = {
    "rcnn.head.classifier": background_first,
    "rcnn.head.regressor": with_background(4),
    "mask.head.classifier": lambda tensor: as_convolution(with_background(1)(tensor)),
}
OF_COCO: dict[str, Inverse] = {
    "rcnn.head.classifier": coco_logits,
    "rcnn.head.regressor": coco_rows(4),
    "mask.head.classifier": lambda tensor: as_convolution(coco_rows(1)(tensor)),
}
TORCHVISION = SIZES | {"width": 8}
del TORCHVISION["classes"]
IMAGENET = foreign.resnet18()
OF_TORCHVISION = foreign.resnet18("backbone.body", counted=False)

CASES: dict[str, tuple[str, int, tuple[Layout, ...], dict[str, Inverse], Shapes]] = {
    # recipe, classes, layouts of the origin, what is not only renamed, names and shapes there
    "authors, faster": (
        "rs_faster_rcnn_r50_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.faster_rcnn(True, **BOXES)
    ),
    "mmdetection, faster": (
        "faster_rcnn_l1_r50_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.faster_rcnn(**BOXES)
    ),
    "authors, mask": (
        "rs_mask_rcnn_r50_coco", 3, from_mmdetection.LAYOUTS, MASKS, IMAGENET | foreign.mask_rcnn(True, **BOXES)
    ),
    "mmdetection, mask": (
        "mask_rcnn_r50_coco", 3, from_mmdetection.LAYOUTS, MASKS, IMAGENET | foreign.mask_rcnn(**BOXES)
    ),
    "mmdetection, CARAFE": (
        "rs_faster_rcnn_plus_r50_coco", 3, from_mmdetection.LAYOUTS, {},
        IMAGENET | foreign.faster_rcnn(True, **BOXES) | foreign.carafe_pyramid(R18, 16),
    ),
    "authors, cascade": (
        "rs_cascade_rcnn_r50_coco", 80, from_mmdetection.LAYOUTS, {},
        IMAGENET | foreign.cascade_rcnn(True, **BOXES | {"classes": 80}),
    ),
    "mmdetection, cascade": (
        "cascade_rcnn_r50_coco", 80, from_mmdetection.LAYOUTS, {},
        IMAGENET | foreign.cascade_rcnn(**BOXES | {"classes": 80}),
    ),
    "authors, YOLACT": ("rs_yolact_r50_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.yolact(**SIZES)),
    "mmdetection 2, YOLACT": (
        "yolact_r50_coco", 80, from_mmdetection.LAYOUTS, SEMANTIC,
        IMAGENET | foreign.yolact(SEMANTIC_2, **SIZES | {"classes": 80}),
    ),
    "mmdetection 3, YOLACT": (
        "yolact_r50_coco", 80, from_mmdetection.LAYOUTS, SEMANTIC,
        IMAGENET | foreign.yolact(SEMANTIC_3, **SIZES | {"classes": 80}),
    ),
    "authors, SOLOv2": (
        "rs_solov2_r101_coco", 3, from_mmdetection_1.LAYOUTS, {}, IMAGENET | foreign.solov2(True, **SIZES | SOLO)
    ),
    "mmdetection, SOLOv2": (
        "solov2_r101_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.solov2(False, **SIZES | SOLO)
    ),
    "authors, ATSS": ("rs_atss_r50_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.dense(3, False, **SIZES)),
    "mmdetection, ATSS": ("atss_r50_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.dense(1, True, **SIZES)),
    "authors, PAA": ("rs_paa_r50_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.dense(3, False, **SIZES)),
    "mmdetection, PAA": ("paa_r50_coco", 3, from_mmdetection.LAYOUTS, {}, IMAGENET | foreign.dense(1, True, **SIZES)),
    "mmdetection 1, faster": (
        "faster_rcnn_r50_coco", 3, from_mmdetection_1.LAYOUTS, OLD,
        IMAGENET | foreign.older_of(foreign.faster_rcnn(**BOXES)),
    ),
    "mmdetection 1, mask": (
        "mask_rcnn_r50_coco", 3, from_mmdetection_1.LAYOUTS, OLD,
        IMAGENET | foreign.older_of(foreign.mask_rcnn(**BOXES)),
    ),
    "mmdetection 1, cascade": (
        "cascade_rcnn_r50_coco", 3, from_mmdetection_1.LAYOUTS,
        {f"stages.{stage}.head.classifier": background_first for stage in range(3)},
        IMAGENET | foreign.older_of(foreign.cascade_rcnn(**BOXES)),
    ),
    "torchvision, COCO": (
        "mask_rcnn_r50_coco", 80, from_torchvision.LAYOUTS, OF_COCO,
        OF_TORCHVISION | foreign.torchvision_mask_rcnn(False, **TORCHVISION),
    ),
    "torchvision before 0.13, COCO": (
        "mask_rcnn_r50_coco", 80, from_torchvision.LAYOUTS, OF_COCO,
        OF_TORCHVISION | foreign.torchvision_mask_rcnn(True, **TORCHVISION),
    ),
    "torchvision, own classes": (
        "mask_rcnn_r50_coco", 3, from_torchvision.LAYOUTS, OLD,
        OF_TORCHVISION | foreign.torchvision_mask_rcnn(False, rows=4, **TORCHVISION),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_go_to_a_foreign_layout_and_come_back_bit_for_bit(case: str, small: Small):
    name, num_classes, layouts, inverses, shapes = CASES[case]
    recipe = small(name)
    torch.manual_seed(0)
    detector = recipe.detector.build(num_classes, pretrained=False)
    own = {key: torch.rand(value.shape).to(value.dtype) for key, value in detector.state_dict().items()}
    fitting = [each for each in layouts if each.family == recipe.detector.type and set(each.marks) <= shapes.keys()]
    layout = max(fitting, key=lambda each: len(each.marks))
    there = foreign.written(own, list(layout.rules(detector)), inverses)
    there = {key: value for key, value in there.items() if key in shapes or not key.endswith("num_batches_tracked")}
    assert {key: tuple(value.shape) for key, value in there.items()} == shapes
    back = convert(there, recipe)
    assert back.keys() == own.keys()
    assert all(torch.equal(back[key], own[key]) for key in own)


def test_half_precision_becomes_single(small: Small):
    recipe = small("faster_rcnn_l1_r50_coco")
    weights = convert(
        {key: torch.rand(shape).half() for key, shape in (IMAGENET | foreign.faster_rcnn(**BOXES)).items()}, recipe
    )
    assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}


def test_what_is_missing_left_over_or_of_another_shape_is_named_and_all_is_refused(small: Small):
    recipe = small("faster_rcnn_l1_r50_coco")
    tensors = foreign.numbered(IMAGENET | foreign.faster_rcnn(**BOXES))
    del tensors["rpn_head.rpn_cls.bias"]
    tensors["neck.fpn_convs.4.conv.bias"] = torch.zeros(16)
    tensors["rpn_head.rpn_reg.bias"] = torch.zeros(20)
    tensors["data_preprocessor.mean"] = torch.zeros(3)
    with pytest.raises(InputError) as caught:
        convert(tensors, recipe)
    assert str(caught.value) == (
        "1 missing: rpn_head.rpn_cls.bias (for rpn.head.classifier.bias); "
        "1 of another shape: rpn_head.rpn_reg.bias is (20,), and rpn.head.regressor.bias needs (20,) to be (12,); "
        "1 left over: neck.fpn_convs.4.conv.bias"
    )


def test_detector_of_the_other_form_is_refused(small: Small):
    tensors = foreign.numbered(IMAGENET | foreign.dense(1, True, **SIZES))
    with pytest.raises(InputError, match=r"bbox_head\.atss_reg\.weight is .*left over: bbox_head\.atss_centerness"):
        convert(tensors, small("rs_atss_r50_coco"))
    with pytest.raises(InputError, match=r"its tensors are of atss or paa of mmdetection .*, and recipe .* has a"):
        convert(tensors, small("faster_rcnn_l1_r50_coco"))


def test_unknown_names_and_other_detectors_of_torchvision_are_refused(small: Small):
    with pytest.raises(InputError, match=r"\(a, b …\) have names of no detector .*paa of mmdetection.* of torchvision"):
        convert({"a": torch.zeros(1), "b": torch.zeros(1)}, small("atss_r50_coco"))
    with pytest.raises(InputError, match=r"those of torchvision's R-CNN v2 .*and no detector here is like it"):
        convert({"rpn.head.conv.1.0.weight": torch.zeros(1)}, small("atss_r50_coco"))
