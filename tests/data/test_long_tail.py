"""The long-tailed set: LVIS to the letter, frequent to rare in training, equally frequent elsewhere."""

import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from rankdet.data import CocoDataset, SampleKey, find_layout, make_long_tailed_shapes
from rankdet.data.long_tail import CLASSES
from rankdet.metrics import evaluate
from rankdet.recipes.doctor import check_folder
from rankdet.structures import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_long_tailed_shapes(tmp_path_factory.mktemp("made") / "shapes", train=240, val=60, size=32)


def document(folder: Path, split: str) -> dict:
    return json.loads(find_layout(folder).source(split).annotations.read_text())


def test_set_is_sound_for_the_doctor(folder):
    assert [f for f in check_folder(folder, with_masks=True, images=True) if f.severity == "error"] == []


def test_classes_are_all_shapes_with_all_patterns_and_neighbors_differ():
    assert len(set(CLASSES)) == 21
    assert CLASSES[:4] == ("ellipse", "striped_rectangle", "spotted_triangle", "ring")
    for first, second in itertools.pairwise(CLASSES):
        assert not set(first.split("_")) & set(second.split("_"))


def test_frequencies_are_those_of_the_training_images(folder):
    training = document(folder, "train")
    images = Counter({(row["image_id"], row["category_id"]) for row in training["annotations"]})
    counts = Counter(category for _, category in images)
    for category in training["categories"]:
        count = counts[category["id"]]
        assert category["image_count"] == count
        assert category["frequency"] == ("r" if count <= 10 else "c" if count <= 100 else "f")
    assert {category["frequency"] for category in training["categories"]} == set("rcf")
    assert document(folder, "val")["categories"] == training["categories"]


def test_training_has_a_long_tail_and_validation_none(folder):
    counts = {}
    for split in ("train", "val"):
        found = Counter(row["category_id"] for row in document(folder, split)["annotations"])
        in_order = [found[category["id"]] for category in document(folder, split)["categories"]]
        counts[split] = sum(in_order[:7]), sum(in_order[-7:])
    assert counts["train"][0] > 10 * counts["train"][1]
    assert 0.7 < counts["val"][0] / counts["val"][1] < 1.4


def test_about_half_of_the_absent_classes_were_looked_for_and_none_that_is_present(folder):
    validation = document(folder, "val")
    looked_for = absent = 0
    for image in validation["images"]:
        present = {row["category_id"] for row in validation["annotations"] if row["image_id"] == image["id"]}
        assert not present & set(image["neg_category_ids"])
        looked_for, absent = looked_for + len(image["neg_category_ids"]), absent + len(CLASSES) - len(present)
    assert looked_for == pytest.approx(absent / 2, rel=0.1)


def test_perfect_detections_score_one_by_the_rules_of_lvis(folder):
    truth = document(folder, "val")
    found = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for row in truth["annotations"]
    ]
    result = evaluate(truth, found)
    for name in ("AP", "APr", "APc", "APf"):
        assert result[name] == pytest.approx(1, abs=1e-12)
    assert result["oLRP"] == 0


def test_set_is_the_same_on_every_machine(tmp_path):
    folder = make_long_tailed_shapes(tmp_path / "a", train=6, val=3, test=2, size=64, seed=5)
    state = hashlib.sha256()
    for split in ("train", "val", "test"):
        state.update(json.dumps(document(folder, split), sort_keys=True).encode())
        source = find_layout(folder).source(split)
        dataset = CocoDataset(source.annotations, source.images)
        for index in range(len(dataset)):
            state.update(dataset[SampleKey(index, 0)].image.numpy().tobytes())
    assert state.hexdigest() == GOLDEN


GOLDEN = "91420214d19725320978182d3bd2cbe506d5f96a15a61dc8cb32d6ac30b22acc"


def test_set_is_not_taken_for_another(tmp_path):
    folder = make_long_tailed_shapes(tmp_path / "a", train=2, val=1, size=32)
    assert make_long_tailed_shapes(folder, train=2, val=1, size=32) == folder
    with pytest.raises(InputError, match="a different set of shapes is there: seed 0 instead of 1"):
        make_long_tailed_shapes(folder, train=2, val=1, size=32, seed=1)
    with pytest.raises(InputError, match="at least one image"):
        make_long_tailed_shapes(tmp_path / "b", train=0)
