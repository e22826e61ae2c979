"""Where the images of an annotation file are, found without parsing what may be half a gigabyte."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from rankdet.data.files import is_file

NUM_PROBES = 16
"""Number of images that are looked for; some of them may be missing."""


def first_texts(annotations: Path, key: str, most: int = NUM_PROBES) -> list[str]:
    """The first texts under a key of a JSON file, ``most`` of them."""
    if not annotations.is_file() or not annotations.stat().st_size:
        return []  # nothing can be mapped
    pattern = re.compile(rb'"' + key.encode() + rb'"\s*:\s*("(?:[^"\\]|\\.)*")')
    with annotations.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = [match[1] for match in islice(pattern.finditer(content), most)]
    texts = []
    for text in found:
        with suppress(ValueError):  # whoever parses the file reports what is broken
            texts.append(str(json.loads(text)))
    return texts


def folder_with(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """The first folder that has any of the images: one of them missing must not hide the others."""
    names = list(names)
    return next((folder for folder in folders if any(is_file(folder / name) for name in names)), None)
