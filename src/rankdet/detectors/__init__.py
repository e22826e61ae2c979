"""Images and targets → Candidates; images → Detections. One file per detector."""

from rankdet.extras import require

require(__name__)

from rankdet.detectors.atss import ATSS
from rankdet.detectors.cascade_rcnn import CascadeRCNN
from rankdet.detectors.dense import DenseDetector
from rankdet.detectors.detection import DetectionSettings
from rankdet.detectors.faster_rcnn import FasterRCNN
from rankdet.detectors.mask_rcnn import MaskRCNN
from rankdet.detectors.paa import PAA
from rankdet.detectors.rt_detr import RTDETR, QueryDetectionSettings
from rankdet.detectors.solov2 import MaskDetectionSettings, SOLOv2
from rankdet.detectors.yolact import YOLACT

__all__ = [
    "ATSS",
    "PAA",
    "RTDETR",
    "YOLACT",
    "CascadeRCNN",
    "DenseDetector",
    "DetectionSettings",
    "FasterRCNN",
    "MaskDetectionSettings",
    "MaskRCNN",
    "QueryDetectionSettings",
    "SOLOv2",
]
