"""Imported weights of torchvision compute what torchvision computes, but for its rounded anchors."""

from collections.abc import Callable

import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from rankdet.importing import convert, from_torchvision
from rankdet.importing.adapting import Adaptation, adapted
from rankdet.importing.categories import COCO
from rankdet.recipes import Recipe
from rankdet.structures import Images

from . import foreign

SIDE = 128  # all levels down to P6 divide it


def torchvision_model(rows: int) -> MaskRCNN:
    """A Mask R-CNN as torchvision builds it, on a smaller ResNet, that finds something without training."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    few = {"rpn_pre_nms_top_n_test": 40, "rpn_post_nms_top_n_test": 40, "box_detections_per_img": 20}
    model = MaskRCNN(backbone, rows, min_size=SIDE, max_size=SIDE, box_score_thresh=0.02, **few).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) or type(module).__name__ == "FrozenBatchNorm2d":
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.1)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.02)
    return model


def test_names_are_those_of_the_installed_torchvision():
    own = {name: tuple(value.shape) for name, value in torchvision_model(91).state_dict().items()}
    counted = any(name.endswith("num_batches_tracked") for name in own)
    shapes = foreign.resnet18("backbone.body", counted)
    assert own == shapes | foreign.torchvision_mask_rcnn(False, foreign.R18)


def unrounded(size: int, ratios: tuple[float, ...] = (0.5, 1.0, 2.0)) -> torch.Tensor:
    """Anchors of a cell, in torchvision's order, with the sides that they should have."""
    height_ratios = torch.tensor(ratios).sqrt()
    width, height = size / height_ratios, size * height_ratios
    return torch.stack([-width, -height, width, height], dim=1) / 2


def test_detections_are_those_of_torchvision(small: Callable[..., Recipe]):
    ids = [number for number, _ in COCO]
    model = torchvision_model(91)
    model.rpn.anchor_generator.cell_anchors = [unrounded(size) for size in (32, 64, 128, 256, 512)]
    # The ids without objects stay in the softmax there: here they never win.
    model.roi_heads.box_predictor.cls_score.bias.data[[row for row in range(1, 91) if row not in ids]] = -1e4
    masks: list[torch.Tensor] = []
    model.roi_heads.mask_predictor.register_forward_hook(lambda module, inputs, logits: masks.append(logits))
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(SIDE, SIDE), mode="bilinear")
    pixels = (255 * pixels).round().to(torch.uint8)
    with torch.no_grad():
        theirs = model([pixels[0].float() / 255])[0]

    recipe = small("mask_rcnn_r50_coco", "detector.pyramid_channels=256", "detector.rcnn.channels=1024",
                   "detector.mask.channels=256", "detector.testing.score_threshold=0.02",
                   "detector.testing.per_image=20", "detector.rpn.test_proposals.per_level=40",
                   "detector.rpn.test_proposals.per_image=40")  # fmt: skip
    adaptation = Adaptation()
    from_torchvision.adapt(adaptation, recipe, {}, {})
    recipe = adapted(recipe, adaptation)
    detector = recipe.detector.build(len(ids), pretrained=False).eval()
    detector.load_state_dict(convert(model.state_dict(), recipe))
    ours = detector.detect(Images(pixels, ((SIDE, SIDE),)))[0]

    assert len(ours.scores) == len(theirs["scores"]) > 5
    assert [ids[label] for label in ours.labels.tolist()] == theirs["labels"].tolist()
    torch.testing.assert_close(ours.scores, theirs["scores"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.boxes, theirs["boxes"], atol=1e-2, rtol=1e-3)
    mask_scores = masks[0][torch.arange(len(theirs["labels"])), theirs["labels"]].sigmoid()
    torch.testing.assert_close(ours.masks.scores, mask_scores, atol=1e-3, rtol=1e-3)
