"""Rows of bytes in one array.

A million small Python objects are copied into every worker process as soon as their reference counts are touched; one
array is not.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class PackedBytes:
    """An immutable list of byte strings in one buffer.

    Examples
    --------
    >>> PackedBytes([b"ab", b"", b"c"])[2]
    b'c'
    """

    def __init__(self, rows: Iterable[bytes]) -> None:
        kept = list(rows)
        self._ends = np.cumsum([0, *(len(row) for row in kept)], dtype=np.int64)
        self._buffer = np.frombuffer(b"".join(kept), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> bytes:
        return self._buffer[self._ends[row] : self._ends[row + 1]].tobytes()

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of bytes of each."""
        return np.diff(self._ends)

    def select(self, rows: Iterable[int]) -> PackedBytes:
        """Some of the byte strings, in the order of ``rows``."""
        return PackedBytes(self[row] for row in rows)
