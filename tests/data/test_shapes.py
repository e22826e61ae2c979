"""The data set that is made on the spot."""

import hashlib
import json
import time
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from rankdet.data import CocoDataset, SampleKey, find_layout, make_shapes
from rankdet.recipes.doctor import check_folder
from rankdet.structures import InputError


def dataset_of(source, *args, **fields):
    return CocoDataset(source.annotations, source.images, *args, **fields)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("made") / "shapes", train=120, val=20)


def digest(folder):
    """Of decoded pixels and of annotations, not of files: the PNG encoder may change."""
    state = hashlib.sha256()
    for split in ("train", "val"):
        found = find_layout(folder).source(split)
        state.update(json.dumps(json.loads(found.annotations.read_text()), sort_keys=True).encode())
        dataset = dataset_of(found)
        for index in range(len(dataset)):
            state.update(dataset[SampleKey(index, 0)].image.numpy().tobytes())
    return state.hexdigest()


def test_set_is_the_same_on_every_machine(tmp_path):
    make_shapes(tmp_path / "a", train=6, val=3, size=64, seed=5)
    assert digest(tmp_path / "a") == GOLDEN


GOLDEN = "e0fb26f5146c9148b334664de9ba53b1d1de4bf507a15b9e89ff97e9b52e3fc3"


def test_seeds_and_splits_differ(tmp_path):
    first, second = (make_shapes(tmp_path / str(seed), train=3, val=3, size=48, seed=seed) for seed in (0, 1))
    assert digest(first) != digest(second)
    train, val = (json.loads(find_layout(first).source(split).annotations.read_text()) for split in ("train", "val"))
    assert train["annotations"] != val["annotations"]


def test_image_does_not_depend_on_how_many_there_are(shapes, tmp_path):
    few = dataset_of(find_layout(make_shapes(tmp_path / "few", train=3, val=1)).source("train"))
    many = dataset_of(find_layout(shapes).source("train"))
    for index in range(3):
        one, two = few[SampleKey(index, 0)], many[SampleKey(index, 0)]
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.target.boxes, two.target.boxes)


def test_set_is_sound_for_the_doctor(shapes):
    assert check_folder(shapes, with_masks=True, images=True) == []


def test_masks_are_exact_disjoint_and_agree_with_boxes_and_areas(shapes):
    split = find_layout(shapes).source("train")
    areas = {}
    for row in json.loads(split.annotations.read_text())["annotations"]:
        areas.setdefault(row["image_id"], []).append(row["area"])
    dataset = CocoDataset(split.annotations, split.images, with_masks=True)
    for index in range(len(dataset)):
        sample = dataset[SampleKey(index, 0)]
        masks = sample.target.masks
        if not len(masks):
            continue
        assert masks.sum(0).max() == 1  # only the visible part belongs to an object
        inclusive = sample.target.boxes - torch.tensor([0.0, 0.0, 1.0, 1.0])
        assert torch.equal(masks_to_boxes(masks), inclusive)
        assert masks.sum((1, 2)).tolist() == areas[sample.source.image_id]


def test_masks_lie_on_the_objects(shapes):
    # An object has one color up to shading and noise: its pixels vary less than those of its box.
    dataset = dataset_of(find_layout(shapes).source("train"), with_masks=True)
    closer = total = 0
    for index in range(30):
        sample = dataset[SampleKey(index, 0)]
        for box, mask in zip(sample.target.boxes.int().tolist(), sample.target.masks, strict=True):
            region = (slice(None), slice(box[1], box[3]), slice(box[0], box[2]))
            within = sample.image.float()[:, mask].std(1).mean()
            closer += bool(within < sample.image.float()[region].flatten(1).std(1).mean())
            total += 1
    assert closer >= 0.95 * total


def objects_of_categories(folder, split):
    """How many annotations each category id has."""
    document = json.loads(find_layout(folder).source(split).annotations.read_text())
    return Counter(row["category_id"] for row in document["annotations"])


