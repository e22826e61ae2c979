"""Matches equal hotcoco's to the last bit: ties, crowds, ignored objects, areas, caps, the rules of LVIS."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.coco import read_ground_truth, read_results
from rankdet.metrics import matching
from rankdet.metrics.evaluator import compare
from rankdet.metrics.matching import choose, match_classes

from .matches_of_hotcoco import matches_of_hotcoco

IMAGES, CATEGORIES = (30, 7, 19), (5, 2, 11)
SIDE = 24


def boxes(is_mask: bool) -> st.SearchStrategy[list[float]]:
    """Boxes on few whole numbers, whose IoUs are often one half or equal; of no mask also others."""
    few = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)).map(
        lambda box: [float(4 * side) for side in box]
    )
    if is_mask:
        return few
    side = st.floats(0, 12, allow_subnormal=False)
    empty = few.map(lambda box: [*box[:3], 0.0])
    return few | st.lists(side, min_size=4, max_size=4) | empty | st.just([0.0, 0.0, 2e5, 2e5])


def shape(box: list[float], is_mask: bool) -> dict[str, Any]:
    x, y, width, height = box
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"bbox": box} | ({"segmentation": [corners]} if is_mask else {})


@st.composite
def data_sets(
    draw: st.DrawFn, is_mask: bool, lvis: st.SearchStrategy[bool] = st.booleans()
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects and detections in few cells, so that they compete, of COCO or LVIS."""
    is_lvis = draw(lvis)
    lists = st.lists(st.sampled_from(CATEGORIES), unique=True)
    images = [{"id": id_, "height": SIDE, "width": SIDE} for id_ in IMAGES]
    categories: list[dict[str, Any]] = [{"id": id_, "name": str(id_)} for id_ in CATEGORIES]
    if is_lvis:
        images = [
            image | {"neg_category_ids": draw(lists), "not_exhaustive_category_ids": draw(lists)} for image in images
        ]
        categories = [category | {"frequency": "c"} for category in categories]
    cells = st.tuples(st.sampled_from(IMAGES), st.sampled_from(CATEGORIES)) | st.just((IMAGES[0], CATEGORIES[0]))
    flag = st.sampled_from([0, 0, 0, 1])
    objects = st.tuples(cells, boxes(is_mask), flag, flag, st.sampled_from([None, 9.0, -1.0, 2e10]))
    annotations = []
    for (image, category), box, is_crowd, is_ignored, area in draw(st.lists(objects, max_size=12)):
        row = {"id": len(annotations), "image_id": image, "category_id": category} | shape(box, is_mask)
        row |= {"iscrowd": is_crowd, "ignore": is_ignored} | ({} if area is None else {"area": area})
        annotations.append(row)
    scores = st.sampled_from([0.0, 0.25, 0.5, 0.75]) | st.floats(-1, 1)
    found = [
        {"image_id": image, "category_id": category, "score": score} | shape(box, is_mask)
        for (image, category), box, score in draw(st.lists(st.tuples(cells, boxes(is_mask), scores), max_size=30))
    ]
    return {"images": images, "categories": categories, "annotations": annotations}, found


def check(truth: dict[str, Any], found: list[dict[str, Any]], iou_type: Any, max_detections: int) -> None:
    objects, _ = read_ground_truth(truth, masks=iou_type == "segm")
    results, _ = read_results(found, objects, masks=iou_type == "segm")
    comparison = compare(objects, results, iou_type, max_detections)
    for ours, expected in zip(match_classes(comparison), matches_of_hotcoco(comparison), strict=True):
        assert ours.ground_truths == expected.ground_truths
        assert np.array_equal(ours.scores, expected.scores)
        assert np.array_equal(ours.ious, expected.ious, equal_nan=True)


@settings(max_examples=300, deadline=None)
@given(data_sets(is_mask=False), st.sampled_from([1, 2, 5, 100]))
def test_matches_of_boxes_are_those_of_hotcoco(data, max_detections):
    check(*data, "bbox", max_detections)


@settings(max_examples=100, deadline=None)
@given(data_sets(is_mask=True), st.sampled_from([1, 2, 5, 100]), st.booleans())
def test_matches_of_masks_are_those_of_hotcoco(data, max_detections, has_boxes):
    truth, found = data
    if not has_boxes:
        found = [{key: value for key, value in row.items() if key != "bbox"} for row in found]
    check(truth, found, "segm", max_detections)


@settings(max_examples=50, deadline=None)
@given(data_sets(is_mask=False))
def test_pairs_in_many_parts_match_alike(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "MOST_PAIRS", 2)
        check(*data, "bbox", 100)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6))
def test_choosing_at_once_is_choosing_in_turn(seed, num_detections, num_objects):
    rng = np.random.default_rng(seed)
    ious = rng.integers(4, 9, (num_detections, num_objects)) / 10
    is_ignored = rng.random(num_objects) < 0.3
    is_shared = is_ignored & (rng.random(num_objects) < 0.5)
    detections, objects = np.nonzero(ious >= 0.5)
    chosen = choose(detections, objects, ious[detections, objects], is_ignored, is_shared)
    free, expected = set(range(num_objects)), []
    for detection in range(num_detections):
        fits = [place for place in free if ious[detection, place] >= 0.5]
        if fits:
            best = max(fits, key=lambda place: (not is_ignored[place], ious[detection, place], place))
            expected.append((detection, best))
            if not is_shared[best]:
                free.remove(best)
    assert list(zip(detections[chosen].tolist(), objects[chosen].tolist(), strict=True)) == expected


def test_without_categories_there_are_no_matches():
    """Though detections were read for another ground truth."""
    truth = {"images": [{"id": 1, "height": 9, "width": 9}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    objects, _ = read_ground_truth(truth)
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}]
    results, _ = read_results(found, objects, masks=False)
    empty, _ = read_ground_truth({**truth, "categories": []})
    assert match_classes(compare(empty, results, "bbox", 100)) == []


@pytest.mark.parametrize("largest", [50, matching.LARGEST_TABLE - 1, matching.LARGEST_TABLE, 2**62])
def test_known_ids_are_found_in_a_table_and_by_search(largest):
    known = np.array([0, 3, 7, largest])
    places, is_known = matching._places(known, np.array([7, 0, largest, 3, 1, largest - 1, largest + 1, 2**62 + 5, -4]))
    assert is_known.tolist() == [True] * 4 + [False] * 5
    assert places[:4].tolist() == [2, 0, 3, 1]
