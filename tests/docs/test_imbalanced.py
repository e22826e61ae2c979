"""docs/imbalanced.md prints what it says, and its measurements are those of the tables that it links to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "imbalanced.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (said,) = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(code, "imbalanced.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    for line, expected in zip(printed, said.splitlines(), strict=True):
        *words, positives, negatives = line.split()
        *expected_words, expected_positives, expected_negatives = expected.split()
        assert words == expected_words
        pulls = float(positives), float(negatives)
        assert pulls == pytest.approx((float(expected_positives), float(expected_negatives)), rel=0.01, abs=0.001)


@pytest.mark.parametrize("section", [part for part in PAGE.split("\n## ") if "reproduce" in part and "\n|" in part])
def test_measurements_of_a_section_stand_in_the_tables_that_it_links_to(section: str) -> None:
    tables = re.findall(r"\((tables/\S+\.md)\)", section)
    measured = " ".join((DOCS / table).read_text(encoding="utf-8") for table in tables)
    figures = re.findall(r"\d+\.\d ± \d+\.\d", section)
    assert len(figures) >= 4
    assert set(figures) <= set(re.findall(r"\d+\.\d ± \d+\.\d", measured))
    commands = re.findall(r"^rankdet reproduce (\S+)", section, re.MULTILINE)
    assert all(f"`rankdet reproduce {command} " in measured for command in commands)
