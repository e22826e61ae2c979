"""The classes of two data sets beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def category_difference(first: Sequence[tuple[Any, ...]], second: Sequence[tuple[Any, ...]]) -> str:
    """Which pairs (id, name) only one of two data sets has.

    Examples
    --------
    >>> category_difference([(1, "cat"), (2, "dog")], [(1, "cat"), (3, "dog")])
    "2 'dog' only in the first, 3 'dog' only in the second"
    """
    parts = [
        ", ".join(f"{number} {name!r}" for number, name in own if (number, name) not in other) + f" only in the {place}"
        for own, other, place in ((first, second, "first"), (second, first, "second"))
        if set(own) - set(other)
    ]
    return ", ".join(parts)
