"""LVIS folders: where images lie, what a record must have, what a check of the folder finds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rankdet.data import CocoDataset, SampleKey, find_layout, find_source
from rankdet.recipes.doctor import check_folder
from rankdet.recipes.schema.data import Data
from rankdet.structures import InputError

CATEGORIES = [(4, "r"), (1, "f"), (9, "c")]


class LvisFolder:
    """Two training images and two validation images, one of which COCO has in its training set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.documents: dict[str, dict[str, Any]] = {}
        for split, files in {
            "train": ["train2017/000000000007.png", "train2017/000000000003.png"],
            "val": ["val2017/000000000005.png", "train2017/000000000008.png"],
        }.items():
            self.documents[split] = {
                "images": [self.image(file) for file in files],
                "annotations": [],
                "categories": [
                    {"id": id_, "name": f"thing_{id_}", "synset": f"thing.n.{id_:02}", "frequency": frequency}
                    for id_, frequency in CATEGORIES
                ],
            }
        self.add("train", 7, 4, [4, 6, 20, 10])
        self.add("train", 7, 1, [30, 8, 16, 32])
        self.add("train", 3, 1, [1, 2, 3, 4])
        self.add("val", 8, 9, [1, 2, 30, 40])
        self.write()

    def image(self, file: str) -> dict[str, Any]:
        path = self.root / file
        path.parent.mkdir(exist_ok=True)
        number = int(path.stem)
        Image.fromarray(np.full((48, 64, 3), number, dtype=np.uint8)).save(path)
        return {
            "id": number,
            "coco_url": f"http://images.cocodataset.org/{file}",
            "width": 64,
            "height": 48,
            "neg_category_ids": [9],
            "not_exhaustive_category_ids": [],
        }

    def add(self, split: str, image: int, category: int, box: list[float]) -> None:
        x, y, w, h = box
        rows = self.documents[split]["annotations"]
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        rows.append(
            {"id": len(rows) + 1, "image_id": image, "category_id": category, "bbox": box, "area": w * h}
            | {"segmentation": outline}
        )

    def annotations(self, split: str) -> Path:
        return self.root / "annotations" / f"lvis_v1_{split}.json"

    def write(self) -> None:
        (self.root / "annotations").mkdir(exist_ok=True)
        for split, document in self.documents.items():
            self.annotations(split).write_text(json.dumps(document))


@pytest.fixture
def lvis(tmp_path: Path) -> LvisFolder:
    return LvisFolder(tmp_path)


def test_images_are_found_by_the_ends_of_their_addresses(lvis):
    data = Data(folder=lvis.root, format="lvis", batch_size=1)
    training, validation = data.build_training_dataset(with_masks=True), data.build_test_dataset()
    assert training.path(0) == lvis.root / "train2017" / "000000000007.png"
    assert [validation.path(index).parent.name for index in (0, 1)] == ["val2017", "train2017"]
    assert training.categories == [(1, "thing_1"), (4, "thing_4"), (9, "thing_9")]
    sample = training[SampleKey(0, 0)]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.image.unique().tolist() == [7]
    assert sample.target.masks.sum((1, 2)).tolist() == [200, 512]
    assert str(validation.ground_truth) == str(lvis.annotations("val"))


@pytest.mark.parametrize("images", [".", "images"])
def test_images_lie_in_the_folder_or_in_its_folder_images(lvis, images):
    (lvis.root / "images").mkdir()
    for name in ("train2017", "val2017"):
        (lvis.root / name).rename(lvis.root / images / name)
    found = find_layout(lvis.root).source("val")
    assert (found.annotations, found.images, found.is_lvis) == (lvis.annotations("val"), lvis.root / images, True)


def test_another_version_is_found_where_there_is_no_first(lvis):
    lvis.annotations("val").rename(lvis.root / "annotations" / "lvis_v0.5_val.json")
    assert find_layout(lvis.root, lvis_first=True).source("val").annotations.name == "lvis_v0.5_val.json"
    (lvis.root / "annotations" / "lvis_v2_val.json").write_text("{}")
    with pytest.raises(InputError, match=r"several annotation files .*lvis_v0\.5_val\.json, .*lvis_v2_val\.json"):
        find_layout(lvis.root, lvis_first=True).source("val")
    with pytest.raises(InputError, match=r"no annotation file for the split 'test'; there is train \(annotations"):
        find_layout(lvis.root, lvis_first=True).source("test")


