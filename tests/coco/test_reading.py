"""There is one reader: training and evaluation take the same files, and refuse the same records in the same words."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdet.coco import GroundTruth, grouped, parsing, read_ground_truth
from rankdet.data import CocoDataset
from rankdet.metrics import evaluate
from rankdet.structures import InputError

SQUARE = [[10, 10, 50, 10, 50, 50, 10, 50]]


def annotation(id_: int, image: int, category: int = 1, **fields: Any) -> dict[str, Any]:
    row = {"id": id_, "image_id": image, "category_id": category, "bbox": [10, 10, 40, 40], "segmentation": SQUARE}
    return row | fields


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": id_, "file_name": f"{id_}.jpg", "width": 100, "height": 80} for id_ in (7, 3)],
        "categories": [{"id": 4, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": list(rows),
    }


@pytest.fixture
def write(tmp_path: Path):
    def write(content: dict[str, Any]) -> Path:
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.mark.parametrize(
    "fields",
    [
        {"image_id": 5},
        {"category_id": True},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, float("nan"), 4]},
        {"bbox": [1, 2, 3, 2_000_000]},
        {"bbox": [1, 2, -3, 4]},
        {"iscrowd": 2},
        {"ignore": [1]},
        {"bbox": None, "segmentation": [[1, 2, 3, 4]]},
    ],
)
def test_training_and_evaluation_leave_out_a_record_in_the_same_words(write, tmp_path, fields):
    path = write(document(annotation(8, 7), annotation(9, 7, **fields)))
    dataset = CocoDataset(path, tmp_path, with_masks=True)
    metrics = evaluate(path, [], "segm")
    assert dataset.num_objects == metrics["per_class"]["cat"]["ground_truths"] == 1
    assert set(metrics["findings"]) <= set(grouped(dataset.findings))
    assert metrics["findings"][0].startswith(f"warning: {path}: annotation 9: ")


def test_training_and_evaluation_take_null_for_missing(write, tmp_path):
    path = write(document(annotation(8, 7, iscrowd=None, area=None)))
    dataset = CocoDataset(path, tmp_path)
    assert dataset.num_objects == 1
    assert evaluate(path, [])["per_class"]["cat"]["ground_truths"] == 1


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_an_evaluation_uses_what_the_data_set_has_read(write, tmp_path, iou_type):
    crowd = annotation(2, 7, iscrowd=1, segmentation={"size": [80, 100], "counts": [0, 4000, 4000]})
    rows = [annotation(9, 3, 4, area=900), crowd, annotation(5, 7), annotation(1, 3, bbox=[0, 0, 0, 9])]
    path = write(document(*rows))
    found = [
        {"image_id": image, "category_id": category, "bbox": [12, 10, 40, 40], "segmentation": SQUARE, "score": score}
        for image, category, score in ((3, 4, 0.5), (7, 1, 0.25), (7, 4, 0.75))
    ]
    expected = evaluate(path, found, iou_type)
    dataset = CocoDataset(path, tmp_path, measure_masks=True)
    path.unlink()
    again = evaluate(dataset.ground_truth, found, iou_type)
    assert str(again | {"findings": []}) == str(expected | {"findings": []})
    assert expected["per_class"]["cat"]["ground_truths"] == 2  # a box without area is measured, though not learned
    assert dataset.num_objects == 2


def test_an_evaluation_by_masks_needs_a_data_set_that_has_read_them(write, tmp_path):
    dataset = CocoDataset(write(document(annotation(8, 7))), tmp_path)
    with pytest.raises(ValueError, match=r"truth\.json was read without masks"):
        evaluate(dataset.ground_truth, [], "segm")


def test_records_become_columns_in_the_order_of_the_file():
    truth, findings = read_ground_truth(
        document(annotation(9, 3, 4, area=50), annotation(2, 7, iscrowd=1, segmentation=None)), files=True, masks=True
    )
    assert [finding.problem.split(":")[0] for finding in findings] == ["is a crowd without a mask"]
    assert isinstance(truth, GroundTruth)
    assert (truth.categories, truth.names) == ([(1, "cat"), (4, "dog")], ["cat", "dog"])
    assert truth.image_ids.tolist() == [7, 3]
    assert truth.annotation_ids.tolist() == [9, 2]
    assert (truth.images.tolist(), truth.labels.tolist()) == ([1, 0], [1, 0])
    assert truth.areas[0] == 50
    assert truth.areas[1] != truth.areas[1]  # NaN: the file names none
    assert truth.is_crowd.tolist() == [False, True]
    assert (truth.segmentation(0), truth.segmentation(1)) == (SQUARE, None)
    assert (truth.file_names[1], truth.size(1)) == (b"3.jpg", (80, 100))
    assert str(truth) == "ground truth"


def test_all_mistakes_of_a_file_are_found_at_once():
    content = document(annotation(1, 5), annotation(2, 7, 9), annotation(3, 7), annotation(3, 7))
    content["images"].append({"id": 3, "file_name": "3.jpg", "width": 5, "height": 5})
    content["categories"].append("bird")
    _, findings = read_ground_truth(content, files=True)
    assert [finding.record for finding in findings] == [
        "category number 3",
        "image 3",
        "annotation 1",
        "annotation 2",
        "annotation 3",
    ]


def test_a_category_without_a_name_is_called_by_its_id():
    content = document() | {"categories": [{"id": 4}, {"id": 1, "name": "cat"}]}
    assert read_ground_truth(content)[0].categories == [(1, "cat"), (4, "4")]


def test_an_evaluation_needs_neither_files_nor_sizes_of_images():
    content = document(annotation(8, 7)) | {"images": [{"id": 7, "width": "unknown"}]}
    assert evaluate(content, [])["AP"] == 0
    for images in ([{"id": 7, "width": "unknown", "height": 80}], [{"id": 7}]):
        with pytest.raises(InputError, match=r"annotation 8: .* polygons, for which its image needs height and width"):
            evaluate(content | {"images": images}, [], "segm")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


@given(JSON, st.sampled_from([None, 1]), st.none() | st.integers(0, 20))
def test_msgspec_reads_what_json_reads(value, indent, cut):
    pytest.importorskip("msgspec")
    text = json.dumps(value, indent=indent).encode()[:cut]

    def outcome() -> str:
        try:
            return repr(parsing.parsed(text))
        except ValueError as error:
            return str(error)

    found = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "msgspec", None)
        assert outcome() == found


def test_garbage_is_collected_again_after_reading(tmp_path: Path):
    (tmp_path / "broken.json").write_text("[1")
    (tmp_path / "sound.json").write_text("[1]")
    for was_enabled in (False, True):
        gc.enable() if was_enabled else gc.disable()
        assert parsing.read_json(tmp_path / "sound.json") == [1]
        assert gc.isenabled() == was_enabled
    with pytest.raises(InputError, match="is not valid JSON"):
        parsing.read_json(tmp_path / "broken.json")
    assert gc.isenabled()
