"""The page of a report: its figures are those of the evaluation, whatever it is made from."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rankdet.review import write_report
from rankdet.runs.folder import Run
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
        if tag in ("td", "th", "h2", "h3"):
            self._text, self._exact = "", dict(attributes).get("data-value") or ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h2", "h3"):
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
    keys = {"Loc": "oLRP_Loc", "FP": "oLRP_FP", "FN": "oLRP_FN"}
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
    with pytest.raises(InputError, match=r"has noted an AP of 0\.\d+, but .*half.json gives .*name them with --data"):
        write_report([run.folder], tmp_path / "report.html", data=tmp_path / "half.json", images=data / "images/val")
    assert not (tmp_path / "report.html").exists()


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


def test_the_error_of_a_class_is_the_sum_of_its_parts(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[:1], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    chart = html[html.index('id="what-olrp-is-made-of"') :]
    parts = [float(value) for value in re.findall(r"<title>(?:localization|false positives|missed): ([\d.]+)", chart)]
    totals = [float(value) for value in re.findall(r'<text class="value"[^>]*>([\d.]+)<', chart)]
    assert len(parts) == 3 * len(totals) > 0
    for place, total in enumerate(totals):
        assert sum(parts[3 * place : 3 * place + 3]) == pytest.approx(total, abs=0.002)
