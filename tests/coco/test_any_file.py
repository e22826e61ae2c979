"""Whatever a file holds, reading and measuring it gives findings or an InputError, and no other exception."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.coco import grouped, raise_errors, read_ground_truth
from rankdet.data.usable import is_usable, unlearnable
from rankdet.metrics import evaluate
from rankdet.structures import InputError

SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7.0, 0.5, 10**400, 2**63, float("nan"), float("inf"), -0.0),
    *("", "7", "1.5", "x", "\ud800", "a/b.png", "../b", "²", "٣"),
    *([], {}, [[]], [1], [1, 2], [1, 2, 3, 4], ["1"] * 4, [None] * 4, [[1, 2, 3, 4]], [[1, 2]] * 3, [SQUARE], SQUARE),
    *([[1, 2, 3, 4, 5, float("nan")]], [[0, 0, 10**400, 0, 5, 5]], [[[1, 2]] * 3], [{}], [{"counts": [1]}]),
    *(
        {"counts": "zz"},
        {"size": None, "counts": []},
        {"size": [80, 100], "counts": [8000]},
        {"exterior": [[1, 2]] * 3},
    ),
    *(
        {"size": [80, 100], "counts": 5},
        {"size": [80, 100], "counts": [0, 8000]},
        {"shape": [80, 100], "counts": [8000]},
    ),
]
KEYS = {
    "images": ["id", "file_name", "width", "height", "coco_url", "neg_category_ids", "not_exhaustive_category_ids"],
    "categories": ["id", "name", "frequency"],
    "annotations": ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation"],
}
SOUND = {
    "images": [{"id": id_, "file_name": f"{id_}.png", "width": 100, "height": 80} for id_ in (7, 3)],
    "categories": [{"id": 4, "name": "dog"}, {"id": 1, "name": "cat"}],
    "annotations": [
        {"id": id_, "image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "segmentation": [SQUARE]}
        for id_ in (1, 2, 3)
    ],
}
CHANGES = st.lists(
    st.sampled_from(sorted(KEYS)).flatmap(
        lambda part: st.tuples(
            st.just(part), st.integers(0, 2), st.sampled_from([*KEYS[part], None]), st.sampled_from(ODD)
        )
    ),
    min_size=1,
    max_size=6,
)


def changed(changes: list[tuple[str, int, str | None, Any]]) -> dict[str, Any]:
    document = copy.deepcopy(SOUND)
    for part, place, key, value in changes:
        rows: list[Any] = document[part]
        place, value = place % len(rows), copy.deepcopy(value)
        if key is None:
            rows[place] = value
        elif isinstance(rows[place], dict):
            rows[place][key] = value
    return document


@settings(max_examples=400, deadline=None)
@given(CHANGES, st.booleans(), st.booleans(), st.booleans())
def test_any_record_gives_findings_and_sound_columns(changes, files, masks, lvis):
    document = changed(changes)
    try:
        truth, findings = read_ground_truth(document, files=files, masks=masks, lvis=lvis)
    except InputError:
        return
    lines = grouped(findings)
    assert all("\n" not in line and len(line) < 1000 for line in lines)
    assert len(set(truth.annotation_ids.tolist())) == len(truth.labels) == len(truth.places)
    assert np.isfinite(truth.boxes).all()
    assert (truth.boxes[:, 2:] >= 0).all()
    assert document == changed(changes) or "nan" in repr(document)  # it is the caller's
    if files:
        assert is_usable(truth, masks=masks).sum() <= len(truth.labels)
        unlearnable(truth, masks)


@settings(max_examples=200, deadline=None)
@given(CHANGES, st.sampled_from(["bbox", "segm"]))
def test_any_file_is_measured_or_an_input_error(changes, iou_type):
    document = changed(changes)
    found = [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40], "segmentation": [SQUARE], "score": 0.5}]
    truth: Any = None
    try:
        truth, findings = read_ground_truth(document, masks=iou_type == "segm")
        raise_errors(findings)
        metrics = evaluate(truth, found, iou_type, only_known=True)
    except InputError:
        return
    assert set(metrics["per_class"]) == set(truth.names)
    matched, _ = truth.with_categories([(1, "cat"), (9, "cow")])
    evaluate(matched, found, iou_type, only_known=True)


@pytest.mark.parametrize("content", [5, "text", None, [], [[]], [{}], {}])
@pytest.mark.parametrize("part", ["images", "categories"])
def test_a_section_with_nothing_sound_is_an_input_error(content, part):
    with pytest.raises(InputError):
        raise_errors(read_ground_truth(SOUND | {part: content}, files=True)[1])
