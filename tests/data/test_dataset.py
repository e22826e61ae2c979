"""CocoDataset: what is read, what is left out, what is refused."""

import json
import math
import pickle
import re
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from rankdet.coco import read_ground_truth
from rankdet.data import CocoDataset, FixedSize, KeepRatio, SampleKey, Transforms, find_layout
from rankdet.heads import crop_masks, crop_outlines
from rankdet.structures import InputError


def test_sparse_category_ids_become_labels_in_order_of_the_ids(folder):
    dataset = folder.dataset()
    assert dataset.categories == [(2, "dog"), (7, "cat")]
    assert dataset.category_ids == [2, 7]
    sample = dataset[SampleKey(0, 0)]
    assert sample.target.labels.tolist() == [1, 0]
    assert sample.target.boxes.tolist() == [[4, 6, 24, 16], [30, 8, 46, 40]]
    assert sample.image.dtype == torch.uint8
    assert sample.image[:, 5, 9].tolist() == [9, 5, 10]
    assert sample.source == (10, str(folder.images / "10.png"), (48, 64))
    assert sample.skipped == ()
    assert str(dataset.ground_truth) == str(folder.annotations)
    assert dataset.aspect_ratios.tolist() == [64 / 48, 48 / 64, 2.0, 64 / 48]
    assert dataset.num_objects == 3


def test_evaluation_keeps_every_image_in_the_order_of_the_file(folder):
    assert folder.dataset().image_ids.tolist() == [10, 11, 12, 13]


def test_image_without_objects_gives_empty_tensors(folder):
    target = folder.dataset(Transforms(KeepRatio(100, (60,)), 1.0, 1.0), with_masks=True)[SampleKey(3, 0)].target
    assert target.boxes.shape == (0, 4)
    assert target.boxes.dtype == torch.float32
    assert target.labels.dtype == torch.int64
    assert target.masks.shape == (0, 60, 80)


def test_training_drops_images_without_usable_annotation(folder):
    folder.add(12, 7, [0, 0, 10, 10], iscrowd=1)
    folder.add(13, 7, [0, 0, 0.5, 10])
    assert folder.dataset(keep_empty=False).image_ids.tolist() == [10, 11]
    assert folder.dataset(keep_empty=True).image_ids.tolist() == [10, 11, 12, 13]


def test_training_drops_images_with_a_side_below_32(folder):
    folder.add_image(20, 100, 31)
    folder.add_image(21, 100, 32)
    folder.add(20, 7, [0, 0, 10, 10])
    folder.add(21, 7, [0, 0, 10, 10])
    assert folder.dataset(keep_empty=False).image_ids.tolist() == [10, 11, 21]
    assert folder.dataset(keep_empty=False, min_size=0).image_ids.tolist() == [10, 11, 20, 21]
    assert 20 in folder.dataset().image_ids


@pytest.mark.parametrize(
    ("box", "fields"),
    [
        ([5, 5, 10, 10], {"iscrowd": 1}),
        ([5, 5, 0.9, 10], {}),
        ([5, 5, 10, 0.9], {}),
        ([5, 5, 10, 10], {"area": 0}),
        ([64, 5, 10, 10], {}),
        ([-12, 5, 10, 10], {}),
    ],
)
def test_annotations_that_no_detector_learns_from_are_left_out(folder, box, fields):
    folder.add(10, 7, box, **fields)
    assert len(folder.dataset(keep_empty=False)[SampleKey(0, 0)].target.labels) == 2


def test_box_is_clipped_to_the_image(folder):
    folder.add(12, 7, [-5, 30, 20, 20])
    assert folder.dataset()[SampleKey(2, 0)].target.boxes.tolist() == [[0, 30, 15, 40]]


def test_area_and_iscrowd_may_be_absent(folder):
    row = folder.add(12, 7, [5, 5, 10, 10])
    del row["area"], row["iscrowd"], row["segmentation"]
    assert len(folder.dataset()[SampleKey(2, 0)].target.labels) == 1


