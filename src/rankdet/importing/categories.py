"""Categories of a foreign checkpoint: ids and names of its labels, and the change of their order.

Legend: C classes, A anchors per cell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from torch import Tensor

from rankdet.structures import InputError

from .rules import is_under, listed, picked

Category = tuple[int, str]
"""Pair of id and name."""

_FILE = resources.files("rankdet.importing").joinpath("coco_categories.json")
COCO: tuple[Category, ...] = tuple((id_, name) for id_, name in json.loads(_FILE.read_text(encoding="utf-8")))
"""The 80 categories of COCO, in the order of their ids, which is that of the labels in all known code."""

CLASS_INNERMOST = {
    "rcnn.head.classifier": "rcnn",
    "stages.0.head.classifier": "rcnn1",
    "stages.1.head.classifier": "rcnn2",
    "stages.2.head.classifier": "rcnn3",
    "dense.head.classifier": "dense",
    "head.classifier": "dense",
    "grid.head.classifier": None,
    "mask.head.classifier": None,
    "semantic.classifier": None,
    "decoder.selector.classifier": None,
    "decoder.predictors.classifier": None,
}
"""Layers with rows for C classes, and perhaps the background at the end, for each anchor of a cell; and the head that
knows if there is a background. Predictors of a decoder have numbers in their names."""
CLASS_EMBEDDING = "denoising.embedding"
"""Layer with a row for each of C classes, and one for no class at the end."""
CLASS_OUTERMOST = ("rcnn.head.regressor",)
"""Layers with four rows of deltas for each of C classes, or four for all classes, which have no order."""


def named_categories(
    num_classes: int, names: Sequence[str] | None, folder: Sequence[Category] | None
) -> tuple[list[Category], list[int], str]:
    """Return the categories of C labels, their rows in the checkpoint, and in words how they were found.

    ``names`` are those of the labels in the checkpoint, None if it has none. ``folder`` has the categories of a data
    set, sorted by id, or is None.

    Raises
    ------
    InputError
        When the categories are not known, or the data set has others, which the message names.

    Examples
    --------
    >>> named_categories(2, ["dog", "cat"], [(1, "cat"), (2, "dog")])
    ([(1, 'cat'), (2, 'dog')], [1, 0], 'of the data folder, found by their names, in another order')
    """
    unchanged = list(range(num_classes))
    if names is not None and len({plain(name) for name in names}) != num_classes:
        raise InputError(f"the file names {len(set(names))} different classes, and its tensors have {num_classes}")
    if folder is None:
        coco = [plain(name) for _, name in COCO]
        if names is None and num_classes == len(COCO):
            return list(COCO), unchanged, "the 80 of COCO, by their number: the file names none"
        if names is None:
            raise InputError(
                f"the file does not name its {num_classes} classes: name a folder in COCO format with --data"
            )
        if [plain(name) for name in names] == coco:
            return list(COCO), unchanged, "the 80 of COCO, by their names"
        return list(enumerate(names, start=1)), unchanged, "named by the file, which has no ids: they count from 1"
    if len(folder) != num_classes:
        raise InputError(f"the file has {num_classes} classes, and the data folder {len(folder)}")
    if names is None:
        return list(folder), unchanged, "of the data folder, in the order of their ids: the file names none"
    own, theirs = [plain(name) for _, name in folder], [plain(name) for name in names]
    if sorted(own) != sorted(theirs):
        only = listed("only in the file", [name for name in theirs if name not in own])
        others = listed("only in the data folder", [name for name in own if name not in theirs])
        raise InputError(f"the classes of the file are not those of the data folder: {'; '.join([*only, *others])}")
    order = [theirs.index(name) for name in own]
    moved = "" if order == unchanged else ", in another order"
    return list(folder), order, f"of the data folder, found by their names{moved}"


def plain(name: str) -> str:
    """Return a name in the form in which names are compared; mmdetection 1.x writes spaces as underscores.

    Examples
    --------
    >>> plain("Traffic_light")
    'traffic light'
    """
    return name.replace("_", " ").lower()


def reordered(weights: Mapping[str, Tensor], order: Sequence[int], heads: Mapping[str, bool]) -> dict[str, Tensor]:
    """Reorder the weights of a detector, so that its label i is the former label ``order[i]``.

    ``heads`` has True for each head with a background logit.

    Examples
    --------
    Two classes and the background, which stays last:

    >>> import torch
    >>> reordered({"rcnn.head.classifier.bias": torch.tensor([0, 1, 9])}, [1, 0], {"rcnn": True})
    {'rcnn.head.classifier.bias': tensor([1, 0, 9])}
    """
    return {name: _reordered(name, tensor, order, heads) for name, tensor in weights.items()}


def _reordered(name: str, tensor: Tensor, order: Sequence[int], heads: Mapping[str, bool]) -> Tensor:
    num_classes = len(order)
    if is_under(name, CLASS_OUTERMOST) and len(tensor) == 4 * num_classes:
        return picked(tensor, order, per_row=4)
    if is_under(name, [CLASS_EMBEDDING]):
        return picked(tensor, [*order, num_classes])
    layer = re.sub(r"predictors\.\d+", "predictors", name.rpartition(".")[0])
    if layer not in CLASS_INNERMOST:
        return tensor
    head = CLASS_INNERMOST[layer]
    period = num_classes + (head is not None and heads[head])
    rows = [*order, *range(num_classes, period)]
    return picked(tensor, [start + row for start in range(0, len(tensor), period) for row in rows])
