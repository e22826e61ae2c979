"""What the README shows of the losses runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_python_of_the_readme_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, README, "exec"), names)
    assert names["logits"].grad.any()
    (names["precision"] + names["classification"] + names["localization"]).backward()
    assert names["errors"].grad.any()