def said(dataset: CocoDataset) -> str:
    return "\n".join(map(str, dataset.findings))


def test_box_without_area_is_left_out_and_told(folder):
    folder.add(12, 7, [5, 5, 0, 10])
    dataset = folder.dataset()
    assert re.search(r"instances_train\.json: annotation 103: the box has no area: .*\[5, 5, 0, 10\]", said(dataset))
    assert dataset.num_objects == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": [5, 5, math.nan, 10]}, "box is not finite"),
        ({"bbox": [5, math.inf, 10, 10]}, "box is not finite"),
        ({"bbox": [5, 5, -1, 10]}, "box has a negative size"),
        ({"bbox": [5, 5, 10]}, "bbox is not a list of four numbers"),
        ({"bbox": [5, 5, "10", 10]}, "bbox is not a list of four numbers"),
        ({"image_id": 999}, "image_id is no image of the file: left out: 999"),
        ({"category_id": 1}, "category_id is no category of the file: left out: 1"),
        ({"iscrowd": 2}, "iscrowd is neither 0 nor 1: left out: 2"),
        ({"ignore": "maybe"}, "ignore is neither 0 nor 1: left out: 'maybe'"),
        ({"bbox": [5, 5, 10**400, 10]}, "box is not finite, or goes beyond"),
        ({"bbox": [5, 5, 1e300, 10]}, "box is not finite, or goes beyond"),
    ],
)
def test_broken_annotation_is_left_out_and_named(folder, fields, message):
    row = folder.add(12, 7, [5, 5, 10, 10])
    row |= fields
    dataset = folder.dataset()
    assert dataset.num_objects == 3
    assert f"annotation {row['id']!r}: {message}" in said(dataset)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": 100}, "id occurs before: it gets another"),
        ({"id": "a"}, "id is not an integer from 0 to 2**63 - 1: it gets another: 'a'"),
        ({"id": None}, "has no id: it gets one"),
        ({"id": 2**63}, "id is not an integer from 0"),
        ({"id": -1}, "id is not an integer from 0"),
        ({"area": math.nan}, "area is not a finite number of pixels: that of the box or mask counts: nan"),
        ({"area": 10**400}, "area is not a finite number"),
    ],
)
def test_what_a_training_does_not_need_of_an_annotation_may_be_broken(folder, fields, message):
    row = folder.add(12, 7, [5, 5, 10, 10])
    row |= fields
    dataset = folder.dataset()
    assert dataset.num_objects == 4
    assert f"annotation {row['id']!r}: {message}" in said(dataset)
    assert len(set(dataset.ground_truth.annotation_ids.tolist())) == 4


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_an_annotation_that_lacks_a_key_is_left_out(folder, key):
    row = folder.add(12, 7, [5, 5, 10, 10])
    row["segmentation"] = None
    del row[key]
    dataset = folder.dataset()
    assert dataset.num_objects == 3
    problem = "has neither a box nor a segmentation" if key == "bbox" else f"key '{key}' is missing"
    assert f"annotation 103: {problem}" in said(dataset)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "image 10: width is not a positive integer up to 1000000: left out: 0"),
        ({"height": 48.5}, "image 10: height is not a positive integer up to 1000000: left out: 48.5"),
        ({"file_name": "../10.png"}, "image 10: file_name leaves the folder of images: left out: '../10.png'"),
        ({"file_name": "/etc/10.png"}, "image 10: file_name leaves the folder of images: left out: '/etc/10.png'"),
        ({"file_name": 10}, "image 10: file_name is not a name: left out: 10"),
        ({"file_name": "\ud800.png"}, "image 10: file_name cannot be the name of a file: left out: "),
        ({"file_name": "a\0.png"}, "image 10: file_name cannot be the name of a file: left out: "),
        ({"file_name": "a/" + "n" * 256}, "image 10: file_name is longer than 255 bytes: left out: 'a/nnn"),
        ({"width": 2**31}, "image 10: width is not a positive integer up to 1000000: left out: 2147483648"),
        ({"height": 10**400}, "image 10: height is not a positive integer up to 1000000: left out: 1000"),
        ({"id": 2**63}, "image 9223372036854775808: id is not an integer from 0"),
        ({"id": 10**400}, "id is not an integer from 0 to 2**63 - 1: left out: 1000"),
    ],
)
def test_broken_image_record_is_left_out_with_its_annotations(folder, fields, message):
    folder.document["images"][0] |= fields
    truth, findings = read_ground_truth(folder.document, files=True)
    assert 10 not in truth.image_ids
    assert truth.annotation_ids.tolist() == [102]
    lines = [str(finding) for finding in findings]
    assert any(message in line for line in lines)
    # Annotations of an image that is left out are counted together; one without an id is no image of theirs.
    assert sum("left out" in line for line in lines) == (3 if "id" in fields else 2)
    assert all(finding.severity == "warning" for finding in findings)


