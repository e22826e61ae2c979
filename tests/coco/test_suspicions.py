"""What is odd about all annotations of a file together is said once, and nothing is said of sound sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rankdet.coco import grouped, read_ground_truth
from rankdet.data.usable import is_usable
from rankdet.metrics import evaluate


def rows_of(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Objects of different sizes with polygons and areas, in the upper left quarter of images."""
    rng = np.random.default_rng(seed)
    rows = []
    for id_ in range(number):
        x, y, width, height = (*rng.integers(2, 40, 2).tolist(), *rng.integers(8, 40, 2).tolist())
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
        fields = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0, "segmentation": [outline]}
        rows.append({"id": id_ + 1, "image_id": id_ % 3 + 1, "category_id": 1, **fields})
    return rows


def document(rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    images = [{"id": id_, "file_name": f"{id_}.png", "width": 200, "height": 160, **fields} for id_ in (1, 2, 3)]
    return {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": rows}


def lines(rows: list[dict[str, Any]], masks: bool = True) -> list[str]:
    return grouped(read_ground_truth(document(rows), files=True, masks=masks)[1])


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("number", [1, 5, 60])
def test_nothing_is_said_of_a_sound_set(number, masks):
    assert lines(rows_of(number), masks) == []


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("part", [1, 2, 4, 8])
def test_many_masks_that_are_flagged_as_crowds_are_told_with_the_way_out(part, masks):
    rows = rows_of(40)
    for row in rows[::part]:
        x, y, width, height = row["bbox"]
        pixels = np.zeros((160, 200), dtype=np.uint8)
        pixels[y : y + height, x : x + width] = 1
        flat = pixels.flatten(order="F")
        counts = np.diff(np.flatnonzero(np.diff(flat, prepend=1 - flat[0])), append=flat.size).tolist()
        row |= {"iscrowd": 1, "segmentation": {"size": [160, 200], "counts": [0] * int(flat[0]) + counts}}
    (line,) = lines(rows, masks)
    assert f"{len(rows[::part])} of 40" in line
    assert line.endswith("data.crowds_are_objects=true takes them as objects")
    truth, findings = read_ground_truth(document(rows), files=True, masks=masks, crowds_are_objects=True)
    assert is_usable(truth, masks=masks).sum() == 40
    assert [one.severity for one in findings] == ["note"] * len(rows[::part])


def test_few_crowds_are_no_finding():
    rows = rows_of(40)
    rows[3] |= {"iscrowd": 1, "segmentation": {"size": [160, 200], "counts": [0, 32000]}}
    assert lines(rows) == []


@pytest.mark.parametrize("flag", [1, True, "1", 1.0])
@pytest.mark.parametrize("part", [1, 2, 5])
def test_objects_that_are_flagged_ignore_are_not_learned_but_measured_by_coco(flag, part):
    rows = rows_of(10)
    found = [{**{key: row[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.5} for row in rows]
    for row in rows[::part]:
        row["ignore"] = flag
    truth, findings = read_ground_truth(document(rows), files=True)
    assert is_usable(truth).sum() == 10 - len(rows[::part])
    assert f"{len(rows[::part])} of 10" in [one.detail for one in findings if one.severity == "warning"]
    metrics = evaluate(document(rows), found)
    assert (metrics["AP"], metrics["per_class"]["cat"]["ground_truths"]) == (pytest.approx(1), 10)


@pytest.mark.parametrize("ignored", [[0], [0, 1], [3, 7]])
def test_lvis_does_not_measure_by_what_is_flagged_ignore(ignored):
    rows = rows_of(10, seed=1)
    found = [{**{key: row[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.5} for row in rows]
    content = document(rows, neg_category_ids=[], not_exhaustive_category_ids=[])
    content["categories"][0]["frequency"] = "f"
    for place in ignored:
        rows[place]["ignore"] = 1
    missed = [row for place, row in enumerate(found) if place not in ignored]
    for detections in (found, missed):
        metrics = evaluate(content, detections)
        assert (metrics["AP"], metrics["oLRP"]) == (pytest.approx(1), pytest.approx(0))
        assert metrics["per_class"]["cat"]["ground_truths"] == 10 - len(ignored)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("number", [1, 3, 30])
def test_boxes_relative_to_the_image_are_an_error_where_objects_are_learned(number, masks):
    rows = rows_of(number)
    for row in rows:
        row["bbox"] = [value / side for value, side in zip(row["bbox"], (200, 160, 200, 160), strict=True)]
    (line,) = lines(rows, masks)
    assert line.startswith("error: ground truth: boxes look relative to the size of the image")
    assert [line[:7] for line in evaluate(document(rows), [])["findings"]] == ["warning"]


@pytest.mark.parametrize("box", [[0, 0, 1, 2], [5, 5, 1, 1], [0.5, 0.5, 0.6, 0.6]])
def test_one_box_in_pixels_is_enough_not_to_be_relative(box):
    rows = rows_of(5)
    for row in rows:
        row |= {"bbox": [0.1, 0.1, 0.5, 0.5], "segmentation": None, "area": None}
    rows[2]["bbox"] = box
    assert not any("relative" in line for line in lines(rows, masks=False))


@pytest.mark.parametrize("kept", ["area", "segmentation", "both"])
@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("number", [6, 30])
def test_corners_in_place_of_sizes_are_found_by_polygons_or_areas(kept, masks, number):
    rows = rows_of(number)
    for row in rows:
        x, y, width, height = row["bbox"]
        row["bbox"] = [x, y, x + width, y + height]
        if kept == "area":
            row["segmentation"] = None if not masks else row["segmentation"]
        elif kept == "segmentation":
            row["area"] = None
    found = lines(rows, masks)
    assert any("boxes look like corners" in line and f"{number} of {number}" in line for line in found)


def test_corners_in_a_large_file_are_found_by_some_of_its_polygons():
    rows = rows_of(5000)
    for row in rows:
        x, y, width, height = row["bbox"]
        row |= {"bbox": [x, y, x + width, y + height], "area": 0.7 * width * height}
    (line,) = lines(rows, masks=False)
    assert "boxes look like corners" in line


@pytest.mark.parametrize("shift", [[30, 0], [0, -20], [50, 50]])
def test_a_box_beside_its_segmentation_is_told_with_both(shift):
    rows = rows_of(20)
    rows[4] |= {"bbox": [10, 30, 20, 20], "segmentation": [[10, 30, 30, 30, 30, 50, 10, 50]], "area": 400}
    rows[4]["bbox"][:2] = [10 + shift[0], 30 + shift[1]]
    (line,) = lines(rows)
    assert "annotation 5: the box is another than that around the segmentation" in line
    assert "[10, 30, 20, 20]" in line


@pytest.mark.parametrize("area", [1000, 400 * 1.2 + 16, 1e6])
def test_an_area_larger_than_the_box_is_told(area):
    rows = rows_of(20)
    rows[4] |= {"bbox": [10, 30, 20, 20], "segmentation": [[10, 30, 30, 30, 30, 50, 10, 50]], "area": area}
    (line,) = lines(rows)
    assert "annotation 5: the area is larger than the box" in line


@pytest.mark.parametrize("masks", [True, False])
def test_a_box_beside_its_run_lengths_is_told(masks):
    rows = rows_of(20)
    rows[4] |= {"bbox": [10, 30, 2, 9], "area": 18}
    rows[4]["segmentation"] = {"size": [160, 200], "counts": [16090, 10, 150, 10, 15740]}
    (line,) = lines(rows, masks)
    assert "annotation 5: the box is another than that around the segmentation" in line
    assert "around the segmentation [100, 90, 2, 10]" in line


@pytest.mark.parametrize("area", [3.9, 1e-3])
def test_an_area_far_below_the_box_is_told(area):
    rows = rows_of(20)
    rows[4] |= {"bbox": [10, 30, 20, 20], "segmentation": [[10, 30, 30, 30, 30, 50, 10, 50]], "area": area}
    (line,) = lines(rows)
    assert f"annotation 5: the area is less than a hundredth of the box: {area} of 400 pixels" in line
    rows[4]["area"] = 4.1
    assert lines(rows) == []


@pytest.mark.parametrize("name", ["bccd", "nuclei_dsb2018", "coco_free"])
def test_genuine_sets_have_no_finding(shared, name):
    for path in sorted(shared("data", name).glob("annotations/*.json")):
        truth, findings = read_ground_truth(path, files=True, masks=name != "bccd")
        assert findings == []
        assert len(truth.labels)


def plain(**fields: Any) -> dict[str, Any]:
    content = document(rows_of(6), **fields)
    content["categories"] = [{"id": 1, "name": "cat", "frequency": None}, {"id": 2, "name": "dog", "frequency": None}]
    return content


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"neg_category_ids": []},
        {"neg_category_ids": [], "not_exhaustive_category_ids": [], "coco_url": None},
        {"neg_category_ids": None, "not_exhaustive_category_ids": None},
    ],
)
@pytest.mark.parametrize("lvis", [True, False])
def test_a_set_whose_lists_and_frequencies_are_empty_is_one_of_coco(fields, lvis):
    truth, findings = read_ground_truth(plain(**fields), files=True, lvis=lvis)
    assert truth.federation is None
    assert [one.severity for one in findings] == ["note"] * lvis
    assert "APr" not in evaluate(plain(**fields), [])


@pytest.mark.parametrize(
    "fields", [{"neg_category_ids": [2]}, {"not_exhaustive_category_ids": [1]}, {"neg_category_ids": [2, 77]}]
)
def test_a_list_with_a_class_makes_it_one_of_lvis_and_absent_classes_do_not_matter(fields):
    truth, findings = read_ground_truth(plain(**fields), files=True)
    assert truth.federation is not None
    assert {one.severity for one in findings if "frequency" not in one.problem} <= {"note"}
    lists = truth.federation.lists_of(0)
    assert 77 not in lists["neg_category_ids"]
    expected = {"neg_category_ids": [], "not_exhaustive_category_ids": []} | fields
    assert lists == {key: [id_ for id_ in ids if id_ != 77] for key, ids in expected.items()}
    assert evaluate(plain(**fields), [])["AP"] == 0


def test_frequencies_of_all_classes_beside_empty_lists_make_it_one_of_lvis():
    content = plain(neg_category_ids=[])
    for row in content["categories"]:
        row["frequency"] = "r"
    assert read_ground_truth(content)[0].federation is not None
