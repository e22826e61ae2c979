"""check_folder finds everything at once."""

import json
import re

import pytest
from PIL import Image

from rankdet.coco import grouped
from rankdet.data.doctor import equal_files
from rankdet.data.layouts import Source
from rankdet.data.progress import with_bar
from rankdet.recipes.doctor import check_folder


def errors(findings):
    return {finding.record for finding in findings if finding.severity == "error"}


def warned(findings):
    return {finding.record: finding.problem for finding in findings if finding.severity == "warning"}


def test_sound_folder_has_no_findings(folder):
    assert check_folder(folder.root, with_masks=True, images=True) == []


def test_all_problems_are_found_at_once(folder):
    folder.add(12, 1, [5, 5, 10, 10])
    folder.add(12, 7, [5, 5, float("nan"), 10])
    folder.add(12, 7, [5, 5, 0, 10])
    folder.add(12, 7, [5, 5, 10, 10], segmentation=[])
    folder.add(13, 7, [5, 5, 10, 10])
    folder.document["images"].append({"id": 14, "file_name": "14.png", "width": 5, "height": 5})
    folder.document["images"].append({"id": 15, "file_name": "15.png", "width": 5})
    folder.write()
    (folder.images / "13.png").write_bytes(b"broken")
    findings = check_folder(folder.root, with_masks=True, images=True)
    expected = {
        "annotation 103",
        "annotation 104",
        "annotation 105",
        "annotation 106",
        "image 13",
        "image 14",
        "image 15",
    }
    assert {finding.record for finding in findings} == expected
    assert {finding.record for finding in check_folder(folder.root)} == expected
    assert errors(check_folder(folder.root)) == {"image 13"}
    assert all(finding.file == str(folder.annotations) for finding in findings)
    assert str(findings[0]).startswith(f"{folder.annotations}: image 15: key 'height' is missing")


def test_odd_records_are_warnings(folder):
    folder.add(12, 7, [100, 5, 10, 10])
    folder.add(12, 7, [5, 5, 0.5, 10])
    folder.add(12, 7, [5, 5, 10, 10], area=0)
    folder.add(12, 7, [60, 5, 70, 20])
    folder.add(12, 7, [60, 5, 70, 20])
    folder.document["categories"].append({"id": 9, "name": "bird"})
    folder.write()
    findings = check_folder(folder.root)
    assert errors(findings) == set()
    messages = warned(findings)
    assert "outside" in messages["annotation 103"]
    assert "less than a pixel" in messages["annotation 104"]
    assert "without a positive area" in messages["annotation 105"]
    assert "leaves the image, and would fit with x2 and y2" in messages["annotation 106"]
    assert "twice" in messages["annotation 107"]
    assert "1 of 3 has no annotation: bird" in str(findings[-1])


@pytest.mark.parametrize("other", ["cat", "Cat ", "CAT"])
def test_classes_that_are_called_alike_are_told_with_their_ids(folder, other):
    folder.document["categories"][1]["name"] = other
    folder.write()
    [found] = check_folder(folder.root)
    assert (found.severity, found.record) == ("warning", "categories")
    assert found.problem.startswith("classes share a name, but for case and blanks")
    assert found.detail == f"{other!r} (id 2) and 'cat' (id 7)"


@pytest.mark.parametrize("name", [None, [], ["cat"], "", " ", {}])
def test_a_class_without_a_name_is_told_as_it_is_called(folder, name):
    folder.document["categories"][0]["name"] = name
    folder.write()
    [found] = check_folder(folder.root)
    assert (found.record, found.detail) == ("category 7", repr(name))
    assert found.problem == "has no name that is a text: it is called by its id"


def test_a_class_whose_annotations_are_all_left_out_is_told(folder):
    folder.document["annotations"][0]["iscrowd"] = 1
    folder.write()
    told = [str(one) for one in check_folder(folder.root) if one.record == "categories"]
    assert told == [
        f"{folder.annotations}: categories: 1 of 2 has no annotation but those that are left out in training: cat"
    ]


def test_what_is_odd_is_told_beside_the_error_that_nothing_is_left(folder):
    for row in folder.document["annotations"]:
        row["segmentation"] = [[500, 500, 520, 500, 520, 510]]
    folder.write()
    errors, *warnings = grouped(check_folder(folder.root, with_masks=True))
    assert "no image has an object to learn from: 4 images without objects, 3 annotations without a mask" in errors
    assert any("3 records: the box is another than that around the segmentation" in line for line in warnings)
    assert any("3 records: the segmentation has no pixel in the image" in line for line in warnings)


@pytest.mark.parametrize(
    "fields", [{"iscrowd": 1}, {"image_id": "12"}, {"image_id": 99}, {"area": 1e9}, {"bbox": [90, 90, 9, 9]}]
)
def test_of_many_records_with_one_problem_some_are_kept_and_all_are_counted(folder, fields, monkeypatch):
    for _ in range(60):
        folder.add(12, 7, [5, 5, 10, 10]).update(fields)
    folder.write()
    expected = grouped(check_folder(folder.root))
    assert any(re.search("each of (60|59) records", line) for line in expected)
    monkeypatch.setattr("rankdet.coco.findings.MOST_KEPT", 7)
    findings = check_folder(folder.root)
    assert sorted(grouped(findings)) == sorted(expected)
    assert len(findings) < 40


