"""Files of foreign formats that something has damaged give findings or one clear error, and never another exception."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from rankdet.data.layouts import find_layout
from rankdet.structures import InputError

from .scene import BOXES
from .test_conversion import WRITERS
from .test_image_folder import write as write_rows

TEXTS = {".txt", ".yaml", ".xml", ".json", ".jsonl", ".md"}
PIECES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b'"',
    b"<",
    b">",
    b"{",
    b"}",
    b"[",
    b"]",
    b"nan",
    b"-1e400",
    b"null",
    b"\n",
    b"0" * 30,
)


def write_image_folder(folder: Path) -> None:
    write_rows(BOXES, folder / "train")
    write_rows(BOXES[1:], folder / "validation")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """A piece of a file is replaced by another, or the file is cut off."""
    start = int(rng.integers(len(content) + 1))
    length = int(rng.integers(0, 12))
    if rng.random() < 0.1:
        return content[:start]
    return content[:start] + PIECES[rng.integers(len(PIECES))] + content[start + length :]


@pytest.mark.parametrize("write", [*WRITERS, write_image_folder], ids=lambda write: write.__name__)
def test_a_damaged_file_is_no_surprise(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        files = sorted(path for path in folder.rglob("*") if path.suffix in TEXTS)
        for _ in range(3):
            file = files[rng.integers(len(files))]
            file.write_bytes(damaged(file.read_bytes(), rng))
        with suppress(InputError):
            for source in find_layout(folder).sources.values():
                with suppress(InputError):
                    source.read(masks=bool(number % 2))
