"""Tables, curves and the page say what was measured, and need nothing beside themselves."""

import base64
import re

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from rankdet.metrics import evaluate
from rankdet.report import (
    History,
    Illustration,
    Panel,
    Section,
    Series,
    Table,
    comparison_table,
    draw_curves,
    draw_equal_budgets,
    format_value,
    markdown_table,
    per_class_table,
    select_series,
    write_page,
)

NAN = float("nan")


def test_values_are_rounded_and_missing_ones_are_dashes():
    assert [format_value(v) for v in (0.12345, 3, None, NAN, "a", np.float32(0.5))] == [
        "0.123",
        "3",
        "–",
        "–",
        "a",
        "0.500",
    ]
    assert format_value(0.12345, digits=1) == "0.1"
    assert format_value(np.int64(3)) == "3"


def test_markdown_is_aligned_and_numbers_stand_to_the_right():
    lines = markdown_table(["class", "AP"], [["a|b", 0.5], ["c", NAN]]).splitlines()
    assert lines == ["| class |    AP |", "|-------|------:|", "| a\\|b  | 0.500 |", "| c     |     – |"]
    assert markdown_table(["a"], []).splitlines() == ["| a   |", "|-----|"]


def test_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1 values for 2 columns"):
        markdown_table(["a", "b"], [[1, 2], [1]])


def test_comparison_has_a_row_for_each_run_and_leaves_missing_measures_open():
    table = comparison_table({"standard": {"AP": 0.4}, "RS": {"AP": 0.5, "rho": 0.3}}, ["AP", "rho"], "loss")
    assert table == Table(["loss", "AP", "rho"], [["standard", 0.4, None], ["RS", 0.5, 0.3]])


def test_classes_of_an_evaluation_make_a_table():
    truth = {
        "images": [{"id": 1, "height": 9, "width": 9}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}],
    }
    columns, rows = per_class_table(evaluate(truth, []))
    assert columns == ["class", "objects", "AP", "oLRP", "Loc", "FP", "FN", "threshold"]
    assert [format_value(value) for value in rows[0]] == ["cat", "1", "0.000", "1.000", "–", "–", "1.000", "–"]


def test_series_takes_the_records_that_have_both_keys():
    log = [{"iteration": 1, "loss": 2.0}, {"iteration": 1, "AP": 0.1}, {"iteration": 2, "loss": 1.0}]
    assert select_series(log, "iteration", "loss") == Series([1, 2], [2.0, 1.0])
    assert select_series(log, "seconds", "loss") == Series([], [])


def test_curves_are_drawn_also_with_gaps_and_without_points(tmp_path):
    x = list(range(100))
    y = [NAN if i == 7 else 1 / (1 + i) for i in x]
    panels = [
        Panel("RPN", "iterations", "loss", {"ranking": Series(x, y), "sorting": Series([], [])}),
        Panel("Balance", "iterations", "λ", {"balance": Series(x, [3.0] * 100)}, is_logarithmic=True),
        Panel("Empty", "iterations", "loss", {}),
        Panel("One", "iterations", "loss", {"point": Series([1], [2])}),
    ]
    draw_curves(tmp_path / "curves.png", panels)
    image = imread(tmp_path / "curves.png")
    assert image.shape[0] > 600  # two rows of panels
    assert np.unique(image[..., :3].reshape(-1, 3), axis=0).shape[0] > 20


def test_no_panels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no panels"):
        draw_curves(tmp_path / "curves.png", [])
    assert not (tmp_path / "curves.png").exists()


def test_equal_budgets_stand_side_by_side(tmp_path):
    runs = {"standard": History([10, 20], [1, 2], [0.1, 0.4]), "RS": History([10, 20], [2, 4], [0.2, 0.5])}
    draw_equal_budgets(tmp_path / "budgets.svg", runs, "AP50")
    text = (tmp_path / "budgets.svg").read_text()
    assert all(f"<!-- {label} -->" in text for label in ("Equal iterations", "Equal time", "AP50", "standard", "RS"))


def test_page_holds_everything_inside_and_escapes_what_it_is_told(tmp_path):
    draw_curves(tmp_path / "curves.png", [Panel("a", "x", "y", {"b": Series([0, 1], [1, 2])})])
    sections = [
        Section("Numbers", "First.\n\nSecond <b>.", Table(["loss", "AP"], [["RS & co", 0.5], ["standard", None]])),
        Section("Curves", illustrations=[Illustration(tmp_path / "curves.png", "Two & two")]),
        Section("Images", illustrations=[Illustration(torch.zeros(3, 4, 5, dtype=torch.uint8))]),
    ]
    write_page(tmp_path / "index.html", "Rank & Sort", sections, "Why.")
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<title>Rank &amp; Sort</title>" in html
    assert "<p>First.</p>" in html
    assert "<p>Second &lt;b&gt;.</p>" in html
    assert '<td>RS &amp; co</td><td class="number">0.500</td>' in html
    assert '<td class="number">–</td>' in html
    assert "<figcaption>Two &amp; two</figcaption>" in html
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 2
    assert base64.b64decode(sources[0].split(",")[1]) == (tmp_path / "curves.png").read_bytes()
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "://" not in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "index.html"]


def test_page_with_an_unknown_image_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"a\.gif: a page shows"):
        write_page(tmp_path / "index.html", "a", [Section("b", illustrations=[Illustration(tmp_path / "a.gif")])])
    assert list(tmp_path.iterdir()) == []


def test_a_page_shows_codes_in_place_of_characters_that_no_file_can_hold(tmp_path):
    write_page(tmp_path / "index.html", "a\udcff", [Section("b\udcff", table=Table(["c\udcff"], [["d\udcff"]]))])
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert all(f"{letter}\\udcff<" in html for letter in "abcd")