def test_image_and_category_that_occur_twice_are_errors(folder):
    folder.document["images"][0]["id"] = 11
    folder.document["categories"].append({"id": 7, "name": "lion"})
    with pytest.raises(InputError, match=r"2 records: id occurs twice \(category 7; image 11\)"):
        folder.dataset()


@pytest.mark.parametrize(
    ("fields", "message"), [({"id": 2**63}, "id is not an integer"), ({"name": "\ud800"}, "has no name that is a text")]
)
def test_broken_category_is_named(folder, fields, message):
    folder.document["categories"].append({"id": 3, "name": "bird"} | fields)
    assert message in said(folder.dataset())


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_section_is_named(folder, section):
    del folder.document[section]
    if section == "annotations":
        assert "section 'annotations' is missing" in said(folder.dataset())
    else:
        with pytest.raises(InputError, match=f"section '{section}' is missing"):
            folder.dataset()
    folder.document[section] = {}
    with pytest.raises(InputError, match=f"section '{section}' is not a list"):
        folder.dataset()


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"[" * 100_000])
def test_broken_json_is_named(folder, content):
    folder.annotations.write_bytes(content)
    with pytest.raises(InputError, match=r"instances_train\.json: is not valid JSON"):
        CocoDataset(folder.annotations, folder.images)


def test_top_level_list_is_refused(folder):
    folder.annotations.write_text("[]")
    with pytest.raises(InputError, match="top level"):
        CocoDataset(folder.annotations, folder.images)


def test_missing_file_and_folder_are_named(folder):
    with pytest.raises(InputError, match=r"absent\.json: there is no such file"):
        CocoDataset(folder.root / "absent.json", folder.images)
    with pytest.raises(InputError, match="absent: there is no such folder"):
        CocoDataset(folder.annotations, folder.root / "absent")


def test_set_without_usable_image_is_refused(folder):
    folder.document["annotations"].clear()
    with pytest.raises(InputError, match="no image has an object to learn from"):
        folder.dataset(keep_empty=False)


def test_truncated_image_is_named(folder):
    path = folder.images / "10.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"10\.png: the image cannot be decoded"):
        folder.dataset()[SampleKey(0, 0)]


def test_unreadable_image_is_replaced_by_the_next_of_its_aspect_group(folder):
    (folder.images / "10.png").write_bytes(b"no image")
    (folder.images / "12.png").unlink()
    sample = folder.dataset(skip_unreadable=True)[SampleKey(0, 0)]
    assert sample.source.image_id == 13  # 11 is portrait, 12 is missing
    first, second = sample.skipped
    assert first.startswith(f"{folder.images / '10.png'}: the image cannot be decoded")
    assert second == f"{folder.images / '12.png'}: the image is missing"
    assert sample.target.labels.tolist() == []


def test_nothing_readable_stops_even_when_skipping(folder):
    for path in folder.images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 3 images of .* can be read, the first: .*10\.png"):
        folder.dataset(skip_unreadable=True)[SampleKey(0, 0)]


def test_wrong_size_is_an_error_even_when_skipping(folder):
    folder.document["images"][0]["width"] = 65
    with pytest.raises(InputError, match=r"10\.png: the image is 64 × 48 pixels, its annotations say 65 × 48"):
        folder.dataset(skip_unreadable=True)[SampleKey(0, 0)]


