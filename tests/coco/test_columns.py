"""Records that are as they should be are read a key at a time: into the same arrays and findings as one by one."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.coco import Federation, columns, read_ground_truth, read_results, records, results
from rankdet.coco.columns import NotPlain
from rankdet.coco.packed import PackedBytes
from rankdet.coco.parsing import read_columns
from rankdet.structures import InputError

SQUARE = [[10, 10, 50, 10, 50, 50, 10, 50]]
RUNS = {"size": [64, 64], "counts": [4096]}
TRUTH: dict[str, Any] = {
    "images": [{"id": id_, "file_name": f"{id_}.jpg", "height": 64, "width": 64} for id_ in (7, 3)],
    "categories": [{"id": 4, "name": "cat"}, {"id": 1, "name": "dog"}],
    "annotations": [
        {"id": 5, "image_id": 3, "category_id": 4, "bbox": [10, 10, 40, 40.0], "area": 1600, "segmentation": SQUARE},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [1.5, 2, 3, 4], "iscrowd": 1, "segmentation": RUNS},
        {"id": 0, "image_id": 7, "category_id": 4, "bbox": (1, 2, 3, 4), "ignore": 1, "area": None},
    ],
}
FOUND: list[dict[str, Any]] = [
    {"image_id": 3, "category_id": 4, "bbox": [10, 10, 40, 38.5], "score": 0.5},
    {"image_id": 7, "category_id": 1, "bbox": [-1, 2, 3, 0], "score": 1},
]
FLOATS = [
    {"image_id": 3, "category_id": 4, "bbox": [10.0, 10.0, 40.0, 38.5], "score": 0.5},
    {"image_id": 7, "category_id": 1, "bbox": (-1.0, 2.0, 3.0, 0.0), "score": -0.0},
]
ODD = [
    *(None, True, False, 0, 1, 2, 3, 7, -1, 0.0, 1.0, 7.0, 0.5, math.nan, math.inf, -math.inf, 10**30, 10**400, 2**63),
    *(
        "",
        "7",
        "x",
        [],
        [1],
        [1, 2, 3],
        [1, 2, 3, -4],
        [1, 2, 3, math.nan],
        [1, 2, 3, True],
        [1, 2, 3, 2e6],
        "1234",
        {},
    ),
    *([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, -4.0], [1.0, 2.0, 3.0, math.nan], [1.0, 2.0, 3.0, b"12345678"]),
    *([1, 2, 3, 2e9], {1: 1, 2: 2, 3: 3, 4: 4}, (1, 2, 3, 4), np.float64(1.0), np.int64(7), np.array([1.0, 2, 3, 4])),
]
KEYS = (
    "id",
    "image_id",
    "category_id",
    "bbox",
    "area",
    "iscrowd",
    "ignore",
    "score",
    "segmentation",
    "file_name",
    "category_name",
)


SOUND_CODE = rle.encode(np.asfortranarray(np.tri(64, dtype=np.uint8)))
TEXT_CODE = {**SOUND_CODE, "counts": SOUND_CODE["counts"].decode()}
CODES = st.sampled_from(
    [
        *(SOUND_CODE, SOUND_CODE, SOUND_CODE, TEXT_CODE, TEXT_CODE, TEXT_CODE, {**TEXT_CODE, "more": 1}, SQUARE, RUNS),
        rle.encode(np.asfortranarray(np.zeros((64, 64), dtype=np.uint8))),
        *({**TEXT_CODE, "size": size} for size in ((64, 64), [32, 128], [64], [64.0, 64], [True, 64], "64", None)),
        *(
            {**TEXT_CODE, "counts": counts}
            for counts in ("", "0", "PP2", "P", "é", "o" * 20, TEXT_CODE["counts"] + "1", 3)
        ),
        *({**SOUND_CODE, "counts": counts} for counts in (b"", b"0", b"\x00", SOUND_CODE["counts"][:-1], [4095, 1])),
    ]
)


def change(draw: st.DrawFn, rows: list[Any]) -> None:
    """Give some records odd values, or none, or make them something else."""
    for _ in range(draw(st.integers(0, 2))):
        place, key = draw(st.integers(0, len(rows) - 1)), draw(st.sampled_from([*KEYS, None]))
        if key is None:
            rows[place] = draw(st.sampled_from(ODD))
        elif isinstance(rows[place], dict) and draw(st.booleans()):
            rows[place][key] = draw(st.sampled_from(ODD))
        elif isinstance(rows[place], dict):
            rows[place].pop(key, None)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    document = copy.deepcopy(document)
    change(draw, document if isinstance(document, list) else document["annotations"])
    return document


def outcome(read: Callable[[], Any]) -> str:
    """All that a reader says and gives, as a text, for NaN differs from itself."""
    try:
        found, findings = read()
    except InputError as error:
        return str(error)
    return repr([(field.name, shown(getattr(found, field.name))) for field in fields(found)] + findings)


def shown(value: Any) -> Any:
    if isinstance(value, Federation):
        return value.frequencies.tolist(), shown(value.lists)
    if isinstance(value, PackedBytes):
        return [value[row] for row in range(len(value))]
    return (value.dtype, value.tolist()) if isinstance(value, np.ndarray) else value


def never(*_: Any) -> None:
    raise NotPlain


@settings(max_examples=400, deadline=None)
@given(changed(TRUTH), st.booleans(), st.booleans())
def test_annotations_by_keys_are_those_one_by_one(document, masks, crowds_are_objects):
    def read() -> Any:
        return read_ground_truth(document, masks=masks, crowds_are_objects=crowds_are_objects)

    by_keys = outcome(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_plain", never)
        assert outcome(read) == by_keys


@settings(max_examples=400, deadline=None)
@given(
    changed(FOUND) | changed(FLOATS),
    st.booleans(),
    st.sampled_from([None, None, 0, 1]),
    st.booleans(),
    st.lists(CODES, min_size=2, max_size=2),
)
def test_detections_by_keys_are_those_one_by_one(document, only_known, labels_from, masks, codes):
    truth, _ = read_ground_truth(TRUTH)
    if masks:
        document = [
            row | {"segmentation": code} if isinstance(row, dict) else row
            for row, code in zip(document, codes, strict=True)
        ]

    def read() -> Any:
        return read_results(document, truth, masks, only_known, labels_from)

    by_keys = outcome(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "_plain", never)
        assert outcome(read) == by_keys


@settings(max_examples=200, deadline=None)
@given(
    changed(FOUND) | changed(FLOATS) | st.just([]),
    st.booleans(),
    st.sampled_from(["", "é"]),
    st.none() | st.tuples(CODES, CODES, st.booleans()),
)
def test_a_file_by_columns_is_read_as_record_by_record(tmp_path_factory, document, only_known, more, codes):
    pytest.importorskip("msgspec")
    truth, _ = read_ground_truth(TRUTH)
    path = tmp_path_factory.mktemp("found") / "found.json"
    for place, record in enumerate(document):
        if more and isinstance(record, dict):
            record["more"] = more
        if codes is not None and isinstance(record, dict):
            record["segmentation"] = codes[place % 2]
            if not codes[2]:
                record.pop("bbox", None)
    try:
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    except TypeError:  # an array
        return

    def read() -> Any:
        return read_results(path, truth, codes is not None, only_known)

    by_columns = outcome(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "read_columns", lambda *_: None)
        patch.setattr(results, "_plain", never)
        assert outcome(read) == by_columns


def test_a_file_whose_other_values_are_broken_text_is_broken(tmp_path):
    path = tmp_path / "found.json"
    path.write_bytes(json.dumps([FLOATS[0] | {"more": "?"}]).encode().replace(b"?", b"\xff"))
    with pytest.raises(InputError, match="is not valid JSON"):
        read_results(path, read_ground_truth(TRUTH)[0], masks=False)


@pytest.mark.parametrize("key", ["file_name", "category_name"])
def test_a_file_that_names_images_or_classes_is_not_read_by_columns(tmp_path, key):
    path = tmp_path / "found.json"
    path.write_text(json.dumps([FLOATS[0] | {key: "a"}]))
    assert read_columns(path, results.BOX_RECORD, results.OTHER_NAMES) is None


def test_a_plain_file_of_boxes_is_read_by_columns(tmp_path, monkeypatch):
    pytest.importorskip("msgspec")
    monkeypatch.setattr(results, "read_json", never)
    path = tmp_path / "found.json"
    for document in (FOUND, FLOATS):
        path.write_text(json.dumps(document))
        assert len(read_results(path, read_ground_truth(TRUTH)[0], masks=False)[0]) == 2


def test_a_plain_file_of_masks_is_read_by_columns(tmp_path, monkeypatch):
    pytest.importorskip("msgspec")
    monkeypatch.setattr(results, "read_json", never)
    path = tmp_path / "found.json"
    empty = {"size": [64, 64], "counts": "PP4"}
    document = [{"image_id": 3, "category_id": 4, "score": 0.5, "segmentation": empty}]
    path.write_text(json.dumps(document))
    found, findings = read_results(path, read_ground_truth(TRUTH)[0], masks=True)
    assert (len(found), len(findings)) == (1, 1)


def test_plain_numbers_are_read_from_their_bytes(monkeypatch):
    def one_by_one(*_: Any) -> None:
        raise AssertionError("the type of a number was asked for")

    monkeypatch.setattr(columns, "_types", one_by_one)
    assert columns.ids([0, 2**31 - 1]).tolist() == [0, 2**31 - 1]
    assert columns.numbers([0.5, -1.5], 2.0).tolist() == [0.5, -1.5]
    assert columns.boxes([[1.0, 2.0, 3.0, 4.0], (5.0, 6.0, 7.0, 8.0)], 9.0).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("odd", [2**31, True, 1.0, -1, None, "1"])
def test_other_ids_beside_plain_ones_are_as_before(odd):
    if odd == 2**31:
        assert columns.ids([1, odd]).tolist() == [1, odd]
    else:
        with pytest.raises(NotPlain):
            columns.ids([1, odd])


def test_plain_records_are_read_by_keys(monkeypatch):
    def one_by_one(*_: Any) -> None:
        raise AssertionError("a record was looked at alone")

    truth, _ = read_ground_truth(TRUTH)
    monkeypatch.setattr(results, "_problem", one_by_one)
    monkeypatch.setattr(records, "box_problem", one_by_one)
    assert len(read_results(FOUND, truth, masks=False)[0]) == 2
    for code in (SOUND_CODE, TEXT_CODE):
        assert len(read_results([row | {"segmentation": code} for row in FOUND], truth, masks=True)[0]) == 2
    assert len(read_ground_truth(TRUTH)[0].labels) == 3
