"""What LVIS has beyond COCO: federated lists, frequencies, and addresses in place of file names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rankdet.coco.findings import Problem, shown

FREQUENCIES = ("r", "c", "f")
"""Classes in up to 10, in 11 to 100 and in more than 100 training images: rare, common, frequent."""
LISTS = NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
"""Lists of an image: classes that were looked for in vain, and classes whose objects are not all annotated."""


def is_federated(images: Collection[Mapping[str, Any]], categories: Collection[Mapping[str, Any]]) -> bool:
    """Whether the rules of LVIS hold: some image lists classes, or all lists are empty and every class has a frequency.

    Keys alone mean nothing, for hotcoco and others write them, empty, into any file.
    """
    if any(row.get(one) for row in images for one in LISTS):
        return True
    has_lists = any(row.get(one) is not None for row in images for one in LISTS)
    return has_lists and bool(categories) and all(row.get("frequency") in FREQUENCIES for row in categories)


def image_file(url: str) -> str:
    """The file of an image from its address: a folder and a name; empty where the address has no folder.

    Examples
    --------
    >>> image_file("http://images.cocodataset.org/val2017/000000397133.jpg")
    'val2017/000000397133.jpg'
    """
    return "/".join(url.split("/")[-2:]) if "/" in url else ""


def address_problem(row: Mapping[str, Any]) -> Problem | None:
    """What is wrong with the address of an image, or None; a file name may take its place."""
    url = row.get("coco_url")
    if not url:
        return None if "file_name" in row else Problem("key 'coco_url' is missing")
    is_file = isinstance(url, str) and image_file(url)
    return None if is_file else Problem("coco_url does not end in a folder and a file", shown(url))


def frequency(row: Mapping[str, Any]) -> str:
    """The frequency of a category, empty where it has none."""
    given = row.get("frequency")
    return given if given in FREQUENCIES else ""
