"""Images with more objects than detections count are never silent."""

from typing import Any

import pytest

from rankdet.metrics import evaluate


def perfect(counts: list[int], classes: int = 1, **image: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A data set with so many objects in each image, the classes in turn, and detections equal to it."""
    rows = [
        {"image_id": image_id, "category_id": 1 + k % classes, "bbox": [20 * k, 0, 10, 10]}
        for image_id, count in enumerate(counts, start=1)
        for k in range(count)
    ]
    truth = {
        "images": [{"id": image_id, **image} for image_id in range(1, len(counts) + 1)],
        "categories": [{"id": 1 + k, "name": f"class {k}", "frequency": "f"} for k in range(classes)],
        "annotations": [{**row, "id": k} for k, row in enumerate(rows, start=1)],
    }
    return truth, [{**row, "score": 1 - k / 10_000} for k, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("counts", "images"), [([150], "1 image has"), ([101, 3, 120], "2 images have"), ([400, 1], "1")]
)
def test_more_objects_than_the_cap_are_told_with_the_option(counts: list[int], images: str):
    truth, found = perfect(counts)
    metrics = evaluate(truth, found)
    assert metrics["AP"] < 0.99
    (finding,) = metrics["findings"]
    assert images in finding
    assert f"more objects of one class than the 100 detections that count: up to {max(counts)}" in finding
    assert f"--max-detections {max(counts)} (max_detections={max(counts)})" in finding
    enough = evaluate(truth, found, max_detections=max(counts))
    assert enough["AP"] == pytest.approx(1)
    assert enough["findings"] == []


@pytest.mark.parametrize(("counts", "classes"), [([100], 1), ([100, 100], 1), ([190], 2), ([0, 5], 1)])
def test_a_cap_that_suffices_is_no_finding(counts: list[int], classes: int):
    """The cap of COCO is for each class of an image."""
    truth, found = perfect(counts, classes)
    assert evaluate(truth, found)["findings"] == []
    assert evaluate(truth, found)["AP"] == pytest.approx(1)


def test_the_cap_of_lvis_is_for_all_classes_together():
    truth, found = perfect([310], 4, neg_category_ids=[], not_exhaustive_category_ids=[])
    truth["images"][0]["neg_category_ids"] = [4]
    (finding,) = evaluate(truth, found)["findings"]
    assert "more objects than the 300 detections that count: up to 310" in finding
    assert evaluate(truth, found, max_detections=310)["findings"] == []


@pytest.mark.parametrize("counts", [[0], [0, 0, 0]])
def test_a_data_set_without_objects_is_told(counts: list[int]):
    truth, _ = perfect(counts)
    (finding,) = evaluate(truth, [])["findings"]
    assert "has no objects: there is nothing to measure by" in finding


def test_crowd_regions_need_no_detection():
    truth, found = perfect([101])
    truth["annotations"][0]["iscrowd"] = 1
    assert evaluate(truth, found)["findings"] == []