def test_the_address_counts_before_a_file_name_and_a_file_name_where_there_is_no_address(lvis):
    first, second = lvis.documents["train"]["images"]
    first["file_name"] = "COCO_train2014_000000000007.png"  # as version 0.5 has it
    del second["coco_url"]
    second["file_name"] = "train2017/000000000003.png"
    lvis.write()
    dataset = Data(folder=lvis.root, format="lvis", batch_size=1).build_training_dataset()
    assert [dataset.path(index).name for index in (0, 1)] == ["000000000007.png", "000000000003.png"]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("images", {"coco_url": 3}, "image 3: coco_url does not end in a folder and a file: left out: 3"),
        ("images", {"coco_url": "a.png"}, "image 3: coco_url does not end in a folder and a file: left out: 'a.png'"),
        ("images", {"coco_url": "http://x/../a.png"}, "image 3: file_name leaves the folder of images: left out: "),
        ("images", {"neg_category_ids": 3}, "image 3: neg_category_ids is no list: taken as empty"),
        ("images", {"neg_category_ids": [1, 2]}, "image 3: neg_category_ids holds what is no category of the file"),
        ("categories", {"frequency": "often"}, "category 9: frequency is none of r, c, f"),
        ("categories", {"frequency": None}, "category 9: frequency is none of r, c, f"),
    ],
)
def test_record_that_lvis_cannot_have_is_named(lvis, part, change, message):
    lvis.documents["train"][part][-1] |= change
    lvis.write()
    findings = CocoDataset(lvis.annotations("train"), lvis.root).findings
    assert any(f"{lvis.annotations('train')}: {message}" in str(finding) for finding in findings)


def test_records_that_are_no_objects_are_named(lvis):
    for part in ("images", "categories"):
        lvis.documents["train"][part].append("nothing")
    lvis.write()
    findings = CocoDataset(lvis.annotations("train"), lvis.root).findings
    assert [finding.record for finding in findings] == ["category number 4", "image number 3"]


def test_doctor_finds_nothing_wrong_but_unused_classes_and_missing_images(lvis):
    findings = check_folder(lvis.root, with_masks=True, images=True)
    findings = [one for one in findings if "nearly black" not in one.problem]  # as the images here are
    assert [(finding.severity, finding.record) for finding in findings] == [("warning", "categories")] * 2
    assert str(findings[0]).endswith("1 of 3 has no annotation: thing_9")
    (lvis.root / "train2017" / "000000000008.png").unlink()
    assert any(finding.record == "image 8" and "is missing" in finding.problem for finding in check_folder(lvis.root))


def test_doctor_compares_splits_of_one_format_only(lvis):
    """LVIS and COCO share images, not categories, and lie in one folder."""
    coco = {
        "images": [row | {"file_name": Path(row["coco_url"]).name} for row in lvis.documents["train"]["images"]],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    (lvis.root / "annotations" / "instances_train2017.json").write_text(json.dumps(coco))
    findings = check_folder(lvis.root)
    assert not any("already" in finding.problem or "are not those" in finding.problem for finding in findings)
    assert find_layout(lvis.root).source("train").images == lvis.root / "train2017"
    assert find_layout(lvis.root, lvis_first=True).source("train").images == lvis.root


def test_doctor_lists_only_some_of_many_unused_classes(lvis):
    lvis.documents["train"]["categories"] += [
        {"id": 100 + number, "name": f"unused_{number}", "frequency": "r"} for number in range(50)
    ]
    lvis.write()
    told = [f"{finding.problem}: {finding.detail}" for finding in check_folder(lvis.root)]
    message = next(text for text in told if "have no annotation" in text)
    assert message.startswith("51 of 53 have no annotation: thing_9, unused_0, ")
    assert message.endswith("unused_18, …")


def test_official_sample_is_read(shared):
    path = shared("data", "eval_samples", "lvis_v05_100", "lvis_val_100.json")
    truth, findings = find_source(path).read(masks=True)
    # Three images of version 0.5 are turned, and only their segmentations with them.
    assert {finding.problem for finding in findings} == {"the box is another than that around the segmentation"}
    assert len({truth.images[truth.annotation_ids == int(one.record.split()[1])][0] for one in findings}) == 3
    assert len(truth.categories) == 1230
    names = [truth.file_names[place].decode() for place in range(len(truth.image_ids))]
    assert {name.split("/")[0] for name in names} <= {"train2017", "val2017"}
