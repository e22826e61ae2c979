"""AP against pycocotools and oLRP against a plain loop, class by class, on random sets of boxes and masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import strategies as st
from tests.metrics.lrp_definition import lrp_of_classes, run_lengths
from tests.metrics.test_evaluate import SUMMARY, official, random_set
from tests.metrics.test_matching import SIDE, data_sets

from rankdet.metrics import IouType, evaluate

from .fuzzing import Fuzz, Verdict

PARTS = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")


class Case(NamedTuple):
    """Objects and detections, or the seed of a larger set; what is compared; how many detections of an image count."""

    data: tuple[dict[str, Any], list[dict[str, Any]]] | int
    iou_type: IouType
    cap: int


def with_areas(data: tuple[dict[str, Any], list[dict[str, Any]]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As pycocotools needs them: areas, ids from 1 on (it takes 0 for no match), detections with boxes or masks."""
    truth, found = data
    rows = [{"area": row["bbox"][2] * row["bbox"][3]} | row | {"id": row["id"] + 1} for row in truth["annotations"]]
    if any("segmentation" in row for row in found):
        found = [{key: value for key, value in row.items() if key != "bbox"} for row in map(as_run_lengths, found)]
    return truth | {"annotations": rows}, found


def as_run_lengths(row: dict[str, Any]) -> dict[str, Any]:
    """A detection whose mask is as pycocotools takes it from a file."""
    code = run_lengths(row["segmentation"], (SIDE, SIDE))
    return row | {"segmentation": {**code, "counts": code["counts"].decode()}}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few objects and detections that compete, or images with more of them: crowds, ties, empty images, odd areas."""
    iou_type = draw(st.sampled_from(["bbox", "bbox", "segm"]))
    few = data_sets(iou_type == "segm", st.just(False)).map(with_areas)
    data = draw(st.one_of(few, few, few, st.integers(0, 2**32 - 1)))
    return Case(data, cast(IouType, iou_type), draw(st.sampled_from([100, 100, 1, 2, 10])))


def check(case: Case) -> Verdict:
    """The numbers of both."""
    data, iou_type, cap = case
    truth, found = random_set(data, iou_type) if isinstance(data, int) else data
    result = evaluate(truth, found, iou_type, max_detections=cap)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    if found:  # of none pycocotools makes no numbers
        expected = official(truth, found, iou_type, cap)
        for name in SUMMARY if cap == 100 else ():
            number = math.nan if expected[name] == -1 else expected[name]
            assert result[name] == pytest.approx(number, rel=0, abs=1e-12, nan_ok=True), name
        for name in names.values():
            number = expected["per_class_AP"].get(name, math.nan)
            assert result["per_class"][name]["AP"] == pytest.approx(number, rel=0, abs=1e-12, nan_ok=True), name
    for category, (*parts, threshold, objects) in lrp_of_classes(truth, found, iou_type, cap).items():
        ours = result["per_class"][names[category]]
        assert ours["ground_truths"] == objects, names[category]
        assert ours["oLRP"] == pytest.approx(parts[0], rel=0, abs=1e-9, nan_ok=True), names[category]
        if ours["threshold"] == threshold:  # of two equal cuts either may be the lower one in its last bit
            values = [ours[part] for part in PARTS]
            assert values == pytest.approx(parts, rel=0, abs=1e-9, nan_ok=True), names[category]
    return Verdict.ACCEPTED


def prepare(folder: Path) -> Fuzz:
    """The target; it needs no files."""
    return Fuzz(cases(), check)
