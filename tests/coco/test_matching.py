"""Detections of other programs, with names or ids of their own, measure as much as those with the ids of the truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as rle

from rankdet.metrics import evaluate
from rankdet.structures import InputError

NAMES = ["a/000012.jpg", "b/000007.jpg", "street 3.png"]
SQUARES = [[10, 10, 20, 20], [30, 5, 12, 16], [2, 40, 30, 9]]
TRUTH: dict[str, Any] = {
    "images": [{"id": 100 + k, "file_name": name, "width": 64, "height": 64} for k, name in enumerate(NAMES)],
    "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    "annotations": [
        {"id": k + 1, "image_id": 100 + k, "category_id": (5, 9, 5)[k], "bbox": box, "segmentation": [
            [box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3], box[0], box[1] + box[3]]
        ]} for k, box in enumerate(SQUARES)
    ],
}  # fmt: skip
FOUND = [{**row, "score": 0.9 - row["id"] / 10} for row in TRUTH["annotations"]]


def numbers(metrics: Any) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "findings"}


def same(found: Any, **options: Any) -> list[str]:
    """The findings, where the numbers are those of the detections with the ids of the truth."""
    metrics = evaluate(TRUTH, found, **options)
    assert str(numbers(metrics)) == str(numbers(evaluate(TRUTH, FOUND)))
    assert metrics["AP"] == pytest.approx(1)
    return metrics["findings"]


def document(names: list[str], categories: list[tuple[int, str]]) -> dict[str, Any]:
    """What `rankdet detect` and other tools write: images, categories and detections under ids of their own."""
    by_name = {name: id_ for id_, name in categories}
    own = {5: by_name["cat"], 9: by_name["dog"]}
    return {
        "images": [{"id": k, "file_name": name, "height": 64, "width": 64} for k, name in enumerate(names, start=1)],
        "categories": [{"id": id_, "name": name} for id_, name in categories],
        "annotations": [
            {**row, "image_id": row["image_id"] - 99, "category_id": own[row["category_id"]]} for row in FOUND
        ],
    }


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        ["000012.jpg", "000007.jpg", "street 3.png"],
        ["/data/x/a/000012.jpg", "images/b/000007.jpg", "./street 3.png"],
        [r"a\000012.jpg", r"C:\images\b\000007.jpg", "street 3.png"],
        ["a/000012.png", "000007", "street 3.webp"],
    ],
)
@pytest.mark.parametrize("categories", [[(5, "cat"), (9, "dog")], [(0, "cat"), (1, "dog")], [(9, "cat"), (5, "dog")]])
def test_an_object_with_own_ids_is_matched_by_names(names: list[str], categories: list[tuple[int, str]]):
    findings = same(document(names, categories))
    assert len(findings) == (categories[0][0] != 5)
    assert all("matched by name" in line for line in findings)


@pytest.mark.parametrize("key", ["stem", "name", "whole"])
def test_image_ids_that_are_names_of_files_are_names(key: str):
    ids = {
        100 + k: {"stem": Path(name).stem, "name": Path(name).name, "whole": name}[key] for k, name in enumerate(NAMES)
    }
    assert same([{**row, "image_id": ids[row["image_id"]]} for row in FOUND]) == []


def test_numbers_in_names_of_files_are_read_and_said():
    """A tool without ids writes the stem, as a number where it is one: "000012" becomes 12."""
    ids = {100: 12, 101: 7, 102: "street 3"}
    (finding,) = same([{**row, "image_id": ids[row["image_id"]]} for row in FOUND])
    assert "image_id is the number in the name of the file, for 2 images" in finding


def test_a_file_name_beside_an_id_is_what_counts():
    ids = {100: (101, "000012.jpg"), 101: (102, "b/000007.jpg"), 102: (100, "street 3.png")}
    rows = [{**row, "image_id": ids[row["image_id"]][0], "file_name": ids[row["image_id"]][1]} for row in FOUND]
    assert same(rows) == []


def test_ids_of_the_truth_are_ids_though_they_could_be_numbers_of_files():
    truth = {**TRUTH, "images": [{**row, "file_name": f"{201 - row['id']}.jpg"} for row in TRUTH["images"]]}
    assert evaluate(truth, FOUND)["AP"] == pytest.approx(1)
    assert evaluate(truth, FOUND)["findings"] == []


def test_a_name_that_several_images_have_means_none_of_them():
    truth = {**TRUTH, "images": [{**row, "file_name": f"{row['id']}/1.png"} for row in TRUTH["images"]]}
    rows = [{**row, "image_id": f"x/{row['image_id']}/1.png"} for row in FOUND]
    assert evaluate(truth, rows)["AP"] == pytest.approx(1)
    with pytest.raises(InputError, match=r"3 records: several images of the ground truth have the name .*'1\.png'"):
        evaluate(truth, [{**row, "image_id": "1.png"} for row in FOUND])


@pytest.mark.parametrize(("first", "ids"), [(0, {5: 0, 9: 1}), (1, {5: 1, 9: 2})])
def test_category_ids_that_count_classes_are_never_guessed(first: int, ids: dict[int, int]):
    rows = [{**row, "category_id": ids[row["category_id"]]} for row in FOUND]
    with pytest.raises(InputError, match=rf"3 records: unknown category_id .*--labels-from {first} .*--only-known"):
        evaluate(TRUTH, rows)
    assert same(rows, labels_from=first) == []
    with pytest.raises(InputError, match="unknown category_id"):
        evaluate(TRUTH, rows, labels_from=7)
    with pytest.raises(InputError, match="names its own categories: leave out --labels-from"):
        evaluate(TRUTH, document(NAMES, [(0, "cat"), (1, "dog")]), labels_from=first)


def test_names_of_categories_in_the_records_are_what_counts():
    """As sahi writes them, whose category ids are those of the model."""
    names = {5: "cat", 9: "dog"}
    rows = [{**row, "category_id": 2, "category_name": names[row["category_id"]]} for row in FOUND]
    (finding,) = same(rows)
    assert "matched by name" in finding
    assert same([{**row, "category_id": names[row["category_id"]]} for row in FOUND]) == []


@pytest.mark.parametrize("change", [{"image_id": 7}, {"category_id": 6}, {"image_id": "other.jpg"}])
def test_what_the_truth_does_not_have_is_refused_or_left_out_and_counted(change: dict[str, Any]):
    rows = [*FOUND, {**FOUND[0], **change}, {**FOUND[1], **change}]
    with pytest.raises(InputError, match=r"2 records: .*--only-known \(only_known=True\) leaves such detections out"):
        evaluate(TRUTH, rows)
    (finding,) = same(rows, only_known=True)
    assert finding.startswith("warning: detections: each of 2 records: ")
    assert ": left out (detection" in finding


def test_images_that_a_file_does_not_name_are_counted():
    found = document(NAMES, [(5, "cat"), (9, "dog")])
    found["images"] = found["images"][:1]
    found["annotations"] = found["annotations"][:1]
    (finding,) = evaluate(TRUTH, found)["findings"]
    assert "2 of 3 images of the ground truth are not in the file and count as images without detections" in finding


def forms(row: dict[str, Any]) -> dict[str, Any]:
    """A segmentation in all forms that COCO knows."""
    x, y, width, height = row["bbox"]
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[y : y + height, x : x + width] = 1
    code = rle.encode(np.asfortranarray(pixels))
    counts = [0, *np.diff(np.flatnonzero(np.diff(np.r_[0, pixels.T.ravel(), 0])), prepend=0).tolist()][1:]
    return {
        "polygons": row["segmentation"],
        "bytes": code,
        "text": {"size": [64, 64], "counts": bytes(code["counts"]).decode()},
        "list": {"size": [64, 64], "counts": [*counts, 64 * 64 - sum(counts)]},
    }


@pytest.mark.parametrize("form", ["polygons", "bytes", "text", "list"])
def test_masks_of_every_form_measure_alike_with_and_without_boxes(form: str):
    rows = [{**row, "segmentation": forms(row)[form]} for row in FOUND]
    alone = [{name: value for name, value in row.items() if name != "bbox"} for row in rows]
    for found in (rows, alone):
        assert evaluate(TRUTH, found, "segm")["AP"] == pytest.approx(1)
    assert same(alone) == []  # the box of a mask where there is no other


def test_a_truth_without_names_is_matched_by_id():
    """As torchmetrics writes both files."""
    truth = {**TRUTH, "images": [{"id": row["id"]} for row in TRUTH["images"]]}
    assert evaluate(truth, FOUND)["AP"] == pytest.approx(1)
    with pytest.raises(InputError, match="unknown image_id"):
        evaluate(truth, [{**row, "image_id": "000012"} for row in FOUND])


def test_a_file_says_the_same_as_its_content(tmp_path: Path):
    found = document(NAMES, [(1, "cat"), (2, "dog")])
    (tmp_path / "found.json").write_text(json.dumps(found))
    (finding,) = same(tmp_path / "found.json")
    assert "found.json: other category ids than in the ground truth: matched by name" in finding
