"""check_folder finds everything at once."""

import json

import pytest

from rankdet.data import Finding, check_folder


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
    assert errors(findings) == expected
    assert errors(check_folder(folder.root)) == expected - {"annotation 106", "image 13"}
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
    assert "not positive" in messages["annotation 105"]
    assert "leaves the image" in messages["annotation 106"]
    assert "twice" in messages["annotation 107"]
    assert messages["categories"] == "1 of 3 have no annotation: bird"


def test_splits_that_share_images_or_differ_in_categories_are_warned_about(folder):
    other = folder.document | {"categories": [{"id": 2, "name": "dog"}, {"id": 7, "name": "lion"}]}
    (folder.root / "annotations" / "instances_val.json").write_text(json.dumps(other))
    messages = warned(check_folder(folder.root))
    assert "are not those of" in messages["categories"]
    assert "instances_train.json already" in messages["image 10"]


def test_broken_file_does_not_hide_the_others(folder):
    (folder.root / "annotations" / "instances_bad.json").write_text("{")
    folder.add(12, 1, [5, 5, 10, 10])
    folder.write()
    findings = check_folder(folder.root)
    assert len(findings) == 2
    assert findings[0].problem.startswith("is not valid JSON")
    assert findings[1].record == "annotation 103"


def test_folder_without_annotations_is_an_error(tmp_path):
    assert check_folder(tmp_path)[0].severity == "error"
    assert check_folder(tmp_path / "absent") == [
        Finding("error", str(tmp_path / "absent"), "", "there is no such folder")
    ]


@pytest.mark.parametrize("name", ["bccd", "nuclei_dsb2018", "coco_free"])
def test_real_sets_have_no_errors(shared, name):
    assert errors(check_folder(shared("data", name), with_masks=name != "bccd")) == set()
