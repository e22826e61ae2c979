"""A report in a headless Chromium: no error, no request, and all can be done by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rankdet.report import Section, Table, write_page
from rankdet.report.tables import Value
from rankdet.review import write_report

from ..browser import CHROMIUM, Page, browser, check_quiet

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def html(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    write_report(runs, out)
    return out


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_opens_without_an_error_or_a_request_and_fits(page: Page, html: Path, width: int, dark: bool) -> None:
    page.open(html, width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.title") == "run <b>0 and run <b>1"
    assert page.run("document.querySelectorAll('figure.chart svg[role=img][aria-label]').length") > 10
    assert html.stat().st_size < 5e6
    check_quiet(page, html)


def test_lines_differ_without_their_colors(page: Page, html: Path) -> None:
    page.open(html)
    lines = "[...document.querySelector('.pair svg').querySelectorAll('.line')]"
    assert len(set(page.run(f"{lines}.map(e => getComputedStyle(e).strokeDasharray)"))) == 2
    marks = "[...document.querySelector('.legend').querySelectorAll('.mark')].map(e => e.getAttribute('d'))"
    assert len(set(page.run(marks))) == 2
    fills = "[...document.querySelectorAll('.chart .bar')].slice(0, 3).map(e => getComputedStyle(e).fill)"
    assert ["url" in fill for fill in page.run(fills)] == [False, True, True]


def test_a_table_is_sorted_and_copied_by_keyboard(page: Page, html: Path) -> None:
    page.open(html)
    table = "document.querySelector('#classes').parentElement.querySelector('table')"
    column = f"[...{table}.tBodies[0].rows].map(row => Number(row.cells[2].dataset.value ?? row.cells[2].textContent))"
    page.run(f"{table}.tHead.rows[0].cells[2].querySelector('button').focus()")
    page.press("Enter")
    falling = page.run(column)
    assert falling == sorted(falling, reverse=True)
    page.press("Enter")
    assert page.run(column) == falling[::-1]
    assert page.run(f"{table}.tHead.rows[0].cells[2].getAttribute('aria-sort')") == "ascending"
    page.run("window.copied = ''; navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.run(f"{table}.parentElement.nextElementSibling.querySelector('button').focus()")
    page.press("Enter")
    lines = page.run("window.copied").split("\n")
    assert (
        lines[0]
        == "class,objects,AP run <b>0,AP run <b>1,oLRP run <b>0,oLRP run <b>1,threshold run <b>0,threshold run <b>1"
    )
    assert [float(line.split(",")[2]) for line in lines[1:]] == falling[::-1]
    check_quiet(page, html)


def test_names_that_are_numbers_in_part_are_sorted_as_names(page: Page, tmp_path: Path) -> None:
    rows: list[list[Value]] = [["10", 1.0, 3], ["cat", 2.0, None], ["9", 0.5, 12]]
    write_page(tmp_path / "page.html", "sorted", [Section("Classes", table=Table(["class", "AP", "objects"], rows))])
    page.open(tmp_path / "page.html")
    for column, expected in ((0, ["9", "10", "cat"]), (1, ["cat", "10", "9"]), (2, ["9", "10", "cat"])):
        page.run(f"document.querySelectorAll('thead button')[{column}].click()")
        assert page.run("[...document.querySelectorAll('tbody tr')].map(row => row.cells[0].textContent)") == expected
    check_quiet(page, tmp_path / "page.html")


def test_a_page_of_any_table_can_be_walked_through_by_tab(page: Page, html: Path) -> None:
    page.open(html)
    reached = set()
    for _ in range(24):
        page.press("Tab")
        reached.add(page.run("document.activeElement.tagName"))
    assert {"A", "BUTTON", "DIV"} <= reached
