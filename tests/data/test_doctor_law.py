"""Doctor has an error exactly where a training would stop before its first iteration, and says little of much."""

import copy
import json

import pytest
import torch

from rankdet.coco import grouped
from rankdet.recipes import load_recipe
from rankdet.recipes.doctor import diagnose
from rankdet.runs.processes import World
from rankdet.structures import InputError
from rankdet.training.setup import Training

SMALL = {
    "data.batch_size": 1,
    "data.workers": 0,
    "detector.pyramid_channels": 16,
    "detector.backbone.channels": [8, 16, 16],
    "runtime.device": "cpu",
}


def nothing(train, val):
    """A sound folder."""


def every(section, **fields):
    def change(train, val):
        for row in train[section]:
            row.update(fields)

    return change


def first(section, of_val=False, **fields):
    def change(train, val):
        (val if of_val else train)[section][0].update(fields)

    return change


def without(section, of_val=False):
    def change(train, val):
        del (val if of_val else train)[section]

    return change


def empty(section, of_val=False):
    def change(train, val):
        (val if of_val else train)[section].clear()

    return change


def repeated(section):
    def change(train, val):
        train[section].append(train[section][0] | {"name": "again", "width": 7})

    return change


STOPS = {
    "no annotations section is left": empty("annotations"),
    "no images": empty("images"),
    "no categories": empty("categories"),
    "a missing section": without("images"),
    "all crowds": every("annotations", iscrowd=1),
    "all ignored": every("annotations", ignore=1),
    "all boxes without a size": every("annotations", bbox=[1, 2, 0, 0]),
    "all of an unknown class": every("annotations", category_id=99),
    "all boxes relative": every("annotations", bbox=[0.1, 0.2, 0.3, 0.4]),
    "an image twice": repeated("images"),
    "a class twice": repeated("categories"),
    "a missing image": first("images", file_name="absent.png"),
    "a class of val that is not learned": first("categories", of_val=True, name="lion"),
    "no images in val": empty("images", of_val=True),
    "a missing section in val": without("categories", of_val=True),
}
GOES_ON = {
    "a sound folder": nothing,
    "a crowd": first("annotations", iscrowd=1),
    "an unknown class": first("annotations", category_id=None),
    "a broken box": first("annotations", bbox=[1, 2, "x", 4]),
    "no iscrowd": every("annotations", iscrowd=None),
    "ids as texts": every("annotations", id="5"),
    "no segmentations": every("annotations", segmentation=[]),
    "a missing image of val": first("images", of_val=True, file_name="absent.png"),
    "other ids in val": first("categories", of_val=True, id=77),
    "no objects in val": empty("annotations", of_val=True),
    "a broken box in val": first("annotations", of_val=True, bbox=None, segmentation=None),
}


def looked_at(folder, change, masks, fields=()):
    """Whether a training begins, and what doctor says."""
    train, val = folder.document, copy.deepcopy(folder.document)
    change(train, val)
    folder.write()
    if val:
        (folder.root / "annotations" / "instances_val.json").write_text(json.dumps(val))
    name = "rs_mask_rcnn_shapes" if masks else "rs_faster_rcnn_shapes"
    recipe = load_recipe(name, SMALL | {"data.folder": str(folder.root), **dict(fields)})
    diagnosis = diagnose(recipe.data, masks, recipe.evaluation)
    has_error = any(finding.severity == "error" for finding in diagnosis.findings)
    try:
        Training(recipe, World.alone(torch.device("cpu")))
    except InputError as error:
        return False, has_error, str(error)
    return True, has_error, ""


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
@pytest.mark.parametrize("name", [*STOPS, *GOES_ON])
def test_doctor_has_an_error_exactly_where_a_training_stops(folder, name, masks):
    begins, has_error, message = looked_at(folder, (STOPS | GOES_ON)[name], masks)
    expected = name in GOES_ON and not (masks and name == "no segmentations")
    assert (begins, has_error) == (expected, not expected), message


def test_what_is_odd_about_an_image_that_is_left_out_is_no_error(folder):
    small = first("images", width=1)
    for keeps_empty in (False, True):  # and with it those that are small
        begins, has_error, message = looked_at(folder, small, False, {"data.keep_empty": keeps_empty})
        assert (begins, has_error) == (True, keeps_empty), message


def on_lvis(frequency):
    """The rules of LVIS, with classes of one frequency."""

    def change(train, val):
        for content in (train, val):
            for row in content["images"]:
                row.update(neg_category_ids=[], not_exhaustive_category_ids=[])
            for row in content["categories"]:
                row["frequency"] = frequency

    return change


def without_val(train, val):
    val.clear()


EVALUATIONS = {
    "patience with evaluations": (nothing, {"patience": 2, "every": 5}, True),
    "patience without evaluations": (nothing, {"patience": 2}, False),
    "patience without images": (without_val, {"patience": 2, "every": 5}, False),
    "a number of COCO": (nothing, {"metric": "APs"}, True),
    "a number that no object counts for": (nothing, {"metric": "APl"}, True),
    "a number of LVIS on COCO": (nothing, {"metric": "APr"}, False),
    "a number of LVIS on COCO that is not evaluated": (nothing, {"metric": "APr", "at_end": False}, True),
    "a number of LVIS": (on_lvis("r"), {"metric": "APr"}, True),
    "a number of LVIS that no class counts for": (on_lvis("f"), {"metric": "APr"}, True),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_doctor_knows_what_evaluations_are_compared_by(folder, name):
    change, fields, expected = EVALUATIONS[name]
    given = {f"evaluation.{field}": value for field, value in fields.items()}
    begins, has_error, message = looked_at(folder, change, False, given)
    assert (begins, has_error) == (expected, not expected), message


@pytest.mark.parametrize(("change", "metric"), [(nothing, "APl"), (on_lvis("f"), "APr")])
def test_a_number_that_no_object_counts_for_is_told_before_the_training(folder, change, metric):
    looked_at(folder, change, False)
    recipe = load_recipe("rs_faster_rcnn_shapes", {"data.folder": str(folder.root), "evaluation.metric": metric})
    [told] = [one for one in diagnose(recipe.data, evaluation=recipe.evaluation).findings if metric in one.problem]
    assert (told.severity, told.problem) == ("warning", f"has no object that evaluation.metric={metric} counts")


@pytest.mark.parametrize("fields", [{"category_id": None}, {"bbox": [1, 2, -3, 4]}, {"iscrowd": 5}, {"image_id": "x"}])
def test_five_thousand_broken_records_are_told_in_few_lines(folder, fields):
    for _ in range(5000):
        folder.add(12, 7, [5, 5, 10, 10]).update(fields)
    folder.write()
    recipe = load_recipe("rs_faster_rcnn_shapes", {"data.folder": str(folder.root)})
    lines = grouped(diagnose(recipe.data).findings)
    assert len(lines) < 30
    assert any("5000 records" in line for line in lines)
