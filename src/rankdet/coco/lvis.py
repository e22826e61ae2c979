"""What LVIS has beyond COCO: federated lists, frequencies, and addresses in place of file names."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rankdet.coco.findings import is_integer

FREQUENCIES = ("r", "c", "f")
"""Classes in up to 10, in 11 to 100 and in more than 100 training images: rare, common, frequent."""
LISTS = NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
"""Lists of an image: classes that were looked for in vain, and classes whose objects are not all annotated."""


def is_federated(images: Iterable[Any]) -> bool:
    """Whether the rules of LVIS hold: some record of an image has ``neg_category_ids``."""
    return any(isinstance(row, Mapping) and NEGATIVE in row for row in images)


def with_empty_lists(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Images as hotcoco gives them back, without the lists that are empty, made whole again."""
    if not any(NEGATIVE in image or NOT_EXHAUSTIVE in image for image in images):
        return [dict(image) for image in images]
    return [{NEGATIVE: [], NOT_EXHAUSTIVE: [], **image} for image in images]


def image_file(url: str) -> str:
    """The file of an image from its address: a folder and a name; empty where the address has no folder.

    Examples
    --------
    >>> image_file("http://images.cocodataset.org/val2017/000000397133.jpg")
    'val2017/000000397133.jpg'
    """
    return "/".join(url.split("/")[-2:]) if "/" in url else ""


def address_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the address of an image, or None; a file name may take its place."""
    if "coco_url" not in row:
        return None if "file_name" in row else "key 'coco_url' is missing"
    url = row["coco_url"]
    return None if isinstance(url, str) and image_file(url) else f"coco_url {url!r} does not end in a folder and a file"


def frequency_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the frequency of a category, or None."""
    if row.get("frequency") in FREQUENCIES:
        return None
    mistake = f"{row['frequency']!r} is none of" if "frequency" in row else "is missing; it is one of"
    return f"frequency {mistake} {', '.join(FREQUENCIES)}"


def list_problems(row: Mapping[str, Any], category_ids: Container[int]) -> Iterator[str]:
    """What is wrong with the two lists of an image."""
    for field in LISTS:
        values = row.get(field)
        if not isinstance(values, list):
            yield f"{field} is missing, or no list of category ids"
            continue
        unknown = [value for value in values if not is_integer(value) or value not in category_ids]
        if unknown:
            yield f"{field} holds {unknown[0]!r}, which is no category of the file"
