"""A part of the images is held out to evaluate on where a data set has no split for that."""

import json

import numpy as np
import pytest

from rankdet.coco import read_ground_truth
from rankdet.coco.streaming import read_document
from rankdet.data import make_shapes
from rankdet.data.layouts import source as source_module
from rankdet.data.layouts.holdout import choose_validation
from rankdet.recipes.schema.data import Data
from rankdet.structures import InputError


def truth_of(labels_of, order=None):
    """Images ``0.png``, ``1.png``, … with an object of each of the labels given, in the order of the file."""
    order = range(len(labels_of)) if order is None else order
    images = [{"id": place, "file_name": f"{place}.png", "width": 40, "height": 40} for place in order]
    rows = [(place, label) for place in order for label in labels_of[place]]
    annotations = [
        {"id": number + 1, "image_id": place, "category_id": label, "bbox": [0, 0, 9, 9]}
        for number, (place, label) in enumerate(rows)
    ]
    categories = [{"id": label, "name": f"class {label}"} for label in sorted({label for _, label in rows})]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return read_ground_truth(document, files=True)[0]


def chosen_names(truth, fraction):
    places = np.flatnonzero(choose_validation(truth, fraction)).tolist()
    return {truth.file_names[place].decode() for place in places}


def random_labels(seed, num_images=80, num_classes=9):
    """Classes from frequent to rare; some images are empty."""
    rng = np.random.default_rng(seed)
    frequencies = 0.5 / (1 + np.arange(num_classes))
    return [[label for label in range(num_classes) if rng.random() < frequencies[label]] for _ in range(num_images)]


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(6))
def test_every_class_is_in_both_parts_about_as_often_as_the_fraction_says(seed, fraction):
    labels_of = random_labels(seed)
    truth = truth_of(labels_of)
    is_chosen = choose_validation(truth, fraction)
    for label in range(9):
        has = np.array([label in labels for labels in labels_of])
        total, held = has.sum(), (has & is_chosen).sum()
        if total >= 2:
            assert 1 <= held < total
            assert abs(held - fraction * total) <= 1 + 0.15 * total
    assert abs(is_chosen.sum() - fraction * len(labels_of)) <= 0.15 * len(labels_of)


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_does_not_depend_on_the_order_of_the_file(seed):
    labels_of = random_labels(seed, num_images=30)
    order = np.random.default_rng(seed).permutation(30).tolist()
    assert chosen_names(truth_of(labels_of), 0.3) == chosen_names(truth_of(labels_of, order), 0.3)


@pytest.mark.parametrize(
    ("labels_of", "held"),
    [
        ([[1], [1], [2]], 1),  # class 2 has one image, which is learned from
        ([[1], [2], [3]], 1),  # every class has one image: something is evaluated on all the same
        ([[1, 2], [1, 2], [], []], 2),  # images without objects are divided like the others
        ([[1], [1], [1, 2], [1, 2], [1, 2, 3]], 2),
    ],
)
def test_small_sets_are_divided(labels_of, held):
    is_chosen = choose_validation(truth_of(labels_of), 0.4)
    assert is_chosen.sum() == held
    for label in {label for labels in labels_of for label in labels}:
        has = np.array([label in labels for labels in labels_of])
        if has.sum() > 1:
            assert (has & ~is_chosen).any()


def test_a_single_image_is_not_divided():
    with pytest.raises(InputError, match=r"data\.validation_fraction divides images, and there is only 1"):
        choose_validation(truth_of([[1]]), 0.5)


@pytest.fixture
def data(folder):
    for image_id in (12, 13):
        folder.add(image_id, 7, [1, 1, 30, 20])
    folder.write()
    return Data(folder=folder.root, batch_size=1)


def test_parts_are_disjoint_and_complete_and_a_seed_has_no_say(data, folder):
    half = Data(**dict(data) | {"validation_fraction": 0.5})
    train, validation = half.build_training_dataset(with_masks=True), half.build_test_dataset(measure_masks=True)
    assert sorted([*train.image_ids.tolist(), *validation.image_ids.tolist()]) == [10, 11, 12, 13]
    assert 0 < len(train) < 4
    assert len(validation.ground_truth.image_ids) == len(validation)  # nothing else is measured on
    objects = train.num_objects + validation.num_objects
    assert objects == len(folder.document["annotations"])
    for index in range(len(train)):
        image = next(row for row in folder.document["images"] if row["id"] == train.image_ids[index])
        assert train.path(index).name == image["file_name"]
    assert half.find_source("train") == half.find_source("train")


def test_without_a_split_and_a_fraction_there_is_nothing_to_evaluate_on(data):
    assert data.find_validation_source() is None
    with pytest.raises(InputError, match=r"no annotation file for the split 'val'; there is train"):
        data.build_test_dataset()
    with pytest.raises(InputError, match=r"'holdout'.*data\.validation_split"):
        Data(**dict(data) | {"validation_split": "holdout"}).find_validation_source()


def test_a_split_of_the_folder_counts_before_a_fraction(data, folder):
    (folder.root / "annotations" / "instances_Validation.json").write_text(json.dumps(folder.document))
    half = Data(**dict(data) | {"validation_fraction": 0.5})
    assert len(half.build_training_dataset(with_masks=False)) == 4
    assert len(half.build_test_dataset()) == 4


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_lies_between_none_and_all(fraction):
    with pytest.raises(ValueError, match="validation_fraction"):
        Data(batch_size=1, validation_fraction=fraction)


def test_both_parts_of_a_file_are_of_one_reading(tmp_path, monkeypatch):
    folder = make_shapes(tmp_path / "shapes", train=6, val=1)
    (folder / "annotations" / "instances_val.json").unlink()
    parsed = []
    monkeypatch.setattr(source_module, "read_document", lambda path: parsed.append(path) or read_document(path))
    prepared = Data(batch_size=1, folder=folder, validation_fraction=0.3).prepare()
    assert not set(prepared.train.image_ids) & set(prepared.validation.image_ids)
    assert len(parsed) == 1