def test_sample_depends_on_its_key_alone(folder):
    dataset = folder.dataset(Transforms(KeepRatio(200, (30, 40, 50)), 0.5, 0.5), with_masks=True)
    first = [dataset[SampleKey(0, seed)] for seed in range(30)]
    torch.manual_seed(1234)
    again = [dataset[SampleKey(0, seed)] for seed in range(30)]
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.target.boxes, two.target.boxes)
        assert torch.equal(one.target.masks, two.target.masks)
    assert Counter(sample.image.shape[1] for sample in first).keys() == {30, 40, 50}


def test_sample_leaves_the_global_random_state_alone(folder):
    dataset = folder.dataset(Transforms(horizontal_flip=0.5))
    before = torch.random.get_rng_state()
    dataset[SampleKey(0, 5)]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segmentation": []}, "has no segmentation"),
        ({"segmentation": [[1, 2, 3]]}, "not a list of numbers"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three points"),
        ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "not finite"),
        ({"segmentation": [[1, 2, 3, 4, 5, 10**400]]}, "not finite"),
        ({"segmentation": {"size": [40, 80], "counts": "!!!!"}}, "RLE of the segmentation is broken"),
        ({"segmentation": {"size": [40, 80], "counts": "zz"}}, "do not make the pixels of its size.*: 20, not 3200"),
        ({"segmentation": {"size": [40, 80], "counts": [10**400]}}, "do not make the pixels of its size"),
        ({"segmentation": "abc"}, "neither a list of polygons nor an RLE"),
        ({"segmentation": {"size": [4, 4], "counts": "zz"}}, "is not that of the image"),
        ({"segmentation": {"size": [40, 80], "counts": "\u00e9"}}, "RLE of the segmentation is broken"),
        ({"segmentation": {"size": [40, 80], "counts": ""}}, "do not make the pixels of its size.*: 0, not 3200"),
        (
            {"segmentation": {"size": [40, 80], "counts": [3200]}},
            "the segmentation has no pixel in the image: left out",
        ),
        ({"segmentation": [[90, 9, 99, 9, 99, 19, 90, 19]]}, "the segmentation has no pixel in the image: left out"),
        ({"segmentation": [[5, 5, 15, 5, 10, 5]]}, "the segmentation has no pixel in the image: left out"),
        ({"segmentation": {"size": [40, 80], "counts": [1, 2]}}, "do not make the pixels.*: 3, not 3200"),
        ({"segmentation": {"size": [40, 80], "counts": [-1, 3201]}}, "neither a string nor a list"),
    ],
)
def test_an_object_with_a_broken_segmentation_is_left_out_where_masks_are_asked_for(folder, fields, message):
    folder.add(12, 7, [5, 5, 10, 10], **fields)
    dataset = folder.dataset(with_masks=True)
    assert dataset.num_objects == 3
    assert re.search(f"annotation 103: .*{message}", said(dataset))
    assert folder.dataset(measure_masks=True).num_objects == folder.dataset().num_objects == 4


def test_masks_follow_resizing_and_flips(folder):
    plain = folder.dataset(with_masks=True)[SampleKey(0, 0)]
    assert masks_to_boxes(plain.target.masks).tolist() == [[4, 6, 23, 15], [30, 8, 45, 39]]
    placed = folder.dataset(Transforms(FixedSize(96, 64), 1.0, 1.0), with_masks=True)[SampleKey(0, 0)]
    assert placed.target.boxes.tolist() == [[40, 64, 60, 84], [18, 16, 34, 80]]
    inclusive = placed.target.boxes - torch.tensor([0, 0, 1, 1])
    assert torch.equal(masks_to_boxes(placed.target.masks), inclusive)


