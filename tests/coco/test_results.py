"""Detections as arrays measure as much as the same detections as records."""

import json

import numpy as np
import pytest
import torch

from rankdet.coco import Results, encode_masks
from rankdet.metrics import evaluate
from rankdet.structures import Detection, MaskScores, Source

TRUTH = {
    "images": [{"id": id_, "width": 100, "height": 80} for id_ in (7, 3)],
    "categories": [{"id": 4, "name": "dog"}, {"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 4, "bbox": [10, 10, 40, 40], "segmentation": [[10, 10, 50, 10, 50, 50]]}
    ],
}
BOXES = torch.tensor([[10.1, 10.2, 50.3, 48.4], [0.0, 1.0, 30.7, 20.9]])


def found_in(image_id: int, rows: int) -> tuple[Source, Detection]:
    masks = MaskScores(torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(image_id)), BOXES).select(
        torch.arange(rows)
    )
    detection = Detection(BOXES[:rows], torch.tensor([0.7, 0.3])[:rows], torch.tensor([1, 0])[:rows], masks)
    return Source(image_id, "", (80, 100)), detection


def test_records_are_those_of_result_files():
    source, detection = found_in(7, 2)
    records = Results.of_image(source, detection, [1, 4]).records()
    assert [record["category_id"] for record in records] == [4, 1]
    assert records[0]["bbox"] == [BOXES[0, 0], BOXES[0, 1], BOXES[0, 2] - BOXES[0, 0], BOXES[0, 3] - BOXES[0, 1]]
    assert [record["segmentation"] for record in records] == encode_masks(detection.masks, (80, 100))
    assert json.loads(json.dumps(records)) == records


def test_joined_detections_are_ordered_by_image_and_keep_their_order_inside_of_it():
    parts = [Results.of_image(*found_in(image_id, rows), [1, 4]) for image_id, rows in ((7, 2), (5, 0), (3, 2))]
    joined = Results.joined([Results.joined(parts[:1]), Results.joined(parts[1:])])
    assert joined.records() == parts[2].records() + parts[0].records()
    assert len(Results.joined([])) == 0
    assert Results.joined([]).masks is None
    assert Results.joined(parts[1:2]).masks == []


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_arrays_and_records_give_the_same_numbers(iou_type):
    results = Results.joined([Results.of_image(*found_in(image_id, 2), [1, 4]) for image_id in (7, 3)])
    assert str(evaluate(TRUTH, results, iou_type)) == str(evaluate(TRUTH, results.records(), iou_type))


def test_what_is_compared_must_be_there():
    one = Results(np.array([3]), np.array([4]), np.array([0.5]), boxes=np.zeros((1, 4)))
    with pytest.raises(ValueError, match="masks are compared, but the detections have none"):
        evaluate(TRUTH, one, "segm")
    with pytest.raises(ValueError, match="boxes are compared, but the detections have none"):
        evaluate(TRUTH, Results(one.image_ids, one.category_ids, one.scores), "bbox")


@pytest.mark.parametrize(
    "empty", [[], [[]], {"size": [80, 100], "counts": [8000]}, [[10, 10, 10, 10, 10, 10]]], ids=str
)
@pytest.mark.parametrize("number", [1, 3])
def test_a_mask_without_a_pixel_is_a_false_positive_and_its_box_counts(empty, number):
    rows = [{"image_id": 3, "category_id": 4, "bbox": [10, 10, 40, 40], "score": 0.9 - k / 10} for k in range(number)]
    right = {"image_id": 3, "category_id": 4, "score": 0.1, "bbox": [10, 10, 40, 40]}
    found = [*({**row, "segmentation": empty} for row in rows)]
    found.append({**right, "segmentation": TRUTH["annotations"][0]["segmentation"]})
    masks, boxes = evaluate(TRUTH, found, "segm"), evaluate(TRUTH, found, "bbox")
    assert masks["AP"] == pytest.approx(1 / (1 + number))  # after as many false positives
    assert boxes["AP"] == pytest.approx(1)
    (line,) = [line for line in masks["findings"] if "mask without a pixel" in line]
    assert line.startswith("note: ")
    assert ("3 records" in line) == (number == 3)
    assert "mask without a pixel" not in str(boxes.get("findings"))
