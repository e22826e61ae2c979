"""Records that are as they should be, read a key at a time: a tenth of the time of reading them one after the other.

Every function raises `NotPlain` where a record is in another form, or makes no sense. Whoever reads them one by one
says then what is wrong.

Legend: R records.
"""

from __future__ import annotations

import marshal
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.findings import LARGEST_ID
from rankdet.coco.segmentations import mask_areas, sums_of_runs

LISTS = frozenset((list, tuple))
LIST, TUPLE, FLOAT, SHORT = b"[(gi"
"""What `marshal` writes before a list or tuple with its length, a float, and an integer of up to 32 bits."""
HEADER = 5
"""Bytes of a list before its values."""
INTEGER = np.dtype([("kind", "u1"), ("value", "<i4")])
NUMBER = np.dtype([("kind", "u1"), ("value", "<f8")])
SIDES = np.dtype([("kind", "u1"), ("length", "<u4"), ("sides", INTEGER, (2,))])
BOX = np.dtype([("kind", "u1"), ("length", "<u4"), ("numbers", NUMBER, (4,))])
"""What `marshal` makes of such an integer, of a float, and of lists of two integers and of four floats."""


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
    written = _marshalled(values, INTEGER)
    if written is not None and (written["kind"] == SHORT).all():
        found = written["value"].astype(np.int64)
    else:
        check(_types(values) <= {int})
        try:
            found = np.fromiter(values, np.int64, len(values))
        except OverflowError as error:
            raise NotPlain from error
    check(not len(found) or (found.min() >= 0 and found.max() <= LARGEST_ID))
    return found


def numbers(values: Sequence[Any], limit: float) -> NDArray[np.float64]:
    """(R,) numbers within ±``limit``."""
    written = _marshalled(values, NUMBER)
    if written is not None and (written["kind"] == FLOAT).all():
        return _limited(written["value"].astype(np.float64), limit)
    check(_types(values) <= {int, float})
    return _limited(_converted(values, len(values)), limit)


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
    written = _marshalled(values, BOX)
    if written is not None and _are_boxes(written):
        found = written["numbers"]["value"].astype(np.float64)
    else:
        check(_types(values) <= LISTS and set(map(len, values)) <= {4})
        check(_types(chain.from_iterable(values)) <= {int, float})
        found = _converted(chain.from_iterable(values), 4 * len(values)).reshape(-1, 4)
    _limited(found, limit)
    check(not len(found) or found[:, 2:].min() >= 0)
    return found


def run_lengths(values: Sequence[Any], sizes: NDArray[np.int64]) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """R run-length objects with compressed counts, in images of (R, 2) ``sizes``, and their (R,) numbers of pixels."""
    check(_types(values) <= {dict})
    own, counts = column(values, "size"), column(values, "counts")
    written = _marshalled(own, SIDES)
    if written is not None and (written["kind"] == LIST).all() and (written["sides"]["kind"] == SHORT).all():
        check((written["length"] == 2).all() and (written["sides"]["value"] == sizes).all())
    else:
        check(_types(own) <= {list} and set(map(len, own)) <= {2})
        check(_types(chain.from_iterable(own)) <= {int} and own == sizes.tolist())
    check(sizes.all())
    kinds = _types(counts)
    check(kinds <= {str} or kinds <= {bytes})
    try:
        letters = [text.encode("ascii") for text in counts] if kinds == {str} else counts
        areas = mask_areas(list(values))
    except (ValueError, OverflowError) as error:  # an RLE is broken
        raise NotPlain from error
    check((sums_of_runs(letters) == sizes.prod(axis=1)).all())
    if max(map(len, values), default=0) > 2:  # what else they have would stay alive
        values = [{"size": size, "counts": text} for size, text in zip(own, counts, strict=True)]
    return list(values), areas


def _types(values: Iterable[Any]) -> set[type]:
    return set(map(type, values))


def _marshalled(values: Sequence[Any], form: np.dtype[Any]) -> NDArray[Any] | None:
    """Values in the form in which `marshal` writes each: their types and numbers at once, in a third of the time.

    None where they do not fill as many bytes. Letters are to be checked from left to right: if all are right, all
    values are where the form says.
    """
    try:
        text = marshal.dumps(list(values), 2)  # the version in which no value refers to another
    except ValueError:
        return None
    header = len(text) - len(values) * form.itemsize
    return np.frombuffer(text, form, offset=header) if header == HEADER else None


def _are_boxes(written: NDArray[Any]) -> bool:
    kinds = written["kind"]
    are_lists = (kinds == LIST) | (kinds == TUPLE)
    return bool((are_lists & (written["length"] == 4)).all() and (written["numbers"]["kind"] == FLOAT).all())


def _converted(values: Iterable[Any], number: int) -> NDArray[np.float64]:
    try:
        return np.fromiter(values, np.float64, number)
    except OverflowError as error:  # a whole number of any length
        raise NotPlain from error


def _limited(found: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """The same numbers, which are checked to lie within ±``limit``."""
    check(not len(found) or (found.min() >= -limit and found.max() <= limit))  # no NaN either
    return found


def check(is_plain: bool | np.bool_) -> None:
    """Raise `NotPlain` unless it is."""
    if not is_plain:
        raise NotPlain
