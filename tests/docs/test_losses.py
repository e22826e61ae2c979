"""docs/losses.md says what the code says: signatures, recipe types, figures."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import sys
import textwrap
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import torch

from rankdet import losses
from rankdet.recipes.schema.losses import LOSSES, DiceLoss, MaskCrossEntropyLoss
from rankdet.recipes.schema.part import type_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
CARDS = (DOCS / "losses.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", CARDS, re.DOTALL | re.MULTILINE)
PARTS = {part.__name__ for union in (losses.BoxLoss, losses.MaskLoss, losses.Auxiliary) for part in get_args(union)}


def signatures() -> dict[str, ast.FunctionDef]:
    """The signatures in the plain blocks of the cards."""
    found = {}
    plain = re.sub(r"^```python\n.*?^```$", "", CARDS, flags=re.DOTALL | re.MULTILINE)
    for block in re.findall(r"^```\n(.*?)^```$", plain, re.DOTALL | re.MULTILINE):
        for text in re.split(r"\n(?=\w)", block.strip()):
            (node,) = ast.parse(f"def {text}: ...").body
            assert isinstance(node, ast.FunctionDef)
            found[node.name] = node
    return found


def described(node: ast.FunctionDef) -> list[tuple[str, bool, str | None]]:
    """(name, only by keyword, default as it is written) of each argument but self."""
    some, named = node.args.args, node.args.kwonlyargs
    none = [None] * (len(some) - len(node.args.defaults))
    defaults = [*none, *node.args.defaults, *node.args.kw_defaults]
    values = [None if default is None else ast.unparse(default) for default in defaults]
    flags = [False] * len(some) + [True] * len(named)
    arguments = zip([*some, *named], flags, values, strict=True)
    return [(each.arg, flag, value) for each, flag, value in arguments if each.arg != "self"]


def written(name: str) -> ast.FunctionDef:
    """The function, or the constructor of the class, in the source."""
    part = getattr(losses, name)
    source = inspect.getsource(inspect.unwrap(part.__init__) if inspect.isclass(part) else part)
    (node,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(node, ast.FunctionDef)
    return node


@pytest.mark.parametrize("name", signatures())
def test_signatures_are_those_of_the_code(name: str) -> None:
    node, source = signatures()[name], written(name)
    assert described(node) == described(source)
    if node.returns is not None:
        assert source.returns is not None
        assert ast.unparse(node.returns) == ast.unparse(source.returns)


def test_every_loss_has_a_card() -> None:
    public = {name for name in losses.__all__ if re.search(r"(_loss|_loss_of_labels|_loss_at|Loss)$", name)} - {
        "BoxLoss",
        "MaskLoss",
    }
    assert public <= {*signatures(), *PARTS}
    assert all(f"{name}(" in CARDS for name in PARTS)


@pytest.fixture(scope="module")
def left() -> tuple[dict[str, Any], list[str]]:
    """The names that the page's blocks of Python leave behind, and the lines that they print."""
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in PYTHON:
            exec(compile(block, DOCS / "losses.md", "exec"), names)
    return names, printed.getvalue().splitlines()


def test_the_blocks_of_the_page_print_what_it_says(left: tuple[dict[str, Any], list[str]]) -> None:
    assert left[1] == re.findall(r"^print\(.*\)  # (.*)$", "".join(PYTHON), re.MULTILINE)
    assert [line for line in left[1] if line in ("True", "False")] == ["True", "True"]


@pytest.mark.parametrize("delta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_exact_algorithm_of_the_page_is_that_of_the_package(
    delta: float, seed: int, left: tuple[dict[str, Any], list[str]]
) -> None:
    """In forty lines; on a grid of logits, so that many are equal and many lie on the edges of cells."""
    generator = torch.Generator().manual_seed(seed)
    logits = (20 * torch.randn(2000, generator=generator, dtype=torch.float64)).round() / 10
    targets = torch.randint(-1, 2, logits.shape, generator=generator) * torch.rand(logits.shape, generator=generator)
    targets = targets.double().where(torch.rand(logits.shape, generator=generator) < 0.1, 0)
    targets = targets.where(targets >= 0, -1)
    ranking, sorting, gradient = left[0]["exact_rank_sort"](logits, targets, delta)
    logits.requires_grad_()
    loss = losses.rank_sort_loss(logits, targets, delta)
    (loss.ranking + loss.sorting).backward()
    torch.testing.assert_close((ranking, sorting), tuple(loss), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-9, atol=1e-12)
    (block,) = (block for block in PYTHON if "def exact_rank_sort" in block)
    assert len([line for line in block.splitlines() if line]) <= 45


def test_every_type_of_a_recipe_stands_on_a_card() -> None:
    for model in (*LOSSES, DiceLoss, MaskCrossEntropyLoss):
        assert f"`{type_of(model)}`" in CARDS


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
