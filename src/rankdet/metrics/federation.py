"""What LVIS says beyond COCO: which classes were looked for in an image, and how frequent a class is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rankdet.structures import InputError

FREQUENCIES = ("r", "c", "f")
"""Classes in up to 10, in 11 to 100 and in more than 100 training images of LVIS: rare, common, frequent."""
NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"


class Federation(NamedTuple):
    """The lists of the images and the frequencies of the classes of a federated data set.

    A detection counts where its class has an object in the image, or was looked for in vain (``neg_category_ids``).
    Where the objects of a class are not all annotated (``not_exhaustive_category_ids``), a detection of it that hits
    none is no mistake.

    images
        Image id → the two lists of category ids.
    frequencies
        Category id → ``"r"``, ``"c"`` or ``"f"``.
    """

    images: dict[int, dict[str, list[int]]]
    frequencies: dict[int, str]


def read_federation(
    where: str, images: Sequence[Mapping[str, Any]], categories: Sequence[Mapping[str, Any]]
) -> Federation | None:
    """Read and check what makes a data set federated; None where no image has ``neg_category_ids``.

    Parameters
    ----------
    where
        What messages begin with.
    images, categories
        Records whose ids are sound.

    Raises
    ------
    InputError
        When one image has such a list and another has not, when a list holds anything but ids of categories, or when
        a category has no frequency.
    """
    if not any(NEGATIVE in image for image in images):
        return None
    frequencies: dict[int, str] = {}
    for category in categories:
        frequency = category.get("frequency")
        if frequency not in FREQUENCIES:
            name = f"{where}: category {category['id']}"
            raise InputError(f"{name}: frequency must be 'r', 'c' or 'f', not {frequency!r}")
        frequencies[category["id"]] = frequency
    return Federation({image["id"]: _lists(where, image, frequencies) for image in images}, frequencies)


def with_empty_lists(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Images as hotcoco hands them back, without the lists that are empty, made whole again."""
    if not any(NEGATIVE in image or NOT_EXHAUSTIVE in image for image in images):
        return [dict(image) for image in images]
    return [{NEGATIVE: [], NOT_EXHAUSTIVE: [], **image} for image in images]


def _lists(where: str, image: Mapping[str, Any], known: Mapping[int, Any]) -> dict[str, list[int]]:
    lists: dict[str, list[int]] = {}
    for field in (NEGATIVE, NOT_EXHAUSTIVE):
        values = image.get(field)
        if not isinstance(values, list):
            raise InputError(f"{where}: image {image['id']}: {field} is no list of category ids")
        for value in values:
            if type(value) is not int or value not in known:
                raise InputError(f"{where}: image {image['id']}: {field} holds {value!r}, no category of the file")
        lists[field] = values
    return lists
