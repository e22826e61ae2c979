"""docs/adding-a-loss.md is followed to the letter: its blocks run, print what they say, and end under the laws."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding-a-loss.md"
LAWS = ROOT / "tests" / "losses" / "test_laws.py"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@cache
def followed() -> tuple[dict[str, Any], list[str]]:
    """The names that all blocks but the last leave behind, and the lines they print; run once, as operators are."""
    names: dict[str, Any] = {"__name__": "adding_a_loss"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for block in blocks()[:-1]:
            exec(compile(block, PAGE, "exec"), names)
    return names, printed.getvalue().splitlines()


def test_every_block_prints_what_the_page_says() -> None:
    promised = [line for block in blocks() for line in re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)]
    assert len(promised) == 3
    assert followed()[1] == promised


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(10))
def test_the_rule_of_the_page_equals_its_definition(delta: float, seed: int) -> None:
    loss = followed()[0]["discounted_gain_loss"]
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(40 + 17 * seed, generator=generator, dtype=torch.float64)
    targets = torch.randint(-1, 3 + seed, logits.shape, generator=generator) == torch.tensor([[1], [-1]])
    targets = targets[0].double() - targets[1].double()
    found = []
    for implementation in ("torch", "reference"):
        own = logits.clone().requires_grad_()
        value = loss(own, targets, delta, implementation=implementation)
        value.backward()
        found.append((value.detach(), own.grad))
    assert found[0][1].any()
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-13)


def test_the_loss_of_the_page_obeys_all_laws(tmp_path: Path) -> None:
    """In a copy of their file, with the page's blocks and its line in the table."""
    laws = LAWS.read_text(encoding="utf-8")
    table_ends = laws.index("EVERY_LOSS = ")
    copy = tmp_path / "test_laws.py"
    copy.write_text("\n".join([laws[:table_ends], *blocks(), laws[table_ends:]]), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, copy]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-k", "discounted and torch"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed is not None, result.stdout
    assert int(passed[1]) > 50