def test_of_many_missing_images_some_are_kept_and_all_are_counted(folder, monkeypatch):
    row = folder.document["images"][0]
    folder.document["images"] += [row | {"id": id_, "file_name": f"{id_}.png"} for id_ in range(100, 160)]
    folder.write()
    expected = grouped(check_folder(folder.root))
    assert any("each of 60 records: the image file is missing" in line for line in expected)
    monkeypatch.setattr("rankdet.coco.findings.MOST_KEPT", 7)
    assert sorted(grouped(check_folder(folder.root))) == sorted(expected)
    assert len(check_folder(folder.root)) < 20


@pytest.mark.parametrize(
    ("save", "told", "is_decoded"),
    [
        (lambda image, path: image.save(path, exif=with_orientation(3)), "it is turned upright", False),
        (lambda image, path: image.save(path, exif=with_orientation(6)), "it is not turned", False),
        (lambda image, path: image.convert("RGBA").save(path), "has transparency", False),
        (lambda image, path: image.quantize(9).save(path, transparency=0), "has transparency", False),
        (lambda image, path: image.convert("CMYK").save(path, "tiff"), "has the colors of print", False),
        (lambda image, path: image.save(path, "gif", save_all=True, append_images=[image.rotate(180), image]),
         "several frames, of which the first is read: 3", False),
        (lambda image, path: image.save(path, "tiff", save_all=True, append_images=[image]), "several frames", False),
        (lambda image, path: image.convert("F").save(path, "tiff"), "32 bits per channel", False),
        (lambda image, path: image.convert("I").save(path, "tiff"), "32 bits per channel", False),
        (lambda image, path: image.point(lambda value: value // 9).save(path), "is nearly black", True),
    ],
)  # fmt: skip
def test_what_is_done_with_odd_images_is_told(folder, save, told, is_decoded):
    image = Image.open(folder.images / "12.png").convert("RGB")
    save(image, folder.images / "12.png")
    found = [finding for finding in check_folder(folder.root, images=True) if finding.record == "image 12"]
    assert len(found) == 1
    assert told in str(found[0])
    assert [finding for finding in check_folder(folder.root) if finding.record] == ([] if is_decoded else found)


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_images_in_two_splits_are_found_by_name_and_by_content(folder):
    other = json.loads(json.dumps(folder.document))
    del other["annotations"][:], other["images"][1:]
    (folder.images / "copy.png").write_bytes((folder.images / "11.png").read_bytes())
    other["images"].append({"id": 11, "file_name": "copy.png", "width": 48, "height": 64})
    (folder.root / "annotations" / "instances_val.json").write_text(json.dumps(other))
    told = {finding.record: str(finding) for finding in check_folder(folder.root) if "image" in finding.record}
    assert list(told) == ["image 10"]
    assert "is an image of" in told["image 10"]
    assert "instances_train.json already" in told["image 10"]
    told = {finding.record: str(finding) for finding in check_folder(folder.root, images=True)}
    assert "has the content of an image of" in told["image 11"]
    assert "copy.png and 11.png" in told["image 11"]


def test_classes_of_val_are_matched_by_name_and_unknown_ones_are_errors(folder):
    other = folder.document | {"images": folder.document["images"][3:], "annotations": []}
    val = folder.root / "annotations" / "instances_val.json"
    val.write_text(json.dumps(other | {"categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "cat"}]}))
    findings = check_folder(folder.root)
    assert errors(findings) == set()
    assert any("by name" in finding.problem for finding in findings if finding.severity == "note")
    lion = {"id": 1, "image_id": 13, "category_id": 7, "bbox": [1, 2, 3, 4]}
    val.write_text(json.dumps(other | {"categories": [{"id": 7, "name": "lion"}], "annotations": [lion]}))
    error = next(finding for finding in check_folder(folder.root) if finding.severity == "error")
    assert "lion" in str(error)
    assert "'dog', 'cat'" in str(error)


def test_broken_file_of_another_split_is_a_warning_and_hides_nothing(folder):
    (folder.root / "annotations" / "instances_test.json").write_text("{")
    folder.add(12, 1, [5, 5, 10, 10])
    folder.write()
    findings = check_folder(folder.root)
    assert [(finding.severity, finding.record) for finding in findings] == [
        ("warning", "annotation 103"),
        ("warning", ""),
    ]
    assert findings[1].problem.startswith("is not valid JSON")


def test_folder_without_annotations_is_an_error(tmp_path):
    assert check_folder(tmp_path)[0].severity == "error"
    (found,) = check_folder(tmp_path / "absent")
    assert str(found) == f"{tmp_path / 'absent'}: there is no such folder"


@pytest.mark.parametrize("name", ["bccd", "nuclei_dsb2018", "coco_free"])
def test_real_sets_have_no_errors(shared, name):
    assert errors(check_folder(shared("data", name), with_masks=name != "bccd")) == set()


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_file_is_read_once_for_training_and_once_for_the_closer_look(folder, monkeypatch, with_masks):
    folder.write()
    content, files = Source.content, []

    def counted(source):
        files.append(source.annotations.name)
        return content(source)

    monkeypatch.setattr(Source, "content", counted)
    check_folder(folder.root, with_masks=with_masks)
    assert files == ["instances_train.json"] * 2


def test_files_that_may_not_be_read_are_no_equal_ones(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path in paths[1:]:
        path.write_bytes(b"the same")
    paths[0].mkdir()
    assert equal_files([*paths, tmp_path / "missing.png"]) == [[1, 2]]


@pytest.mark.parametrize("name", ["[/red].json", "[bold", "[link=x]y[/link]"])
def test_a_bar_shows_any_name(capsys, monkeypatch, name):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(with_bar([1, 2], name)) == [1, 2]
    assert name in capsys.readouterr().err
