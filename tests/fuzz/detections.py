"""Files of detections with odd values: measured or refused, and where pycocotools takes one as well, to the same AP."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from tests.coco.test_columns import CODES, FLOATS, FOUND, SOUND_CODE, TEXT_CODE, TRUTH, changed
from tests.metrics.test_evaluate import SUMMARY, official

from rankdet.metrics import evaluate
from rankdet.structures import InputError

from .fuzzing import Fuzz, Verdict, refused

OBJECTS = TRUTH | {
    "annotations": [
        {"iscrowd": 0, **row, "area": row["bbox"][2] * row["bbox"][3], "segmentation": TEXT_CODE}
        | {"id": row["id"] + 1}  # pycocotools takes 0 for no match
        for row in TRUTH["annotations"]
    ]
}


class Case(NamedTuple):
    """The content of a file, and how it is measured."""

    document: Any
    masks: bool
    only_known: bool
    labels_from: int | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Detections with a few odd values, in a list or in an object with images and categories of its own."""
    document: Any = draw(changed(FOUND) | changed(FLOATS))
    masks = draw(st.booleans())
    if masks:
        document = [
            row | {"segmentation": draw(st.just(TEXT_CODE) | CODES)} if isinstance(row, dict) else row
            for row in document
        ]
    if draw(st.integers(0, 5)) == 0:
        document = {"annotations": document} | draw(
            st.sampled_from([{}, {"images": TRUTH["images"], "categories": TRUTH["categories"]}, {"images": None}])
        )
    return Case(document, masks, draw(st.booleans()), draw(st.sampled_from([None, None, None, 0, 1])))


def check(path: Path, case: Case) -> Verdict:
    """A measurement, or a message that names the file."""
    source: Any = path
    try:
        path.write_text(json.dumps(case.document))
    except TypeError:  # what JSON does not have is handed over as it is
        source = copy.deepcopy(case.document)
    try:
        result = evaluate(
            OBJECTS,
            source,
            "segm" if case.masks else "bbox",
            only_known=case.only_known,
            labels_from=case.labels_from,
        )
    except InputError as error:
        return refused(error, path if source is path else "detections")
    if source is path and case.labels_from is None and is_for_pycocotools(case):
        try:
            expected = official(OBJECTS, case.document, "segm" if case.masks else "bbox")
        except Exception:
            return Verdict.ACCEPTED
        for name in SUMMARY:
            number = math.nan if expected[name] == -1 else expected[name]
            assert result[name] == pytest.approx(number, rel=0, abs=1e-12, nan_ok=True), name
    return Verdict.ACCEPTED


def is_for_pycocotools(case: Case) -> bool:
    """Whether it is a list that pycocotools understands alike, and whose masks are sound.

    It does not know names of files and of classes, and does not look at what its own code in C reads.
    """
    rows = case.document if isinstance(case.document, list) else []
    if any(isinstance(row, dict) and ("file_name" in row or "category_name" in row) for row in rows):
        return False
    sound = [TEXT_CODE, SOUND_CODE]
    return bool(rows) and (not case.masks or all(isinstance(r, dict) and r.get("segmentation") in sound for r in rows))


def prepare(folder: Path) -> Fuzz:
    """The target."""
    return Fuzz(cases(), partial(check, folder / "found.json"))
