"""Annotations are read a part at a time: to the same records, findings and messages as all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.coco.test_any_file import ODD, SOUND, changed
from tests.coco.test_columns import outcome

from rankdet.coco import read_ground_truth, streaming
from rankdet.coco.parsing import read_json
from rankdet.coco.streaming import Rows, parts_of, read_document
from rankdet.structures import InputError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('ab"\\[]{},é\n'),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text('a"\\[]{},'), values, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["annotations", "images", 'x"annotations', "a,[", "info"])
pytestmark = pytest.mark.usefixtures("small_blocks")
FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", 16)


def content(read: Any, path: Path) -> str:
    """What a reader returns or raises, as a text, for NaN differs from itself."""
    try:
        document = read(path)
        if isinstance(document, dict) and isinstance(document.get("annotations"), Rows):
            rows = document["annotations"]
            assert len(list(rows)) == len(rows) == sum(map(len, parts_of(rows)))
            document["annotations"] = list(rows)
        return repr(document)
    except InputError as error:
        return str(error)


@settings(FIXTURES, max_examples=150)
@given(st.dictionaries(KEYS, st.lists(VALUES, max_size=4) | VALUES, max_size=4) | VALUES, st.sampled_from([None, 1]))
def test_a_document_is_that_of_a_reader_of_the_whole(tmp_path, document, indent):
    path = tmp_path / "document.json"
    path.write_text(json.dumps(document, indent=indent))
    assert content(read_document, path) == content(read_json, path)


@settings(FIXTURES, max_examples=150)
@given(st.data())
def test_broken_text_is_told_as_by_a_reader_of_the_whole(tmp_path, data):
    text = json.dumps(SOUND | {"annotations": SOUND["annotations"][:2]}).encode()
    place = data.draw(st.integers(0, len(text)))
    text = (
        text[:place]
        + data.draw(st.sampled_from([b"", b",", b"]", b"[", b'"', b"\\", b"\xff", b"}"]))
        + text[place + data.draw(st.sampled_from([0, 1, 1, len(text)])) :]
    )
    path = tmp_path / "document.json"
    path.write_bytes(text)
    assert content(read_document, path) == content(read_json, path)


def test_the_last_of_two_sections_counts(tmp_path):
    path = tmp_path / "document.json"
    for text in ('{"annotations": [1, 2], "annotations": [3]}', '{"annotations": [1], "annotations": null}'):
        path.write_text(text)
        assert content(read_document, path) == content(read_json, path)


@settings(FIXTURES, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["id", "bbox", "area", None]), st.sampled_from(ODD))),
    st.booleans(),
)
def test_records_of_parts_are_those_of_all_at_once(tmp_path, changes, masks):
    document = changed([("annotations", *change) for change in changes])
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document))
    parsed = read_json(path)
    assert outcome(lambda: read_ground_truth(path, masks=masks)) == outcome(
        lambda: read_ground_truth(parsed, masks=masks, name=str(path))
    )


def test_an_id_that_occurs_in_another_part_is_told_where_it_is(tmp_path):
    rows = [{"id": id_, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]} for id_ in (5, 6, 5, "6", 9)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(SOUND | {"annotations": rows}))
    truth, findings = read_ground_truth(path)
    assert truth.annotation_ids.tolist() == [5, 6, 10, 11, 9]
    assert [(one.record, one.problem) for one in findings] == [
        ("annotation 5", "id occurs before: it gets another"),
        ("annotation '6'", "id is a str: read as a whole number"),
        ("annotation '6'", "id occurs before: it gets another"),
    ]


def test_what_is_no_object_is_told_once_beside_an_id_that_occurs_twice(tmp_path):
    row = {"id": 5, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(SOUND | {"annotations": [row, "x", row]}))
    assert [one.problem for one in read_ground_truth(path)[1]] == [
        "is not an object: left out",
        "id occurs before: it gets another",
    ]


def test_a_file_that_changes_under_its_reader_is_an_input_error(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(SOUND))
    rows = read_document(path)["annotations"]
    assert isinstance(rows, Rows)
    path.write_text(
        json.dumps({"annotations": SOUND["annotations"][:1], "images": [], "categories": [], "more": " " * 999})
    )
    with pytest.raises(InputError, match=r"truth\.json: has changed while it was read"):
        list(rows)
