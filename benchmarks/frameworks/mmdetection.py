"""Detectors of mmdetection 3.3, in the environment of docs/equality.md, with the changes of docs/plugging-in.md.

The small ones are its configurations with the pretrained backbone of the recipes on BCCD and 64 channels, from scratch.
The large ones are the configurations as they are, with random weights. Boxes are always balanced.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rankdet.structures import Batch, Detection, Images

from .interface import Family, lite0, smallest_anchor

# mmcv's wheel without compiled code gets suppression and RoIAlign as in the tests of equality.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "oracle"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import extension

    extension.install()
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmengine.structures import InstanceData

    register_all_modules()
    MMLogger.get_instance("benchmark", log_level="ERROR")  # no word about each weight that is drawn
    from rankdet.adapters.mmdet import calibrate

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
CHANNELS = 64
LEVELS = [40, 112, 320]
RANK_SORT = {"_delete_": True, "type": "RankSortLoss", "use_sigmoid": True}
ALL_CANDIDATES = 1_000_000
Changes = Mapping[str, Any]


@MODELS.register_module()
class Lite0(nn.Module):
    """EfficientNet-Lite0 as mmdetection asks for a backbone."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.body = lite0(pretrained)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Three maps of normalized images (B, 3, H, W)."""
        return tuple(self.body.network(images.contiguous(memory_format=torch.channels_last)))


class MMDetectionDetector:
    """A detector of mmdetection in the form of `interface.Detector`; ``ranking`` are changes of its configuration."""

    def __init__(self, config: Any, ranking: Changes) -> None:
        self._config, self._ranking = config, ranking
        self._randomness = torch.get_rng_state()
        self._build()
        self.threshold = float(self._tests.score_thr)
        self._tests.score_thr = 0.0

    def _build(self) -> None:
        self.network: Any = MODELS.build(self._config.model)
        self.network.init_weights()
        self._tests = (self.network.roi_head if hasattr(self.network, "roi_head") else self.network.bbox_head).test_cfg

    def use_rank_sort(self, boxes: Literal["theirs", "balanced"]) -> None:
        """Build the network anew, from the same random numbers."""
        if boxes != "balanced":
            raise ValueError("these heads of mmdetection have balanced boxes alone")
        self._config.merge_from_dict({f"model.{name}": value for name, value in self._ranking.items()})
        torch.set_rng_state(self._randomness)
        self._build()
        self._tests.score_thr = 0.0

    def loss(self, batch: Batch) -> Tensor:
        """The sum of mmdetection's terms."""
        data = self.network.data_preprocessor(inputs(batch), training=True)
        total, _ = self.network.parse_losses(self.network(**data, mode="loss"))
        loss: Tensor = total
        return loss

    def detect(self, images: Images) -> list[Detection]:
        """Detections above ``score_thr``."""
        samples = self.network.test_step({"inputs": list(images.pixels), "data_samples": samples_of(images)})
        found = [sample.pred_instances for sample in samples]
        return [Detection(each.bboxes, each.scores, each.labels) for each in found]

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Store scale and shift, and set ``score_thr`` again."""
        calibrate(self.network, map(inputs, batches), self.threshold)


def inputs(batch: Batch) -> dict[str, Any]:
    """Images and objects as the loaders of mmdetection have them."""
    samples = samples_of(batch.images)
    for sample, target in zip(samples, batch.targets, strict=True):
        sample.gt_instances = InstanceData(bboxes=target.boxes.clone(), labels=target.labels)
    return {"inputs": list(batch.images.pixels), "data_samples": samples}


def samples_of(images: Images) -> list[Any]:
    """What mmdetection knows of each image."""
    sizes = images.sizes
    return [
        DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}) for size in sizes
    ]


def configured(path: str, changes: Changes) -> Any:
    """A configuration of mmdetection with changes of the model."""
    config = Config.fromfile(CONFIGS / path)
    config.merge_from_dict({f"model.{name}": value for name, value in changes.items()})
    return config


def common(pretrained: bool) -> dict[str, Any]:
    """What makes a configuration small."""
    return {
        "data_preprocessor": {"mean": [127.5] * 3, "std": [127.5] * 3, "bgr_to_rgb": False},
        "backbone": {"_delete_": True, "type": "Lite0", "pretrained": pretrained},
        "neck": {"_delete_": True, "type": "FPN", "in_channels": LEVELS, "out_channels": CHANNELS, "num_outs": 3},
    }


ATSS, FASTER_RCNN = "atss/atss_r50_fpn_1x_coco.py", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
RANKING: dict[str, Changes] = {
    ATSS: {"bbox_head": {"type": "RankSortATSSHead", "loss_cls": RANK_SORT}},
    FASTER_RCNN: {
        "rpn_head": {"type": "RankSortRPNHead", "loss_cls": RANK_SORT},
        "roi_head.bbox_head": {"type": "RankSortShared2FCBBoxHead", "loss_cls": RANK_SORT},
        "train_cfg.rpn.sampler.num": ALL_CANDIDATES,
        "train_cfg.rcnn.sampler.num": ALL_CANDIDATES,
    },
}


def atss(num_classes: int, size: tuple[int, int], pretrained: bool) -> MMDetectionDetector:
    """ATSS on three levels."""
    scale = smallest_anchor(size) // 8
    changes = {
        "bbox_head.num_classes": num_classes,
        "bbox_head.in_channels": CHANNELS,
        "bbox_head.feat_channels": CHANNELS,
        "bbox_head.anchor_generator": {"octave_base_scale": scale, "strides": [8, 16, 32]},
    }
    return MMDetectionDetector(configured(ATSS, common(pretrained) | changes), RANKING[ATSS])


def faster_rcnn(num_classes: int, size: tuple[int, int], pretrained: bool) -> MMDetectionDetector:
    """Faster R-CNN with the samplers and numbers of proposals of the recipes."""
    smallest = smallest_anchor(size)
    changes = {
        "rpn_head.in_channels": CHANNELS,
        "rpn_head.feat_channels": CHANNELS,
        "rpn_head.anchor_generator": {"scales": [smallest // 8], "strides": [8, 16, 32]},
        "roi_head.bbox_roi_extractor": {"out_channels": CHANNELS, "featmap_strides": [8, 16, 32]},
        "roi_head.bbox_roi_extractor.finest_scale": smallest,
        "roi_head.bbox_head": {"in_channels": CHANNELS, "fc_out_channels": 256, "num_classes": num_classes},
        "train_cfg.rpn.sampler.num": 128,
        "train_cfg.rcnn.sampler.num": 128,
        "train_cfg.rpn_proposal.max_per_img": 200,
        "test_cfg.rpn.max_per_img": 200,
    }
    return MMDetectionDetector(configured(FASTER_RCNN, common(pretrained) | changes), RANKING[FASTER_RCNN])


def usual(path: str, _: tuple[int, int]) -> MMDetectionDetector:
    """A detector as configured, without pretrained weights."""
    return MMDetectionDetector(configured(path, {"backbone.init_cfg": None}), RANKING[path])


RATES, FORMS = (5e-4, 1e-3, 2e-3), ("theirs", "rs-balanced")
FAMILIES = {
    "faster_rcnn": Family(faster_rcnn, partial(usual, FASTER_RCNN), RATES, clip=1.0, forms=FORMS),
    "atss": Family(atss, partial(usual, ATSS), RATES, clip=1.0, forms=FORMS),
}
