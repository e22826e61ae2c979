"""The benchmark of SOLOv2's memory: both ways to compute give the same, in pieces as well as at once."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("what", ["detection", "training"])
def test_pieces_give_what_the_whole_gives(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("solov2_memory")
    small = {"SIZE": (160, 261), "MAP": (40, 66), "CHANNELS": 16, "CANDIDATES": 60, "MASKS": (3, 4, 0, 5)}
    for name, value in small.items():
        monkeypatch.setattr(module, name, value)
    for chunk in ("rankdet.detectors.solov2.CHUNK", "rankdet.losses.localization.MASK_CHUNK"):
        monkeypatch.setattr(chunk, 7 * 40 * 66)
    results = []
    for how in ("in pieces", "at once"):
        make, run = module.CASES[f"{what} {how}"]
        results.append(run(*make()))
    assert len(results[0]) > 10
    torch.testing.assert_close(*results)
