"""Columns of millions of rows are looked at a block at a time: what is computed on the way takes a few megabytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

ROWS = 1 << 17


def blocks(total: int) -> Iterator[slice]:
    """Rows one after the other, in slices of a few.

    Examples
    --------
    >>> list(blocks(200_000))
    [slice(0, 131072, None), slice(131072, 200000, None)]
    """
    return (slice(start, min(start + ROWS, total)) for start in range(0, total, ROWS))


def flags(total: int, number: int, compute: Callable[[slice], Sequence[NDArray[np.bool_]]]) -> list[NDArray[np.bool_]]:
    """So many arrays, each (total,) bool, computed a block at a time.

    Examples
    --------
    >>> values = np.arange(4)
    >>> [column.tolist() for column in flags(4, 2, lambda rows: (values[rows] > 2, values[rows] < 1))]
    [[False, False, False, True], [True, False, False, False]]
    """
    found = [np.empty(total, dtype=bool) for _ in range(number)]
    for rows in blocks(total):
        for column, values in zip(found, compute(rows), strict=True):
            column[rows] = values
    return found
