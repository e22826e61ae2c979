"""Names of splits."""

from __future__ import annotations

SPLITS = ("train", "val", "test")
ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
"""Other names of splits, in lower case, and the name by which this package calls them."""


def canonical(split: str) -> str:
    """The name of a split by which this package calls it.

    Examples
    --------
    >>> canonical("Validation"), canonical("Train"), canonical("minival")
    ('val', 'train', 'minival')
    """
    return ALIASES.get(split.lower(), split.lower())


def without_year(split: str) -> str:
    """The name of a split without the year at its end.

    Examples
    --------
    >>> without_year("train2017"), without_year("2017")
    ('train', '2017')
    """
    return canonical(split.rstrip("0123456789") or split)
