"""When two answers are the same.

Legend: D detections of an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rankdet.structures import Detection

RELATIVE = 1e-4


def assert_equal(here: Tensor, there: Tensor, what: str, relative: float = RELATIVE) -> None:
    """All values, within ``relative`` of the largest one there."""
    assert here.shape == there.shape, f"{what}: {tuple(here.shape)} here, {tuple(there.shape)} there"
    if not there.numel():
        return
    difference, size = float((here - there).abs().max()), float(there.abs().max())
    assert difference <= relative * size, f"{what}: {difference:.3g} off, where the largest is {size:.3g}"


def assert_all_equal(here: Mapping[str, Tensor], there: Mapping[str, Tensor], relative: float = RELATIVE) -> None:
    """Each of some named values."""
    assert set(here) == set(there)
    for name, value in there.items():
        assert_equal(here[name], value, name, relative)


def assert_same_rows(here: Tensor, there: Tensor, what: str, tolerance: float) -> Tensor:
    """The same rows (D, n) in any order, one for one; returns for each row there its place here."""
    assert here.shape == there.shape, f"{what}: {tuple(here.shape)} here, {tuple(there.shape)} there"
    if not len(there):
        return torch.zeros(0, dtype=torch.int64)
    distances = (here[None].double() - there[:, None].double()).abs().amax(dim=2)
    nearest, places = distances.min(dim=1)
    assert float(nearest.max()) <= tolerance, f"{what}: a row is {float(nearest.max()):.3g} off"
    if len(places.unique()) < len(there):  # some rows are there twice
        places = torch.from_numpy(linear_sum_assignment(distances)[1])
        paired = float((here[places].double() - there.double()).abs().max())
        assert paired <= tolerance, f"{what}: rows do not pair one for one, the worst are {paired:.3g} apart"
    return places


def assert_same_detections(here: Detection, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """The same boxes, scores and labels up to the order of ties; returns for each one there its place here."""
    # Labels count so much that no other one is near; scores are compared in hundredths of a pixel.
    rows = torch.cat([here.boxes, here.scores[:, None] * 100, here.labels[:, None] * 1e6], dim=1)
    others = torch.cat([boxes, scores[:, None] * 100, labels[:, None] * 1e6], dim=1)
    places = assert_same_rows(rows, others, "detections", tolerance=0.01)
    assert (here.scores.diff() <= 0).all()
    return places
