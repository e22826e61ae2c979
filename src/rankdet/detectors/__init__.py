"""Pictures and targets → Candidates; pictures → Detections. One file per detector."""

from rankdet.detectors.detection import DetectionSettings
from rankdet.detectors.faster_rcnn import FasterRCNN
from rankdet.detectors.mask_rcnn import MaskRCNN

__all__ = ["DetectionSettings", "FasterRCNN", "MaskRCNN"]
