"""docs/recipes.md: its Python prints what it says, and its YAML is a recipe."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml

from rankdet.recipes import load_recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
OUTSIDE = PAGE.parents[1] / "tests" / "recipes" / "outside_package"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_python_prints_what_the_page_says() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks("python"):
            exec(compile(block, PAGE, "exec"), {})
    promised = [line for block in blocks("python") for line in re.findall(r"print\(.*\)  # (.*)$", block, re.MULTILINE)]
    assert promised
    assert printed.getvalue().splitlines() == promised


def test_every_file_of_the_page_is_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    for block in blocks("yaml"):
        path = tmp_path / "mine.yaml"
        path.write_text(block.replace("my_losses", "outside_losses"), encoding="utf-8")
        recipe = load_recipe(path)
        for head, loss in yaml.safe_load(block)["losses"].items():
            assert recipe.losses[head].type.split(":")[-1] == loss["type"].split(":")[-1]
