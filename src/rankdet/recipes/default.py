"""The recipe of who names none, for training and doctor alike."""

from __future__ import annotations

from rankdet.data.layouts.coco import has_segmentations
from rankdet.recipes.schema.data import Data
from rankdet.structures import InputError

BOXES = "rs_faster_rcnn_lite0"
"""The recipe where none is named: small, for boxes."""
MASKS = "rs_mask_rcnn_lite0"
"""Its form for masks."""


def said_of_default(data: Data | None) -> str:
    """One line: which recipe is taken where none is named, and which learns masks where the annotations have some.

    Without ``data``, as where the caller has data sets of their own, no annotations are looked at. Those that cannot be
    read are left to the training, which tells what is wrong with them.
    """
    said = f"no recipe is named: {BOXES} is taken, a small one for boxes"
    return f"{said}; the objects have masks, which {MASKS} learns" if data is not None and _has_masks(data) else said


def _has_masks(data: Data) -> bool:
    """Whether an object to learn from has a segmentation, sound or not."""
    try:
        source = data.find_source(data.train_split)
        if source.document is None:
            return has_segmentations(source.annotations)  # the file may be large, and the training reads it anyway
        document, _ = source.document()
    except (InputError, OSError, ValueError):
        return False
    return any(row.get("segmentation") for row in document["annotations"])
