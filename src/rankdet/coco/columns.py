"""Records that are as they should be, read a key at a time: a tenth of the time of reading them one after the other.

Every function raises `NotPlain` where a record is in another form, or makes no sense. Whoever reads them one by one
says then what is wrong.

Legend: R records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.findings import LARGEST_ID
from rankdet.coco.segmentations import mask_areas, sums_of_runs

LISTS = frozenset((list, tuple))


class NotPlain(Exception):
    """A record is not as it should be."""


def check_objects(rows: Sequence[Any], keys: Collection[str] = (), without: Collection[str] = ()) -> None:
    """Check that all records are objects, and that none has a key of ``without``.

    Objects that turn out to have all of ``keys``, and no more of them, are not asked for others.
    """
    check(_types(rows) <= {dict})
    if without and max(map(len, rows), default=0) > len(keys):
        check(not any(key in row for key in without for row in rows))


def column(rows: Iterable[dict[str, Any]], key: str) -> list[Any]:
    """R values that all records have."""
    try:
        return list(map(itemgetter(key), rows))
    except KeyError as error:
        raise NotPlain from error


def ids(values: Sequence[Any]) -> NDArray[np.int64]:
    """(R,) whole numbers from 0 to `LARGEST_ID`."""
    check(_types(values) <= {int})
    try:
        found = np.fromiter(values, np.int64, len(values))
    except OverflowError as error:
        raise NotPlain from error
    check(not len(found) or (found.min() >= 0 and found.max() <= LARGEST_ID))
    return found


def numbers(values: Sequence[Any], limit: float) -> NDArray[np.float64]:
    """(R,) numbers within ±``limit``."""
    check(_types(values) <= {int, float})
    return _within(values, len(values), limit)


def numbers_or_nan(values: Sequence[Any], limit: float) -> NDArray[np.float64]:
    """(R,) numbers within ±``limit``, NaN for None."""
    found = np.full(len(values), np.nan)
    is_given = [value is not None for value in values]
    found[is_given] = numbers([value for value in values if value is not None], limit)
    return found


def flags(values: Sequence[Any]) -> NDArray[np.bool_]:
    """(R,) whether a value is 1 and not 0."""
    check(_types(values) <= {int} and set(values) <= {0, 1})
    return np.fromiter(values, bool, len(values))


def looked_up(values: Sequence[Any], table: Mapping[Any, int]) -> NDArray[np.int64]:
    """(R,) entries of a table whose keys are whole numbers."""
    check(_types(values) <= {int})
    try:
        return np.fromiter(map(table.__getitem__, values), np.int64, len(values))
    except KeyError as error:
        raise NotPlain from error


def boxes(values: Sequence[Any], limit: float) -> NDArray[np.float64]:
    """(R, 4) boxes ``(x, y, width, height)`` of numbers within ±``limit``, whose sizes are not negative."""
    check(_types(values) <= LISTS and set(map(len, values)) <= {4})
    check(_types(chain.from_iterable(values)) <= {int, float})
    found = _within(chain.from_iterable(values), 4 * len(values), limit).reshape(-1, 4)
    check(not len(found) or found[:, 2:].min() >= 0)
    return found


def run_lengths(values: Sequence[Any], sizes: NDArray[np.int64]) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """R run-length objects with compressed counts, in images of (R, 2) ``sizes``, and their (R,) numbers of pixels."""
    check(_types(values) <= {dict})
    own, counts = column(values, "size"), column(values, "counts")
    check(_types(own) <= {list} and set(map(len, own)) <= {2})
    check(_types(chain.from_iterable(own)) <= {int} and own == sizes.tolist() and bool(sizes.all()))
    kinds = _types(counts)
    check(kinds <= {str} or kinds <= {bytes})
    try:
        letters = [text.encode("ascii") for text in counts] if kinds == {str} else counts
        areas = mask_areas(list(values))
    except (ValueError, OverflowError) as error:  # an RLE is broken
        raise NotPlain from error
    check((sums_of_runs(letters) == sizes.prod(axis=1)).all())
    return [{"size": size, "counts": text} for size, text in zip(own, counts, strict=True)], areas


def _types(values: Iterable[Any]) -> set[type]:
    return set(map(type, values))


def _within(values: Iterable[Any], number: int, limit: float) -> NDArray[np.float64]:
    try:
        found = np.fromiter(values, np.float64, number)
    except OverflowError as error:  # a whole number of any length
        raise NotPlain from error
    check(not number or (found.min() >= -limit and found.max() <= limit))  # no NaN either
    return found


def check(is_plain: bool | np.bool_) -> None:
    """Raise `NotPlain` unless it is."""
    if not is_plain:
        raise NotPlain
