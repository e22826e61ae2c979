"""The test split of nuclei, which the data set itself does not have: a fixed quarter of the training images."""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path

from rankdet.data.layouts import find_layout
from rankdet.runs.folder import make_folder, write_text, written_whole
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

    Images stay where they are; ``folder`` has a link to them, or a copy that was put in its place. The same files are
    written whenever this is called, each in one step, so that trainings may read them meanwhile.

    Raises
    ------
    InputError
        When a split, or an image of the list, is missing, the splits have separate folders of images, or the folder
        cannot be written.
    """
    layout = find_layout(given)
    train, val = layout.source("train"), layout.source("val")
    content = train.content()[0]
    truth = train.check(content, masks=False)[0]
    found = {truth.file_names[place].decode() for place in range(len(truth.image_ids))}
    missing = names_of_test() - found
    if missing:
        raise InputError(
            f"{train.annotations} lacks {len(missing)} images of the test split, for example {min(missing)}; "
            "these tables are of the nuclei of the 2018 Data Science Bowl"
        )
    target = train.images.resolve()
    if val.images.resolve() != target:
        raise InputError(f"{given}: the images of train and val must be in one folder, not {target} and {val.images}")
    parts = {"train": found - names_of_test(), "test": names_of_test()}
    make_folder(folder / "annotations")
    for split, names in parts.items():
        images = [image for image in content["images"] if image["file_name"] in names]
        ids = {image["id"] for image in images}
        annotations = [each for each in content["annotations"] if each["image_id"] in ids]
        part = {**content, "images": images, "annotations": annotations}
        write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(part))
    content = val.content()[0]
    whole = {**content, "annotations": list(content["annotations"])}
    write_text(folder / "annotations" / "instances_val.json", json.dumps(whole))
    link = folder / "images"
    if link.is_symlink() or not link.exists():  # a link may be that of another folder ``given``
        try:
            with written_whole(link) as new:
                new.symlink_to(target, target_is_directory=True)
        except OSError as error:
            raise InputError(f"cannot link {link} to {target}: {error.strerror}; copy these images there") from error
