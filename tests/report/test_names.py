"""Names of classes are data: whatever they look like, tables, pages and drawings show them as they are."""

import ast
import io
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt
from rich.console import Console

import rankdet
from rankdet.cli.printing import print_evaluation
from rankdet.metrics import evaluate
from rankdet.report import (
    Panel,
    Section,
    Series,
    Table,
    draw_curves,
    draw_detections,
    draw_grid,
    markdown_table,
    per_class_table,
    write_page,
)
from rankdet.structures import Detection

NAMES = [
    "light [red]", "screw [/M4]", "[bold]", "[/]", "[link=x]y[/link]", ":smile:", "a$b$c", "$x^", "x|y", r"C:\new",
    "<b>bold</b>", "R&amp;D", "*star* and **more**", "_under_score_", "`code`", "~~gone~~", "# head", "[a](b)", "é ☃",
]  # fmt: skip
CONTROLS = {
    "two\nlines": r"two\nlines",
    "tab\tend": r"tab\tend",
    "\x1b[31mred": r"\x1b[31mred",
    "a\u2028b": r"a\u2028b",
}


class Texts(HTMLParser):
    """The texts of a page, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def texts(html: str) -> list[str]:
    parser = Texts()
    parser.feed(html)
    parser.close()
    return parser.found


def metrics_of(names: list[str]) -> dict:
    categories = [{"id": place, "name": name} for place, name in enumerate(names, start=1)]
    truth = {"images": [{"id": 1, "width": 9, "height": 9}], "categories": categories, "annotations": []}
    return dict(evaluate(truth, []))


def printed(names: list[str]) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    print_evaluation(console, metrics_of(names))
    return console.file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_terminal_shows_a_name_as_it_is(name: str):
    assert f" {name} " in printed(["other", name])


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_as_it_is(name: str):
    table = per_class_table(metrics_of(["other", name]))
    html = MarkdownIt("gfm-like", {"linkify": False}).render(markdown_table(table.columns, table.rows))
    assert name in texts(html)


@pytest.mark.parametrize("name", NAMES)
def test_page_shows_a_name_as_it_is(name: str, tmp_path: Path):
    write_page(tmp_path / "page.html", name, [Section(name, table=Table(["class", name], [[name, 0.5]]))])
    assert texts((tmp_path / "page.html").read_text()).count(name) == 5  # three titles, the heading of a column, a cell


@pytest.mark.parametrize("name", NAMES)
def test_curves_and_drawings_show_a_name_as_it_is(name: str, tmp_path: Path):
    points = Series([0, 1], [1, 2])
    draw_curves(tmp_path / "curves.svg", [Panel(name, name, name, {name: points, "other": points})])
    if "-" not in name:
        assert unescape((tmp_path / "curves.svg").read_text()).count(f"<!-- {name} -->") >= 4 - name.startswith("_")
    detection = Detection(torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([0.5]), torch.tensor([0]))
    drawn = draw_detections(torch.zeros(3, 64, 64, dtype=torch.uint8), detection, [name])
    assert draw_grid([drawn], [name]).shape[0] == 3


@pytest.mark.parametrize(("name", "shown"), CONTROLS.items())
def test_what_a_terminal_would_obey_is_shown_by_its_code(name: str, shown: str):
    assert f" {shown} " in printed(["other", name])
    assert shown.replace("\\", "\\\\").replace("[", r"\[") in markdown_table(["class"], [[name]])


def test_no_column_of_a_progress_bar_reads_markup():
    """A law over the source: what is printed there may hold names of the user."""
    for path in Path(rankdet.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "TextColumn":
                assert any(keyword.arg == "markup" for keyword in node.keywords), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "track":
                # Its description is markup, so a text of the user in it is escaped.
                assert not any(isinstance(argument, ast.JoinedStr) for argument in node.args), (
                    f"{path.name}:{node.lineno}"
                )
