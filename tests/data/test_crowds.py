"""`data.crowds_are_objects` makes objects of what a tool has flagged as crowd regions, in training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rankdet.recipes.schema.data import Data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images in each split with an object and a crowd each."""
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        images, rows = [], []
        for id_ in (1, 2):
            Image.new("RGB", (64, 48), (id_, 90, 90)).save(tmp_path / split / f"{id_}.png")
            images.append({"id": id_, "file_name": f"{id_}.png", "width": 64, "height": 48})
            runs = {"size": [48, 64], "counts": [490, *[20, 28] * 19, 20, 48 * 64 - 490 - 19 * 48 - 20]}
            for is_crowd in (0, 1):
                row = {"image_id": id_, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": runs}
                rows.append(row | {"id": len(rows) + 1, "iscrowd": is_crowd, "area": 400})
        content = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": rows}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("crowds_are_objects", [True, False])
def test_crowds_are_objects_where_the_recipe_says_so(folder, with_masks, crowds_are_objects):
    data = Data(batch_size=1, folder=folder, crowds_are_objects=crowds_are_objects)
    train, validation = data.build_training_dataset(with_masks), data.build_test_dataset(measure_masks=with_masks)
    expected = 4 if crowds_are_objects else 2
    assert train.num_objects == expected
    assert (~validation.ground_truth.is_crowd).sum() == expected
    for dataset in (train, validation):
        severity = "note" if crowds_are_objects else "warning"
        assert {finding.severity for finding in dataset.findings} == {severity}


def test_a_held_out_part_has_crowds_as_objects_too(folder):
    (folder / "annotations" / "instances_val.json").unlink()
    data = Data(batch_size=1, folder=folder, crowds_are_objects=True, validation_fraction=0.5)
    datasets = data.build_training_dataset(), data.build_test_dataset()
    assert [len(dataset.ground_truth.labels) for dataset in datasets] == [2, 2]
    assert not any(dataset.ground_truth.is_crowd.any() for dataset in datasets)
