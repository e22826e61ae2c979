"""The benchmark of SOLOv2's memory: both ways to compute give the same, in pieces as well as at once."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("what", ["detection", "training"])
def test_pieces_give_what_the_whole_gives(module, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = module("solov2_memory")
    small = {"SIZE": (160, 261), "MAP": (40, 66), "CHANNELS": 16, "CANDIDATES": 60, "MASKS": (3, 4, 0, 5)}
    for name, value in small.items():
        monkeypatch.setattr(memory, name, value)
    for chunk in ("rankdet.detectors.solov2.CHUNK", "rankdet.losses.localization.MASK_CHUNK"):
        monkeypatch.setattr(chunk, 7 * 40 * 66)
    results = []
    for how in ("in pieces", "at once"):
        make, run = memory.CASES[f"{what} {how}"]
        results.append(run(*make()))
    assert len(results[0]) > 10
    torch.testing.assert_close(*results)
