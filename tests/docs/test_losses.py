"""docs/losses.md says what the code says: signatures, recipe types, figures."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from rankdet import losses
from rankdet.recipes.schema.losses import Loss, MaskLoss

DOCS = Path(__file__).resolve().parents[2] / "docs"
CARDS = (DOCS / "losses.md").read_text(encoding="utf-8")


def signatures() -> dict[str, ast.FunctionDef]:
    """The signatures in the plain blocks of the cards."""
    found = {}
    for block in re.findall(r"^```\n(.*?)^```$", CARDS, re.DOTALL | re.MULTILINE):
        for text in re.split(r"\n(?=\w)", block.strip()):
            (node,) = ast.parse(f"def {text}: ...").body
            assert isinstance(node, ast.FunctionDef)
            found[node.name] = node
    return found


def described(node: ast.FunctionDef) -> list[tuple[str, bool, object]]:
    """(name, only by keyword, default) of each argument."""
    some, named = node.args.args, node.args.kwonlyargs
    none = [None] * (len(some) - len(node.args.defaults))
    defaults = [*none, *node.args.defaults, *node.args.kw_defaults]
    values = [inspect.Parameter.empty if default is None else ast.literal_eval(default) for default in defaults]
    flags = [False] * len(some) + [True] * len(named)
    return [(each.arg, flag, value) for each, flag, value in zip([*some, *named], flags, values, strict=True)]


@pytest.mark.parametrize("name", signatures())
def test_signatures_are_those_of_the_code(name: str) -> None:
    node = signatures()[name]
    signature = inspect.signature(getattr(losses, name))
    actual = [
        (each.name, each.kind is inspect.Parameter.KEYWORD_ONLY, each.default) for each in signature.parameters.values()
    ]
    assert described(node) == actual
    if node.returns is not None:
        assert ast.unparse(node.returns) == signature.return_annotation


def test_every_loss_has_a_card() -> None:
    public = {name for name in losses.__all__ if re.search(r"(_loss|_loss_of_labels|[a-z]Loss|APLoss|ALRPLoss)$", name)}
    assert public - {"RankingLoss"} <= set(signatures())


def test_every_type_of_a_recipe_stands_on_a_card() -> None:
    for union, _ in map(get_args, (Loss, MaskLoss)):
        for model in get_args(union):
            assert f"`{model.model_fields['type'].default}`" in CARDS


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """docs/figures.py."""
    spec = spec_from_file_location("figures", DOCS / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["figures"] = module
    spec.loader.exec_module(module)
    return module


def test_all_figures_are_drawn_by_the_command_shown_and_small(figures: ModuleType) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    shown = set(re.findall(r"\(images/losses/(\w+)\.png\)", pages))
    files = {path.stem: path.stat().st_size for path in (DOCS / "images" / "losses").iterdir()}
    assert shown == set(files) == set(figures.FIGURES)
    assert max(files.values()) < 60_000


def test_every_figure_can_be_drawn(figures: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.main(["--out", str(tmp_path)])
    assert {path.stem for path in tmp_path.iterdir()} == set(figures.FIGURES)
    assert "cells.png" in capsys.readouterr().out
