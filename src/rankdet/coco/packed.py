"""Rows of bytes in one array.

A million small Python objects are copied into every worker process as soon as their reference counts are touched; one
array is not.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self


class PackedBytes:
    """An immutable list of byte strings in one buffer.

    Examples
    --------
    >>> PackedBytes([b"ab", b"", b"c"])[2]
    b'c'
    """

    def __init__(self, rows: Iterable[bytes] = ()) -> None:
        buffer, lengths = bytearray(), array("q")
        for row in rows:
            buffer += row
            lengths.append(len(row))
        self._set(np.frombuffer(buffer, dtype=np.uint8), ends_of(np.array(lengths, dtype=np.int64)))

    @classmethod
    def of(cls, buffer: NDArray[np.uint8], ends: NDArray[np.int64]) -> Self:
        """R byte strings one after the other, and the (R + 1,) places where they end, from 0 on.

        Examples
        --------
        >>> PackedBytes.of(np.frombuffer(b"abc", dtype=np.uint8), np.array([0, 2, 3]))[1]
        b'c'
        """
        packed = cls.__new__(cls)
        packed._set(buffer, ends)
        return packed

    def _set(self, buffer: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.buffer, self.ends = buffer, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.buffer[self.ends[row] : self.ends[row + 1]].tobytes()

    def texts(self) -> list[str]:
        """All of them decoded."""
        letters, ends = self.buffer.tobytes(), self.ends.tolist()
        return [letters[start:end].decode() for start, end in pairwise(ends)]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of bytes of each."""
        return np.diff(self.ends)

    def select(self, rows: Iterable[int]) -> PackedBytes:
        """Some of the byte strings, in the order of ``rows``."""
        return PackedBytes(self[row] for row in rows)


def ends_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """(R + 1,) where R rows of these lengths end, from 0 on.

    Examples
    --------
    >>> ends_of(np.array([2, 0, 1])).tolist()
    [0, 2, 2, 3]
    """
    ends = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
