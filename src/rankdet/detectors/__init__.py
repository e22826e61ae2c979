"""Pictures and targets → Candidates; pictures → Detections. One file per detector."""

from rankdet.detectors.faster_rcnn import DetectionSettings, FasterRCNN

__all__ = ["DetectionSettings", "FasterRCNN"]
