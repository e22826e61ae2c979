"""Annotation files whose annotations are parsed a part at a time, so that they are never in memory together.

A file is looked through for the brackets and commas that divide it, and all but its annotations is parsed. Each part of
the annotations is parsed when it is asked for, by the same parsers as a whole file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.parsing import no_collection, opened, parsed, read_json
from rankdet.structures import InputError

BLOCK = 1 << 22
"""Bytes that are looked through at a time, and about those that are parsed at a time."""
NEAR = 256
"""Bytes in front of a bracket in which its key is looked for."""
KEY = re.compile(rb'"annotations"\s*:\s*\Z')
ESCAPED = re.compile(rb"\\.", re.DOTALL)
QUOTE, COMMA, OPEN, CLOSE = b'",{}'
CASE = 0x20
"""The bit in which ``[`` differs from ``{``, and ``]`` from ``}``."""


class Rows:
    """The records of a section of a file, parsed anew each time that they are asked for.

    Parameters
    ----------
    path
        The file.
    bounds
        The places in the file of the bracket in front of the records, of a comma between each part of them and the
        next, and of the bracket behind them.
    firsts
        The number of records in front of each of these places.
    """

    def __init__(self, path: Path, bounds: Sequence[int], firsts: Sequence[int]) -> None:
        self.path, self._bounds, self._firsts = path, bounds, firsts

    def __len__(self) -> int:
        return self._firsts[-1]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.parts())

    def parts(self) -> Iterator[list[Any]]:
        """Some megabytes of the records at a time, in the order of the file.

        Raises InputError where one of them is broken, in the words of a reader of the whole file.
        """
        with opened(self.path) as file:
            for bounds, firsts in zip(pairwise(self._bounds), pairwise(self._firsts), strict=True):
                file.seek(bounds[0] + 1)
                text = file.read(bounds[1] - bounds[0] - 1)
                rows: Any = None
                with suppress(ValueError, RecursionError):
                    rows = parsed(b"[" + text + b"]")
                if rows is None or len(rows) != firsts[1] - firsts[0]:
                    read_json(self.path)
                    raise InputError(f"{self.path}: has changed while it was read")
                yield rows


def parts_of(rows: Sequence[Any] | Rows) -> Iterator[Sequence[Any]]:
    """The records of a section a part at a time; those that are in memory are one part."""
    return rows.parts() if isinstance(rows, Rows) else iter((rows,))


@no_collection()
def read_document(path: Path) -> Any:
    """The content of a JSON file; the list ``annotations`` of an object is `Rows`, and what is in it is not looked at.

    Raises InputError, which names the file and, where the text is broken, the place in it.
    """
    with opened(path) as file:
        scan = _scanned(file)
    if len(scan.bounds) > 1 and scan.depth == 0:
        with suppress(ValueError, RecursionError):  # the reader of the whole says what is wrong
            document = parsed(b"".join(scan.rest))
            if document["annotations"] == []:  # of several of this name the last counts
                return {**document, "annotations": Rows(path, scan.bounds, scan.firsts)}
    return read_json(path)


@dataclass
class _Scan:
    """What is known of a file up to some byte.

    depth
        Brackets that are open.
    is_text
        Whether a text is open.
    rest
        All but the annotations.
    bounds, firsts
        See `Rows`; nothing before the annotations begin.
    is_inside
        Whether the annotations have begun and have not ended.
    count
        Commas between annotations.
    is_blank
        Whether nothing but blanks has come between the brackets of the annotations.
    """

    depth: int = 0
    is_text: bool = False
    rest: list[bytes] = field(default_factory=list)
    bounds: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    is_inside: bool = False
    count: int = 0
    is_blank: bool = True


def _scanned(file: BinaryIO) -> _Scan:
    """A file, looked through for its annotations."""
    scan, start, before = _Scan(), 0, b""
    while text := file.read(BLOCK):
        while text.endswith(b"\\"):  # what it escapes belongs to it
            more = file.read(1)
            text += more
            if not more:
                break
        masked = ESCAPED.sub(b"  ", text) if b"\\" in text else text
        _look_through(scan, text, masked, start, before)
        start, before = start + len(text), (before + masked)[-NEAR:]
    return scan


def _look_through(scan: _Scan, text: bytes, masked: bytes, start: int, before: bytes) -> None:
    """Look through a block, which begins at the byte ``start``; ``masked`` has blanks where letters are escaped."""
    letters = np.frombuffer(masked, dtype=np.uint8)
    lower = letters | CASE
    is_text = np.logical_xor.accumulate(letters == QUOTE) ^ scan.is_text
    places = np.flatnonzero(((lower == OPEN) | (lower == CLOSE) | (letters == COMMA)) & ~is_text)
    kinds = lower[places]
    depths = scan.depth + np.cumsum((kinds == OPEN).astype(np.int8) - (kinds == CLOSE).astype(np.int8), dtype=np.int64)
    is_edge = ((kinds == OPEN) & (depths == 2)) | ((kinds == CLOSE) & (depths == 1))
    commas = places[(letters[places] == COMMA) & (depths == 2)]
    outside = 0  # where that begins which is neither an annotation nor in `rest`
    for edge in places[is_edge].tolist():
        if scan.is_inside:
            _pass_records(scan, text[outside:edge], commas[(commas >= outside) & (commas < edge)], start)
            scan.is_inside = False
            scan.bounds.append(start + edge)
            scan.firsts.append(scan.count + (not scan.is_blank))
            outside = edge
        elif letters[edge] == ord("[") and KEY.search((before + masked[max(0, edge - NEAR) : edge])[-NEAR:]):
            scan.rest.append(text[outside : edge + 1])
            scan.is_inside, scan.is_blank, scan.count = True, True, 0
            scan.bounds, scan.firsts = [start + edge], [0]
            outside = edge + 1
    if scan.is_inside:
        _pass_records(scan, text[outside:], commas[commas >= outside], start)
    else:
        scan.rest.append(text[outside:])
    scan.depth = int(depths[-1]) if len(depths) else scan.depth
    scan.is_text = bool(is_text[-1])


def _pass_records(scan: _Scan, text: bytes, commas: NDArray[np.int64], start: int) -> None:
    """Note where parts end in a text of annotations, whose ``commas`` count from the block that begins at ``start``."""
    scan.is_blank = scan.is_blank and not text.strip()
    number = 0
    while number < len(commas):
        number = int(np.searchsorted(commas, scan.bounds[-1] + BLOCK - start, side="left"))
        if number < len(commas):
            scan.bounds.append(start + int(commas[number]))
            scan.firsts.append(scan.count + number + 1)
    scan.count += len(commas)
