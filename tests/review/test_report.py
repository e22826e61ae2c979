"""The page of a report: its figures are those of the evaluation, whatever it is made from."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rankdet.data import make_shapes
from rankdet.recipes import dump, load_recipe
from rankdet.review import write_report
from rankdet.runs.folder import Run, write_json, write_text
from rankdet.structures import InputError

from .conftest import make_run


class Tables(HTMLParser):
    """The tables of a page by the heading before them: what a cell holds, exactly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._heading, self._rows, self._text, self._exact = "", [], "", ""  # type: ignore[var-annotated]
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._rows = self.found[self._heading] = []
        elif tag == "tr":
            self._rows.append([])
        if tag in ("td", "th", "h2", "h3", "summary"):
            self._text, self._exact = "", dict(attributes).get("data-value") or ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "h3", "summary"):
            self._heading = self._text
        elif tag in ("td", "th"):
            self._rows[-1].append(self._exact or self._text)


def tables(file: Path) -> dict[str, list[list[str]]]:
    return Tables(file.read_text(encoding="utf-8")).found


def same(text: str, value: Any) -> bool:
    return text == "–" if value is None else float(text) == value


def evaluation(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Run(run).evaluation.read_text())
    return found


def check_summary(rows: list[list[str]], expected: list[dict[str, Any]]) -> None:
    keys = {"Loc": "oLRP_Loc", "FP": "oLRP_FP", "FN": "oLRP_FN", "ρ": "rank_correlation"}
    assert len(rows) == len(expected) + 1
    for row, metrics in zip(rows[1:], expected, strict=True):
        for heading, text in list(zip(rows[0], row, strict=True))[1:]:
            assert same(text, metrics[keys.get(heading, heading)]), heading


