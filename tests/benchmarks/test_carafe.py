"""The benchmark of CARAFE: that it runs, and that its forms are the same function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture
def carafe(module) -> ModuleType:
    """The script."""
    return module("carafe")


@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_and_the_plain_form_are_the_same(carafe: ModuleType, channels_last: bool) -> None:
    inputs = carafe.make(4, 5, "cpu", channels_last)
    found, expected = (carafe.make_form(name, inputs)[0]() for name in ("sums", "unfold"))
    torch.testing.assert_close(found, expected)


def test_the_table_has_a_row_for_each_form_and_map(
    carafe: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(carafe, "LEVELS", {"small": (3, 4), "large": (5, 6)})
    monkeypatch.setattr(carafe, "peak_memory", lambda *_: 1.0)
    threads, written = torch.get_num_threads(), tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["carafe.py", "--quick", "--repeats", "1", "--markdown", str(written)])
    carafe.main()
    torch.set_num_threads(threads)
    rows = [line.split(" | ")[:2] for line in written.read_text().splitlines()[2:]]
    assert rows == [["| small", name] for name in carafe.FORMS]


def test_memory_is_measured_in_a_process_of_its_own(carafe: ModuleType) -> None:
    arguments = [sys.executable, str(carafe.__file__), "--memory-of", "bilinear", "40", "60", "--channels-last"]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert 1.2 < float(done.stdout) < 2  # the enlarged map and a gradient of a quarter of its size