def test_classes_are_long_tailed_and_ids_sparse(shapes):
    dataset = dataset_of(find_layout(shapes).source("train"))
    assert dataset.category_ids == [1, 3, 7, 13, 21]
    assert [name for _, name in dataset.categories] == ["ellipse", "rectangle", "triangle", "ring", "cross"]
    counts = objects_of_categories(shapes, "train")
    assert counts[1] > 2.5 * counts[21] > 0


def test_there_are_small_large_occluded_objects_and_empty_images(shapes):
    dataset = dataset_of(find_layout(shapes).source("train"))
    boxes = [dataset[SampleKey(index, 0)].target.boxes for index in range(len(dataset))]
    sides = torch.cat([(box[:, 2:] - box[:, :2]).amax(1) for box in boxes]) / 128
    assert sides.min() < 0.16
    assert sides.max() > 0.5
    assert sides.median() < 0.33
    assert 1 <= sum(len(box) == 0 for box in boxes) <= 12
    overlapping = sum(
        bool((torch.minimum(a[2:], b[2:]) > torch.maximum(a[:2], b[:2])).all())
        for box in boxes
        for place, a in enumerate(box)
        for b in box[:place]
    )
    assert overlapping > 30


def test_parameters_choose_classes_and_tail(tmp_path):
    make_shapes(tmp_path / "a", train=30, val=1, size=32, classes=("star", "crescent"), tail=1.0)
    dataset = dataset_of(find_layout(tmp_path / "a").source("train"))
    assert dataset.categories == [(1, "star"), (3, "crescent")]
    counts = objects_of_categories(tmp_path / "a", "train")
    assert min(counts[1], counts[3]) > 20


def test_test_split_comes_on_demand_and_changes_nothing_else(tmp_path):
    without = make_shapes(tmp_path / "a", train=2, val=1, size=32)
    folder = make_shapes(tmp_path / "b", train=2, val=1, test=3, size=32)
    assert len(dataset_of(find_layout(folder).source("test"))) == 3
    for split in ("train", "val"):
        first, second = (find_layout(made).source(split).annotations.read_text() for made in (without, folder))
        assert first == second
    assert not (without / "images" / "test").exists()
    with pytest.raises(InputError, match="test 3 instead of None"):
        make_shapes(folder, train=2, val=1, size=32)


def test_same_set_is_kept_and_another_is_refused(tmp_path):
    folder = make_shapes(tmp_path / "a", train=2, val=1, size=32)
    image = folder / "images" / "train" / "000001.png"
    written = image.stat().st_mtime_ns
    time.sleep(0.01)
    assert make_shapes(folder, train=2, val=1, size=32) == folder
    assert image.stat().st_mtime_ns == written
    with pytest.raises(InputError, match=r"shapes\.json: a different set .* seed 0 instead of 1"):
        make_shapes(folder, train=2, val=1, size=32, seed=1)


def test_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        make_shapes(tmp_path, train=1, val=1, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "a").mkdir()
    assert (make_shapes(tmp_path / "a", train=1, val=1, size=32) / "shapes.json").is_file()


def test_interrupted_making_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rankdet.data.shapes.draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "a", train=1, val=1, size=32)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_on_standard_error(tmp_path, capsys):
    make_shapes(tmp_path / "a", train=1, val=1, size=32, progress=True)
    captured = capsys.readouterr()
    assert "Making shapes" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": 0}, "at least one image"),
        ({"size": 16}, "less than 32"),
        ({"seed": -1}, "negative"),
        ({"tail": 0.0}, "tail=0.0"),
        ({"classes": ("blob",)}, "unknown class 'blob'; known are ellipse"),
        ({"classes": ("ring", "ring")}, "different names"),
    ],
)
def test_parameter_out_of_range_is_refused(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        make_shapes(tmp_path / "a", **fields)
    assert not (tmp_path / "a").exists()


def test_rotation_needs_no_mathematical_library():
    slope = np.linspace(-1, 1, 11)
    cosine, sine = (1 - slope**2) / (1 + slope**2), 2 * slope / (1 + slope**2)
    assert np.allclose(cosine**2 + sine**2, 1)
