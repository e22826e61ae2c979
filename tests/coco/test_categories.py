"""Classes are matched by name: any file is measured in a model's labels, and keeps its own ids."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from rankdet.coco import GroundTruth, read_ground_truth
from rankdet.metrics import evaluate

LEARNED = [(1, "cat"), (2, "dog"), (3, "cow")]


def document(categories: list[tuple[int, str]], classes: list[int], **fields: Any) -> dict[str, Any]:
    """Two images; annotation i is of the i-th category id, the images in turn."""
    return {
        "images": [{"id": id_, "file_name": f"{id_}.png", "width": 100, "height": 80} for id_ in (7, 3)],
        "categories": [{"id": id_, "name": name} for id_, name in categories],
        "annotations": [
            {"id": 9 - i, "image_id": (7, 3)[i % 2], "category_id": id_, "bbox": [5 * i, i, 40, 40], **fields}
            for i, id_ in enumerate(classes)
        ],
    }


def read(categories: list[tuple[int, str]], classes: list[int]) -> GroundTruth:
    return read_ground_truth(document(categories, classes), files=True)[0]


def severities(findings) -> list[str]:
    return [finding.severity for finding in findings]


def names_of(truth: GroundTruth) -> list[str]:
    return [truth.categories[label][1] for label in truth.labels.tolist()]


@pytest.mark.parametrize("ids", [(1, 2, 3), (0, 1, 2), (30, 20, 10), (2, 3, 1)])
def test_objects_keep_their_class_and_the_file_its_ids_whatever_the_ids_are(ids):
    for order in permutations(("cat", "dog", "cow")):
        own = list(zip(ids, order, strict=True))
        truth = read(own, [*ids, ids[0]])
        matched, findings = truth.with_categories(LEARNED)
        assert [name for _, name in matched.categories] == ["cat", "dog", "cow"]
        assert set(matched.categories) == set(own)
        assert names_of(matched) == names_of(truth)
        assert set(severities(findings)) == ({"note"} if set(own) != set(LEARNED) else set())


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([(0, "cow")], [(1, "cat"), (2, "dog"), (0, "cow")]),
        ([(1, "dog")], [(2, "cat"), (1, "dog"), (3, "cow")]),  # cat's id is taken: it gets a free one
        ([(1, "cow"), (2, "cat")], [(2, "cat"), (3, "dog"), (1, "cow")]),
        ([(5, "cow"), (6, "dog"), (7, "cat")], [(7, "cat"), (6, "dog"), (5, "cow")]),
    ],
)
def test_a_class_that_the_file_lacks_has_no_objects_and_an_id_of_its_own(own, expected):
    matched, findings = read(own, [id_ for id_, _ in own]).with_categories(LEARNED)
    assert matched.categories == expected
    assert len(set(matched.category_ids)) == 3
    assert set(severities(findings)) == {"note"}
    lacking = [finding.record for finding in findings if "no category of the file" in finding.problem]
    assert lacking == [f"name {name!r}" for _, name in LEARNED if name not in dict(map(reversed, own))]


@pytest.mark.parametrize("name", ["bird", "Cat", "cat ", "2"])
def test_objects_of_a_class_that_was_not_learned_are_an_error_that_names_it(name):
    own = [(1, "cat"), (5, name)]
    matched, findings = read(own, [1, 5, 5]).with_categories(LEARNED)
    (error,) = (finding for finding in findings if finding.severity == "error")
    assert error.record == "category 5"
    assert error.detail == f"{name!r} with 2 annotations"
    assert "'cat', 'dog', 'cow'" in error.remedy
    assert names_of(matched) == ["cat"]


def test_a_class_that_nothing_has_is_left_out_with_a_note():
    matched, findings = read([(0, "things"), (1, "cat"), (2, "dog"), (3, "cow")], [1, 2, 3]).with_categories(LEARNED)
    assert matched.categories == LEARNED
    assert severities(findings) == ["note"]


@pytest.mark.parametrize(
    ("own", "expected", "is_clear"),
    [
        ([(1, "cat"), (2, "cat")], [(2, "cat"), (1, "cat")], True),
        ([(1, "cat"), (2, "cat"), (4, "dog")], [(1, "cat"), (2, "cat"), (3, "dog")], True),
        ([(0, "cat"), (1, "cat")], [(1, "cat"), (2, "cat")], False),
        ([(1, "cat"), (2, "cat")], [(1, "cat")], False),
        ([(1, "cat")], [(1, "cat"), (2, "cat")], False),
    ],
)
def test_a_name_that_occurs_twice_is_an_error_only_where_ids_do_not_tell(own, expected, is_clear):
    truth = read(own, [id_ for id_, _ in own])
    matched, findings = truth.with_categories(expected)
    errors = [finding for finding in findings if finding.severity == "error" and "share a name" in finding.problem]
    assert (not errors) == is_clear
    if is_clear:
        assert names_of(matched) == names_of(truth)
        assert [matched.category_ids[label] for label in matched.labels] == [id_ for id_, _ in own]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("ids", [(0, 1, 2), (3, 2, 1), (50, 7, 9)])
def test_numbers_of_classes_do_not_depend_on_ids(ids, iou_type):
    square = [[5, 5, 45, 5, 45, 45, 5, 45]]
    cat, dog, cow = ids
    own = document([(cow, "cow"), (cat, "cat"), (dog, "dog")], [cat, dog, dog, cow], segmentation=square)
    for row in own["annotations"]:
        row["bbox"] = [5, 5, 40, 40]
    found = [
        {"image_id": 7, "category_id": cat, "bbox": [5, 5, 40, 36], "segmentation": square, "score": 0.5},
        {"image_id": 3, "category_id": dog, "bbox": [5, 5, 40, 40], "segmentation": square, "score": 0.4},
        {"image_id": 3, "category_id": cow, "bbox": [60, 5, 10, 10], "segmentation": [[0, 0, 9, 0, 9, 9]], "score": 1},
    ]
    expected = evaluate(own, found, iou_type)
    truth, _ = read_ground_truth(own, masks=True)
    measured = evaluate(truth.with_categories([*LEARNED, (4, "bird")])[0], found, iou_type)
    assert list(measured["per_class"]) == ["cat", "dog", "cow", "bird"]
    assert measured["per_class"]["bird"]["ground_truths"] == 0
    assert np.isnan(measured["per_class"]["bird"]["AP"])
    for name, numbers in expected["per_class"].items():
        assert str(measured["per_class"][name]) == str(numbers)
    assert str(measured | {"per_class": None}) == str(expected | {"per_class": None})


def test_federated_rules_follow_the_classes():
    own = document([(5, "dog"), (4, "things"), (6, "cat")], [5, 6, 6])
    for row, frequency in zip(own["categories"], "rcf", strict=True):
        row["frequency"] = frequency
    for row in own["images"]:
        row |= {"neg_category_ids": [4, 5], "not_exhaustive_category_ids": [6]}
    truth, _ = read_ground_truth(own, files=True)
    matched, findings = truth.with_categories(LEARNED)
    assert severities(findings).count("error") == 0
    assert matched.federation is not None
    assert matched.federation.frequencies.tolist() == ["f", "r", ""]
    assert matched.federation.lists_of(0) == {"neg_category_ids": [5], "not_exhaustive_category_ids": [6]}
    found = [{"image_id": 7, "category_id": 5, "bbox": [0, 0, 40, 40], "score": 0.5}]
    assert evaluate(matched, found)["APr"] == evaluate(own, found)["APr"] == pytest.approx(1)


@pytest.mark.parametrize("places", [[], [1], [0], [1, 0], [0, 1]])
def test_a_subset_has_its_images_in_its_order_with_all_their_annotations(places):
    own = document(LEARNED, [1, 2, 3, 1], segmentation=[[1, 1, 9, 1, 9, 9]], area=7, iscrowd=0)
    for row in own["images"]:
        row |= {"neg_category_ids": [row["id"] % 3 + 1], "not_exhaustive_category_ids": []}
    for row in own["categories"]:
        row["frequency"] = "r"
    truth, _ = read_ground_truth(own, files=True, masks=True)
    part = truth.subset(places)
    assert part.image_ids.tolist() == truth.image_ids[places].tolist()
    assert [part.file_names[i] for i in range(len(places))] == [truth.file_names[i] for i in places]
    kept = {row["id"]: row for row in own["annotations"] if row["image_id"] in part.image_ids.tolist()}
    assert part.annotation_ids.tolist() == list(kept)
    for row, id_ in enumerate(kept):
        assert part.image_ids[part.images[row]] == kept[id_]["image_id"]
        assert part.category_ids[part.labels[row]] == kept[id_]["category_id"]
        assert part.boxes[row].tolist() == kept[id_]["bbox"]
        assert part.segmentation(row) == kept[id_]["segmentation"]
    assert part.federation is not None
    assert truth.federation is not None
    assert [part.federation.lists_of(i) for i in range(len(places))] == [truth.federation.lists_of(i) for i in places]


@pytest.mark.parametrize("places", [[0, 0], [2], [-1]])
def test_a_subset_is_of_different_images_that_are_there(places):
    with pytest.raises(ValueError, match="places are those of different images, 0 to 1"):
        read(LEARNED, [1]).subset(places)


def test_subsets_that_share_no_image_have_all_annotations_together():
    truth = read(LEARNED, [1, 2, 3, 1, 1])
    ids = [truth.subset([place]).annotation_ids.tolist() for place in (0, 1)]
    assert sorted(ids[0] + ids[1]) == sorted(truth.annotation_ids.tolist())
