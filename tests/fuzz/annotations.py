"""Odd annotation files of COCO and LVIS: doctor, data set, evaluation and the readers of large files agree."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from PIL import Image
from tests.coco.test_any_file import CHANGES, SQUARE, changed
from tests.coco.test_columns import outcome
from tests.coco.test_streaming import content
from tests.data.test_index import content as columns_of

from rankdet.coco import index, read_ground_truth, streaming
from rankdet.coco.parsing import read_json
from rankdet.coco.streaming import read_document
from rankdet.data.layouts import Source, find_source
from rankdet.data.sampling import SampleKey
from rankdet.metrics import evaluate
from rankdet.recipes.doctor import diagnose
from rankdet.recipes.schema.data import Data
from rankdet.recipes.schema.recipe import Evaluation
from rankdet.structures import InputError

from .fuzzing import Fuzz, Verdict, refused

FOUND = [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40], "segmentation": [SQUARE], "score": 0.5}]
LVIS = {"neg_category_ids": [], "not_exhaustive_category_ids": []}


class Case(NamedTuple):
    """What is odd in the annotations of a split, whether they have the keys of LVIS, and how they are used."""

    changes: list[tuple[str, int, str | None, Any]]
    split: str
    lvis: bool
    masks: bool
    options: dict[str, bool]


CASES = st.builds(
    Case,
    CHANGES,
    st.sampled_from(["train", "val"]),
    st.booleans(),
    st.booleans(),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("keep_empty", "skip_unreadable", "crowds_are_objects"), st.booleans())
    ),
)


def document(changes: list[tuple[str, int, str | None, Any]], lvis: bool) -> dict[str, Any]:
    """Annotations with these changes."""
    result = changed(changes)
    if lvis:
        result["images"] = [{**LVIS, **row} if isinstance(row, dict) else row for row in result["images"]]
        result["categories"] = [
            {"frequency": "f", **row} if isinstance(row, dict) else row for row in result["categories"]
        ]
    return result


def check(root: Path, case: Case) -> Verdict:
    """A training begins exactly where doctor has no error, and then all can be read and measured."""
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(document(case.changes if split == case.split else [], case.lvis)))
    read_by_parts(root / "annotations" / f"instances_{case.split}.json", case.masks)
    data, evaluation = Data(folder=root, batch_size=1, **case.options), Evaluation()
    diagnosis = diagnose(data, case.masks, evaluation)
    assert "\ud800" not in diagnosis.describe()
    prepared = evaluation.checked(data.prepare(case.masks, evaluation.is_asked))
    has_error = any(finding.severity == "error" for finding in diagnosis.findings)
    try:
        train, validation = prepared.datasets()
        for place in range(len(train)):
            sample = train[SampleKey(place, 1)]
            assert sample.target.boxes.isfinite().all()
            assert (sample.target.masks is not None) == case.masks
    except InputError as error:
        if not has_error:
            raise AssertionError("doctor has no error where a training stops") from error
        return refused(error, root)
    assert not has_error, f"doctor has an error where a training goes on: {diagnosis.describe()}"
    assert validation is not None
    for place in range(len(validation)):
        try:
            validation[SampleKey(place, 1)]
        except InputError as error:  # an image that counts as one without detections
            refused(error, validation.path(place))
            assert any(one.record == f"image {validation.image_ids[place]}" for one in diagnosis.findings)
    evaluate(validation.ground_truth, FOUND, "segm" if case.masks else "bbox", only_known=True)
    return Verdict.ACCEPTED


def read_by_parts(path: Path, masks: bool) -> None:
    """A document that is parsed in parts, and what is read from an index, are those of a plain reader."""
    source = find_source(path, path.parents[1] / "images")
    plain = outcome(lambda: read_ground_truth(read_json(path), masks=masks, files=True, name=str(path)))
    at_once = what_is_read(source, masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "BLOCK", 16)
        assert content(read_document, path) == content(read_json, path)
        assert outcome(lambda: read_ground_truth(path, masks=masks, files=True)) == plain
        patch.setattr(index, "SMALLEST", 1)
        cache = path.parents[1] / "cache"
        patch.setenv("RANKDET_CACHE", str(cache))
        shutil.rmtree(cache, ignore_errors=True)  # that of another case, which would be told
        for _ in range(2):  # made, and mapped
            assert what_is_read(source, masks) == at_once


def what_is_read(source: Source, masks: bool) -> str:
    """All records and findings, or the message, as a text, for NaN differs from itself."""
    try:
        truth, findings = source.read(masks)
    except InputError as error:
        return str(error)
    return repr((columns_of(truth), findings))


def prepare(folder: Path) -> Fuzz:
    """The target, with two images."""
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    for number in (7, 3):
        Image.new("RGB", (100, 80), (number, 90, 40)).save(folder / "images" / f"{number}.png")
    return Fuzz(CASES, partial(check, folder))
