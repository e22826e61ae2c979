"""Everything that travels between packages: files → Batch → Candidates → LossOutput; Batch → Detection.

Boxes are ``(x1, y1, x2, y2)`` in pixels, width = x2 − x1. Labels are ``0 … C−1``, background ``C``, ignored ``−1``.
"""

from rankdet.structures.archives import check_archive
from rankdet.structures.batches import Batch, Images, Source, Target
from rankdet.structures.candidates import IGNORED, Assignment, Candidates, LossOutput, Matched, check_matched, is_class
from rankdet.structures.detections import Detection
from rankdet.structures.errors import DamagedError, DivergenceError, InputError
from rankdet.structures.masks import MaskScores, MaskWindow, Outlines
from rankdet.structures.words import counted

__all__ = [
    "IGNORED",
    "Assignment",
    "Batch",
    "Candidates",
    "DamagedError",
    "Detection",
    "DivergenceError",
    "Images",
    "InputError",
    "LossOutput",
    "MaskScores",
    "MaskWindow",
    "Matched",
    "Outlines",
    "Source",
    "Target",
    "check_archive",
    "check_matched",
    "counted",
    "is_class",
]
