"""What runs leave behind, compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run, read_log


def records(folder: Path) -> list[dict[str, Any]]:
    """The log of a run without times."""
    return [{name: value for name, value in record.items() if name != "timing"} for record in read_log(Run(folder).log)]


def clean(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds, without times."""
    state = load_checkpoint(checkpoint)
    del state["seconds"], state["processor_seconds"]
    return state


def equal(first: Any, second: Any) -> bool:
    """Bit for bit, through dictionaries and lists."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second) or (first != first and second != second)  # NaN: a class without a threshold
