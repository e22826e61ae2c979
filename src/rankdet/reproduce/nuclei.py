"""The test split of nuclei, which the data set itself does not have: a fixed quarter of the training images."""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path

from rankdet.data.layouts import find_layout
from rankdet.runs.folder import make_folder, write_text
from rankdet.structures import InputError


@functools.cache
def names_of_test() -> frozenset[str]:
    """Return the files of the test images: every fourth training image by name, as listed in ``nuclei_test.txt``."""
    text = resources.files("rankdet.reproduce").joinpath("nuclei_test.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def is_nuclei(given: Path) -> bool:
    """Return True if a data folder has the images of the test split."""
    try:
        images = find_layout(given).source("train").images
    except InputError:
        return False
    return all((images / name).is_file() for name in names_of_test())


def cut_nuclei(given: Path, folder: Path) -> None:
    """Write the annotations of the splits train, val and test of the folder ``given`` into ``folder``.

    Images stay where they are; ``folder`` has a link to them. The same files are written whenever this is called.

    Raises
    ------
    InputError
        When a split, or an image of the list, is missing.
    """
    layout = find_layout(given)
    train, val = layout.source("train"), layout.source("val")
    content = train.given()[0]
    found = {image["file_name"] for image in content["images"]}
    missing = names_of_test() - found
    if missing:
        raise InputError(
            f"{train.annotations} lacks {len(missing)} images of the test split, for example {min(missing)}; "
            "these tables are of the nuclei of the 2018 Data Science Bowl"
        )
    parts = {"train": found - names_of_test(), "test": names_of_test()}
    make_folder(folder / "annotations")
    for split, names in parts.items():
        images = [image for image in content["images"] if image["file_name"] in names]
        ids = {image["id"] for image in images}
        annotations = [each for each in content["annotations"] if each["image_id"] in ids]
        part = {**content, "images": images, "annotations": annotations}
        write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(part))
    write_text(folder / "annotations" / "instances_val.json", val.annotations.read_text(encoding="utf-8"))
    link = folder / "images"
    if not link.exists():
        link.symlink_to(train.images.resolve(), target_is_directory=True)
