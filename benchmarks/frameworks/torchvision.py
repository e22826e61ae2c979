"""Detectors of torchvision.

The small ones have the pretrained backbone, anchors and widths of the recipes on BCCD; all else is from scratch. The
large ones are torchvision's models of ResNet-50.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from rankdet.adapters.torchvision import calibrate, plain, use_rank_sort
from rankdet.structures import Batch, Detection, Images

from .interface import CLASSES, Family, lite0, smallest_anchor

CHANNELS, HIDDEN = 64, 256


class TorchvisionDetector:
    """A detector of torchvision in the form of `interface.Detector`."""

    def __init__(self, network: Any) -> None:
        self.network: nn.Module = network
        self._scored = getattr(network, "roi_heads", network)
        self.threshold = float(self._scored.score_thresh)
        self._scored.score_thresh = 0.0

    def use_rank_sort(self, boxes: Literal["theirs", "balanced"]) -> None:
        """Change the losses."""
        use_rank_sort(self.network, boxes=boxes)

    def loss(self, batch: Batch) -> Tensor:
        """The sum of torchvision's terms."""
        return torch.stack(list(self.network(*inputs(batch)).values())).sum()

    def detect(self, images: Images) -> list[Detection]:
        """Detections above ``score_thresh``."""
        found = self.network(list(images.pixels / 255))
        return [Detection(each["boxes"], each["scores"], each["labels"] - 1) for each in found]

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Store scale and shift, and detect as the plain model from then on, as it is deployed."""
        calibrate(self.network, map(inputs, batches), self.threshold)
        self.network = plain(self.network)


def inputs(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images and objects as torchvision takes them: pixels in 0 … 1, and the background is class 0."""
    targets = [{"boxes": target.boxes, "labels": target.labels + 1} for target in batch.targets]
    return list(batch.images.pixels / 255), targets


class Pyramid(nn.Module):
    """EfficientNet-Lite0 and torchvision's feature pyramid of its maps, with strides 8, 16 and 32."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.body = lite0(pretrained)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels), CHANNELS)
        self.out_channels = CHANNELS

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Three maps of normalized images (B, 3, H, W)."""
        maps = self.body.network(images.contiguous(memory_format=torch.channels_last))
        found: OrderedDict[str, Tensor] = self.fpn(OrderedDict(zip("012", maps, strict=True)))
        return found


def sized(size: tuple[int, int]) -> dict[str, Any]:
    """Arguments for images that have this size already and are normalized as the backbone was pretrained."""
    return {"min_size": min(size), "max_size": max(size), "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def anchors(size: tuple[int, int], per_octave: int = 1) -> AnchorGenerator:
    """Anchors of three levels and three ratios; those of a level have ``per_octave`` sizes."""
    sides = [smallest_anchor(size) << level for level in range(3)]
    sizes = tuple(tuple(round(side * 2 ** (step / per_octave)) for step in range(per_octave)) for side in sides)
    return AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)


def faster_rcnn(num_classes: int, size: tuple[int, int], pretrained: bool) -> TorchvisionDetector:
    """Faster R-CNN with the samplers and numbers of proposals of the recipes."""
    network = FasterRCNN(
        Pyramid(pretrained),
        rpn_anchor_generator=anchors(size),
        rpn_pre_nms_top_n_train=1000,
        rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=200,
        rpn_batch_size_per_image=128,
        box_batch_size_per_image=128,
        # RoIs of up to two sides of the smallest anchors are pooled from the finest map.
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2, canonical_scale=2 * smallest_anchor(size)),
        box_head=TwoMLPHead(CHANNELS * 7 * 7, HIDDEN),
        box_predictor=FastRCNNPredictor(HIDDEN, num_classes + 1),
        **sized(size),
    )
    return TorchvisionDetector(network)


def retinanet(num_classes: int, size: tuple[int, int], pretrained: bool) -> TorchvisionDetector:
    """RetinaNet with nine anchors in each place, and group normalization in its head, as in torchvision's newer one."""
    generator = anchors(size, per_octave=3)
    norm = partial(nn.GroupNorm, 8)
    head = RetinaNetHead(CHANNELS, generator.num_anchors_per_location()[0], num_classes + 1, norm_layer=norm)
    network = RetinaNet(Pyramid(pretrained), num_classes + 1, anchor_generator=generator, head=head, **sized(size))
    return TorchvisionDetector(network)


def fcos(num_classes: int, size: tuple[int, int], pretrained: bool) -> TorchvisionDetector:
    """FCOS, whose levels have objects of 4 to 8 times the side of the one anchor in each place."""
    sides = [smallest_anchor(size) // 4 << level for level in range(3)]
    generator = AnchorGenerator(tuple((side,) for side in sides), ((1.0,),) * 3)
    network = FCOS(Pyramid(pretrained), num_classes + 1, anchor_generator=generator, **sized(size))
    return TorchvisionDetector(network)


def usual(build: Callable[..., nn.Module]) -> Callable[[tuple[int, int]], TorchvisionDetector]:
    """Makes one of torchvision's models."""

    def large(size: tuple[int, int]) -> TorchvisionDetector:
        return TorchvisionDetector(build(weights_backbone=None, num_classes=CLASSES + 1, **sized(size)))

    return large


RATES = (5e-4, 1e-3, 2e-3)
FAMILIES = {
    "faster_rcnn": Family(faster_rcnn, usual(detection.fasterrcnn_resnet50_fpn), RATES, clip=1.0),
    "retinanet": Family(retinanet, usual(detection.retinanet_resnet50_fpn), RATES, clip=1.0),
    "fcos": Family(fcos, usual(detection.fcos_resnet50_fpn), RATES, clip=1.0),
}