def test_dataset_survives_pickling_and_keeps_no_list_of_records(folder):
    dataset = folder.dataset(with_masks=True)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[SampleKey(0, 3)].target.masks, dataset[SampleKey(0, 3)].target.masks)
    fields = vars(dataset) | vars(dataset.ground_truth)
    lists = {name for name, value in fields.items() if isinstance(value, list | dict) and value}
    assert lists == {"categories", "category_ids"}
    assert isinstance(dataset.ground_truth.boxes, np.ndarray)


def test_masks_come_as_outlines_where_asked_for(folder):
    dataset = folder.dataset(Transforms(horizontal_flip=1.0), with_masks=True, as_outlines=True)
    target = dataset[SampleKey(0, 0)].target
    points = target.masks.edges[..., :2]
    assert torch.equal(torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1), target.boxes)
    assert len(dataset[SampleKey(3, 0)].target.masks) == 0


def test_outlines_of_run_lengths_are_refused_by_name(folder):
    annotation = folder.add(12, 7, [4, 6, 20, 10])
    annotation["segmentation"] = {"size": [40, 80], "counts": [0, 3200]}
    with pytest.raises(InputError, match=rf"annotation {annotation['id']}: has an RLE, but outlines are asked for"):
        folder.dataset(with_masks=True, as_outlines=True)
    assert folder.dataset(with_masks=True)[SampleKey(2, 0)].target.masks.all()


def test_outlines_of_real_objects_agree_with_their_bitmaps(shared):
    split = find_layout(shared("data", "coco_free")).source("train2017")
    bitmaps, outlines = (
        CocoDataset(split.annotations, split.images, with_masks=True, as_outlines=flag) for flag in (False, True)
    )
    differing = total = 0
    for index in range(0, 80, 5):
        one, other = bitmaps[SampleKey(index, 0)].target, outlines[SampleKey(index, 0)].target
        large = ((one.boxes[:, 2:] - one.boxes[:, :2]).amin(dim=1) > 40).nonzero().squeeze(1)
        first = crop_masks(one.masks, one.boxes[large], large, 28)
        second = crop_outlines(other.masks, other.boxes[large], large, 28)
        differing, total = differing + (first != second).sum(), total + first.numel()
    assert total > 30_000
    assert differing / total < 0.02


def test_genuine_coco_is_read_without_its_crowds(shared):
    split = find_layout(shared("data", "coco_free")).source("train2017")
    document = json.loads(split.annotations.read_text())
    transforms = Transforms(KeepRatio(320, (200,)))
    dataset = CocoDataset(split.annotations, split.images, transforms, with_masks=True)
    assert len(dataset) == 80
    assert len(dataset.categories) == 80
    assert dataset.num_objects == sum(not row["iscrowd"] for row in document["annotations"])
    assert len(CocoDataset(split.annotations, split.images, keep_empty=False)) == 79
    for index in range(0, 80, 8):
        sample = dataset[SampleKey(index, 0)]
        assert sample.image.shape[0] == 3
        assert sample.target.masks.shape[1:] == sample.image.shape[1:]


def test_real_polygons_agree_with_their_boxes(shared):
    split = find_layout(shared("data", "coco_free")).source("val")
    dataset = CocoDataset(split.annotations, split.images, with_masks=True)
    distances = []
    for index in range(0, len(dataset), 6):
        target = dataset[SampleKey(index, 0)].target
        seen = target.masks.flatten(1).any(1)
        inclusive = target.boxes[seen] - torch.tensor([0.0, 0.0, 1.0, 1.0])
        distances.append((masks_to_boxes(target.masks[seen]) - inclusive).abs().flatten())
    assert torch.cat(distances).median() < 1.0


def test_real_compressed_rle_masks_have_the_area_of_the_file(shared):
    split = find_layout(shared("data", "nuclei_dsb2018")).source("val")
    areas: dict[int, list[int]] = {}
    for row in json.loads(split.annotations.read_text())["annotations"]:
        areas.setdefault(row["image_id"], []).append(row["area"])
    dataset = CocoDataset(split.annotations, split.images, with_masks=True)
    for index in range(5):
        sample = dataset[SampleKey(index, 0)]
        assert sample.target.masks.sum((1, 2)).tolist() == areas[sample.source.image_id]