def check_classes(rows: list[list[str]], metrics: dict[str, Any]) -> None:
    keys = ("ground_truths", "AP", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN", "threshold")
    assert {row[0] for row in rows[1:]} == set(metrics["per_class"])
    for name, *texts in rows[1:]:
        for key, text in zip(keys, texts, strict=True):
            assert same(text, metrics["per_class"][name][key]), (name, key)


def test_the_figures_of_a_run_are_those_of_its_evaluation(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[:1], tmp_path / "report.html")
    found, metrics = tables(tmp_path / "report.html"), evaluation(runs[0])
    check_summary(found["Summary"], [metrics])
    check_classes(found["Classes"], metrics)


def test_the_figures_of_compared_runs_are_those_of_each(runs: list[Path], tmp_path: Path) -> None:
    subjects = write_report(runs, tmp_path / "report.html")
    found = tables(tmp_path / "report.html")
    check_summary(found["Summary"], [evaluation(run) for run in runs])
    for run, subject in zip(runs, subjects, strict=True):
        check_classes(found[f"Classes of {subject.name}"], evaluation(run))
    head, *rows = found["Classes"]
    for name, _, *texts in rows:
        for heading, text in zip(head[2:], texts, strict=True):
            measure, _, owner = heading.partition(" ")
            run = next(run for run, subject in zip(runs, subjects, strict=True) if subject.name == owner)
            assert same(text, evaluation(run)["per_class"][name][measure])


def test_masks_are_reported_beside_boxes_and_curves_are_theirs(mask_run: Path, tmp_path: Path) -> None:
    write_report([mask_run], tmp_path / "report.html")
    found, metrics = tables(tmp_path / "report.html"), evaluation(mask_run)
    check_summary(found["Summary"], [metrics, metrics["masks"]])
    check_classes(found["Classes"], metrics["masks"])
    write_report([mask_run], tmp_path / "boxes.html", iou_type="bbox")
    check_classes(tables(tmp_path / "boxes.html")["Classes"], metrics)


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_file_of_detections_has_the_figures_of_its_run(
    runs: list[Path], data: Path, tmp_path: Path, is_folder: bool
) -> None:
    file = tmp_path / "theirs.json"
    shutil.copyfile(Run(runs[0]).detections, file)
    truth = data if is_folder else data / "annotations" / "instances_val.json"
    write_report([file], tmp_path / "report.html", data=truth)
    found, metrics = tables(tmp_path / "report.html"), evaluation(runs[0])
    check_summary(found["Summary"], [metrics])
    check_classes(found["Classes"], metrics)


def test_a_run_without_its_data_is_reported_without_curves(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    text = run.recipe.read_text().replace(str(data), str(tmp_path / "moved"))
    run.recipe.write_text(text)
    (subject,) = write_report([run.folder], tmp_path / "report.html")
    assert any("moved" in line and "--data" in line for line in subject.findings)
    html = (tmp_path / "report.html").read_text()
    assert "LRP error" not in html
    assert "Learning curves" in html
    check_summary(tables(tmp_path / "report.html")["Summary"], [evaluation(run.folder)])


def test_a_run_that_was_evaluated_on_other_objects_is_refused(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    truth = json.loads((data / "annotations" / "instances_val.json").read_text())
    truth["annotations"] = truth["annotations"][::2]
    (tmp_path / "half.json").write_text(json.dumps(truth))
    there = {"data": tmp_path / "half.json", "images": data / "images/val"}
    with pytest.raises(InputError, match=r"was evaluated on other data: images or objects of .*half.json differ: name"):
        write_report([run.folder], tmp_path / "report.html", **there)
    metrics = evaluation(run.folder)
    del metrics["data_digest"]  # as older evaluations
    write_json(run.evaluation, metrics)
    with pytest.raises(InputError, match=r"was evaluated on \d+ objects, but .*half.json has .*name its data"):
        write_report([run.folder], tmp_path / "report.html", **there)
    assert not (tmp_path / "report.html").exists()


def test_a_box_that_has_moved_makes_other_data(data: Path, tmp_path: Path) -> None:
    """Bad detections have the same AP on both, and the number of objects is the same."""
    run = make_run(tmp_path / "run", data)
    write_json(run.detections, [])
    write_json(run.evaluation, {"data_digest": evaluation(run.folder)["data_digest"]})
    truth = json.loads((data / "annotations" / "instances_val.json").read_text())
    (tmp_path / "same.json").write_text(json.dumps(truth | {"annotations": truth["annotations"][::-1]}))
    write_report([run.folder], tmp_path / "report.html", data=tmp_path / "same.json", images=data / "images/val")
    truth["annotations"][3]["bbox"][0] += 1
    (tmp_path / "moved.json").write_text(json.dumps(truth))
    with pytest.raises(InputError, match=r"was evaluated on other data: images or objects of .*moved.json differ"):
        write_report([run.folder], tmp_path / "report.html", data=tmp_path / "moved.json", images=data / "images/val")


def test_what_is_broken_is_told_and_not_evaluated_anew(data: Path, tmp_path: Path) -> None:
    """The checkpoint could not be read: nothing tries to."""
    run = make_run(tmp_path / "run", data)
    run.checkpoint(1).parent.mkdir()
    run.checkpoint(1).write_bytes(b"no checkpoint")
    write_json(run.detections, [{"image_id": 1}])
    with pytest.raises(InputError, match=r"detections.json: "):
        write_report([run.folder], tmp_path / "report.html", data=data)


def test_masks_without_masks_to_compare_with_are_told(tmp_path: Path) -> None:
    truth = scene(tmp_path, ["cat"], [(0, [10, 10, 30, 30])])
    polygon = [[10, 10, 40, 10, 40, 40]]
    found = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "score": 0.5, "segmentation": polygon}]
    with pytest.raises(InputError, match=r"no object has a sound one.*--iou-type bbox compares boxes"):
        written(tmp_path, truth, found)
    assert "AP" in written(tmp_path, truth, found, iou_type="bbox").read_text()


def test_runs_of_other_data_have_their_own_numbers_of_objects(data: Path, tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", data)
    other = make_shapes(tmp_path / "other", train=2, val=3, size=96, seed=5)
    second = make_run(tmp_path / "second", other)
    write_report([first.folder, second.folder], tmp_path / "report.html")
    head, *rows = tables(tmp_path / "report.html")["Classes"]
    assert head[1:3] == ["objects first", "objects second"]
    for name, *counts in (row[:3] for row in rows):
        for run, count in zip((first, second), counts, strict=True):
            own = evaluation(run.folder)["per_class"].get(name)
            assert count == ("–" if own is None else str(own["ground_truths"]))
    assert "measured on different data, which cannot be compared" in (tmp_path / "report.html").read_text()


def test_the_operating_point_and_calibrated_scores_are_said(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    point = {"score_threshold": 0.4, "nms_iou": 0.5}
    write_json(run.evaluation, evaluation(run.folder) | {"operating_point": point, "calibration": {"LaECE0": 0.1}})
    write_report([run.folder], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "run was evaluated at the operating point score threshold 0.4, NMS 0.5" in html
    assert "run was evaluated with calibrated scores" in html


def test_reasons_of_masks_are_those_of_masks(tmp_path: Path) -> None:
    """The boxes are the same, and the masks are two triangles that share their diagonal alone."""
    truth = scene(tmp_path, ["cat"], [(0, [10, 10, 30, 30])])
    truth["annotations"][0]["segmentation"] = [[10, 10, 40, 10, 10, 40]]
    truth["images"].append({"id": 2, "file_name": "gray.png", "width": 200, "height": 100})
    second = [[0, 0, 50, 0, 50, 50, 0, 50]]
    truth["annotations"].append(
        {"id": 9, "image_id": 2, "category_id": 1, "bbox": [0, 0, 50, 50], "segmentation": second}
    )
    found = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": [[40, 10, 40, 40, 10, 40]]},
        {"image_id": 2, "category_id": 1, "score": 0.8, "segmentation": second},
    ]
    reasons = [reason for _, reason in captions(written(tmp_path, truth, found).read_text())]
    assert reasons == ["nothing is annotated there", "nothing is found there"]


def test_what_cannot_be_reported_is_said(data: Path, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    detections = Run(runs[0]).detections
    with pytest.raises(InputError, match="does not say what was to be found: name it with --data"):
        write_report([detections], out)
    with pytest.raises(InputError, match="there is no run folder and no file of detections"):
        write_report([tmp_path / "none"], out)
    with pytest.raises(InputError, match="is no run folder"):
        write_report([data], out)
    with pytest.raises(InputError, match="named twice"):
        write_report([runs[0], runs[0]], out)
    with pytest.raises(InputError, match="is a folder: --out is the HTML file"):
        write_report([runs[0]], tmp_path)
    with pytest.raises(InputError, match="name it with --data"):
        write_report([runs[0]], out, images=data)
    with pytest.raises(InputError, match=r"detections.json: .*unknown image_id"):
        write_report([detections], out, data=data, split="train")


def test_a_run_that_was_not_evaluated_has_learning_curves(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    run.detections.unlink()
    run.evaluation.unlink()
    write_report([run.folder], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "Nothing is measured yet" in html
    assert re.search(r"<h3>Head rpn</h3>", html)


def test_seconds_and_differences_of_recipes_are_those_of_the_run(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "report.html")
    found = tables(tmp_path / "report.html")
    head, *rows = found["Time"]
    for row in rows:
        numbers = dict(zip(head[1:], map(float, row[1:]), strict=True))
        assert numbers["iterations"] == 100
        assert numbers["seconds per iteration"] == pytest.approx(0.1)
        assert numbers["waiting for images"] == pytest.approx(0.02)
        assert numbers["network and losses"] == pytest.approx(0.08)
        assert numbers["evaluations, spread over iterations"] == pytest.approx(2 * 0.5 / 100)
    assert found["Recipes"] == [["field", "run <b>0", "run <b>1"], ["seed", "0", "1"]]


def test_one_run_is_compared_with_the_built_in_recipe_of_its_name(runs: list[Path], data: Path, tmp_path: Path) -> None:
    write_report(runs[1:], tmp_path / "report.html")
    head, *rows = tables(tmp_path / "report.html")["Recipes"]
    assert head == ["field", "built-in rs_faster_rcnn_shapes", "run <b>1"]
    assert {row[0]: row[2] for row in rows} == {"seed": "1", "data.folder": str(data)}


def test_confused_classes_add_up_to_the_objects(runs: list[Path], data: Path, tmp_path: Path) -> None:
    (subject,) = write_report(runs[:1], tmp_path / "report.html")
    head, *rows = tables(tmp_path / "report.html")[subject.name]
    assert (head[-1], rows[-1][0]) == ("nothing", "no object")
    truth = json.loads((data / "annotations" / "instances_val.json").read_text())
    counts = {name: numbers["ground_truths"] for name, numbers in evaluation(runs[0])["per_class"].items()}
    assert {row[0]: sum(map(int, row[1:])) for row in rows[:-1]} == counts
    assert sum(counts.values()) == len(truth["annotations"])


def written(folder: Path, truth: dict[str, Any], found: list[dict[str, Any]], **options: Any) -> Path:
    """The report of detections of another tool."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(found))
    write_report([folder / "found.json"], folder / "report.html", data=folder / "truth.json", **options)
    return folder / "report.html"


def scene(folder: Path, classes: list[str], objects: list[tuple[int, list[int]]]) -> dict[str, Any]:
    """A gray image with objects of these classes, by their places, and boxes."""
    Image.new("RGB", (200, 100), (99, 99, 99)).save(folder / "gray.png")
    return {
        "images": [{"id": 1, "file_name": "gray.png", "width": 200, "height": 100}],
        "categories": [{"id": place + 1, "name": name} for place, name in enumerate(classes)],
        "annotations": [
            {"id": place + 1, "image_id": 1, "category_id": label + 1, "bbox": box}
            for place, (label, box) in enumerate(objects)
        ],
    }


def captions(html: str) -> list[str]:
    return re.findall(r"<figcaption><b>([^<]*)</b> ([^<]*)<br>gray.png", html)


def test_worst_errors_are_shown_with_their_reasons(tmp_path: Path) -> None:
    boxes = [[10, 10, 30, 30], [60, 10, 30, 30], [110, 10, 30, 30], [10, 60, 30, 30]]
    truth = scene(tmp_path, ["cat", "dog"], [(0, boxes[0]), (1, boxes[1]), (0, boxes[2]), (1, boxes[3])])
    rows = [(1, 1, boxes[0], 0.9), (1, 1, boxes[0], 0.8), (1, 1, boxes[1], 0.7), (2, 1, [150, 60, 20, 20], 0.6)]
    rows += [(1, 1, [125, 10, 30, 30], 0.5), (1, 1, boxes[2], 0.4), (1, 2, boxes[3], 0.9)]
    # Objects that are found with a low score keep the threshold low.
    truth["images"].append({"id": 2, "file_name": "gray.png", "width": 200, "height": 100})
    for place in range(20):
        box = [9 * place, 0, 8, 8]
        truth["annotations"].append({"id": 10 + place, "image_id": 2, "category_id": 1, "bbox": box})
        rows.append((2, 1, box, 0.3))
    found = [
        {"image_id": image, "category_id": label, "bbox": box, "score": score} for image, label, box, score in rows
    ]
    html = written(tmp_path, truth, found).read_text()
    assert set(captions(html)) == {
        ("cat 0.80", "second detection of an object"),
        ("cat 0.70", "is annotated as dog"),
        ("cat 0.60", "nothing is annotated there"),
        ("cat 0.50", "badly localized, IoU 0.33"),
        ("dog", "taken for cat"),
    }
    assert html.count("data:image/webp") == 5


@pytest.mark.parametrize(
    ("box", "score", "reason"),
    [
        (None, 0.9, "nothing is found in the image"),
        ([150, 60, 20, 20], 0.9, "nothing is found there"),
        ([25, 10, 30, 30], 0.9, "the nearest detection has an IoU of 0.33"),
    ],
)
def test_a_missed_object_says_what_is_near(tmp_path: Path, box: list[int] | None, score: float, reason: str) -> None:
    """A second image makes a threshold, which takes a true positive."""
    truth = scene(tmp_path, ["cat"], [(0, [10, 10, 30, 30])])
    truth["images"].append({"id": 2, "file_name": "gray.png", "width": 200, "height": 100})
    truth["annotations"].append({"id": 9, "image_id": 2, "category_id": 1, "bbox": [0, 0, 50, 50]})
    found = [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 50, 50], "score": 0.8}]
    if box is not None:
        found.append({"image_id": 1, "category_id": 1, "bbox": box, "score": score})
    assert captions(written(tmp_path, truth, found).read_text())[-1] == ("cat", reason)


def test_an_image_that_cannot_be_read_is_said_in_its_place(tmp_path: Path) -> None:
    truth = scene(tmp_path, ["cat"], [(0, [10, 10, 30, 30])])
    (tmp_path / "gray.png").write_bytes(b"no image")
    html = written(tmp_path, truth, []).read_text()
    assert "gray.png (cannot be read)" in html
    assert "data:image/webp" not in html
    assert html.count('<path class="main object"') == 1
    assert captions(html) == [("cat", "nothing is found in the image")]


def test_names_of_classes_are_text(tmp_path: Path) -> None:
    name = '<script>document.title="x"</script>'
    truth = scene(tmp_path, [name, "dog"], [(0, [10, 10, 30, 30])])
    found = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "score": 0.5}]
    html = written(tmp_path, truth, found).read_text()
    assert html.count("<script>") == 1
    assert "&lt;script&gt;" in html


def test_a_page_of_a_thousand_classes_stays_small(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    objects = [(place % 1000, [int(v) for v in random.integers(1, 60, 4)]) for place in range(2000)]
    truth = scene(tmp_path, [f"class {place}" for place in range(1000)], objects)
    found = [
        {"image_id": 1, "category_id": (label + (place % 7 == 0)) % 1000 + 1, "bbox": box, "score": random.random()}
        for place, (label, box) in enumerate(objects)
    ]
    file = written(tmp_path, truth, found)
    assert file.stat().st_size < 5e6
    found_tables = tables(file)
    assert len(found_tables["Classes"]) == 1001
    assert found_tables["found.json"][0] == ["object", "taken for", "number", "objects"]
    html = file.read_text()
    assert html.count(": LRP error</figcaption>") == 80
    assert "The 80 classes with the most objects of 1000." in html
    few = written(tmp_path, truth, found, classes=3).read_text()
    assert few.count(": LRP error</figcaption>") == 3


def test_lvis_has_frequencies_and_means_over_them(tmp_path: Path) -> None:
    truth = scene(tmp_path, ["a", "b", "c"], [(0, [10, 10, 30, 30]), (1, [60, 10, 30, 30]), (2, [110, 10, 30, 30])])
    truth["images"][0] |= {"neg_category_ids": [1], "not_exhaustive_category_ids": []}
    for category, frequency in zip(truth["categories"], "rcc", strict=True):
        category["frequency"] = frequency
    found = [{"image_id": 1, "category_id": 2, "bbox": [60, 10, 30, 30], "score": 0.5}]
    html = written(tmp_path, truth, found)
    assert [row[:2] for row in tables(html)["Classes"]] == [
        ["class", "frequency"],
        ["a", "rare"],
        ["b", "common"],
        ["c", "common"],
    ]
    rows = [row[1:] for row in tables(html)["Classes by frequency"][1:]]
    assert [row[:3] for row in rows] == [["rare", "1", "1"], ["common", "2", "2"], ["frequent", "0", "0"]]
    assert [float(text) for row in rows[:2] for text in row[3:]] == pytest.approx([0, 1, 0.5, 0.5])
    assert rows[2][3:] == ["–", "–"]
    assert tables(html)["Summary"][0][7:10] == ["APr", "APc", "APf"]


def test_the_error_of_a_class_is_the_sum_of_its_parts(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[:1], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    chart = html[html.index('id="what-olrp-is-made-of"') :]
    parts = [float(value) for value in re.findall(r"<title>(?:localization|false positives|missed): ([\d.]+)", chart)]
    totals = [float(value) for value in re.findall(r'<text class="value"[^>]*>([\d.]+)<', chart)]
    assert len(parts) == 3 * len(totals) > 0
    for place, total in enumerate(totals):
        assert sum(parts[3 * place : 3 * place + 3]) == pytest.approx(total, abs=0.002)


def test_a_run_whose_numbers_its_detections_do_not_have_is_refused(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data)
    found = json.loads(run.detections.read_text())
    run.detections.write_text(json.dumps(found[::2]))
    with pytest.raises(InputError, match=r"has noted an AP of 0\.\d+, but .* gives 0\.\d+: it was evaluated on other"):
        write_report([run.folder], tmp_path / "report.html")


def test_a_run_that_was_evaluated_on_images_without_objects_is_reported(
    runs: list[Path], data: Path, tmp_path: Path
) -> None:
    """Such an evaluation has noted no numbers: it is alone, and beside one that has."""
    run = make_run(tmp_path / "run", data)
    truth = json.loads((data / "annotations" / "instances_val.json").read_text()) | {"annotations": []}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    recipe = load_recipe(
        "rs_faster_rcnn_shapes",
        {
            "data.validation_annotations": str(tmp_path / "truth.json"),
            "data.validation_images": str(data / "images" / "val"),
            "data.folder": str(data),
        },
    )
    write_text(run.recipe, dump(recipe))
    write_json(run.evaluation, {"findings": [], "images_unreadable": 0})
    for found in ([run.folder], [runs[0], run.folder]):
        subjects = write_report(found, tmp_path / "report.html")
        assert any("has no objects" in line for line in subjects[-1].findings)
        assert tables(tmp_path / "report.html")["Summary"][-1][1] == "–"


def test_runs_that_held_out_other_parts_of_one_file_have_their_own_objects(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data / "images" / "val", folder / "images" / "train")
    (folder / "annotations").mkdir()
    shutil.copyfile(data / "annotations" / "instances_val.json", folder / "annotations" / "instances_train.json")
    runs = []
    for share in (0.25, 0.5):
        run = Run(tmp_path / f"run {share}")
        run.folder.mkdir()
        changes = {"data.folder": str(folder), "data.validation_fraction": share}
        write_text(run.recipe, dump(load_recipe("rs_faster_rcnn_shapes", changes)))
        write_json(run.detections, [])
        runs.append(run.folder)
    subjects = write_report(runs, tmp_path / "report.html")
    images = [len(one.measured.comparison.ground_truth.image_ids) for one in subjects if one.measured is not None]
    assert 0 < images[0] < images[1] < 8
    assert "measured on different data" in (tmp_path / "report.html").read_text()


def test_a_class_that_is_never_found_is_all_missed(tmp_path: Path) -> None:
    truth = scene(tmp_path, ["cat", "dog"], [(0, [10, 10, 30, 30]), (1, [60, 10, 30, 30])])
    found = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "score": 0.5}]
    html = written(tmp_path, truth, found).read_text()
    said = html[html.index('id="what-olrp-is-made-of"') :]
    assert 'aria-label="found.json: cat 0.000, dog 1.000"' in said
    assert "<title>missed: 1.000</title>" in said


def test_an_empty_mask_beside_a_box_is_none(tmp_path: Path) -> None:
    truth = scene(tmp_path, ["cat"], [(0, [10, 10, 30, 30])])
    for nothing in ([], None):
        found = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "score": 0.5, "segmentation": nothing}]
        assert tables(written(tmp_path, truth, found))["Summary"][1][1] == "0.9999999999999998"


def test_detections_that_are_no_records_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found.json: "):
        written(tmp_path, scene(tmp_path, ["cat"], [(0, [10, 10, 30, 30])]), [1, 2])  # type: ignore[list-item]
