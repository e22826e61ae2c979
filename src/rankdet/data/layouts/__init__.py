"""How people lay out data folders: which annotation file a split has, where its images are, how both are read.

A module for each kind of layout has a function ``find``: it takes a folder and returns where its splits are, or None
where it is another's. `FINDERS` is the order in which they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from rankdet.data.layouts import coco, cvat, image_folder, labelme, lvis, voc, yolo
from rankdet.data.layouts.holdout import held_out
from rankdet.data.layouts.source import Layout, Reading, Source
from rankdet.data.layouts.splits import canonical
from rankdet.structures import InputError

__all__ = ["FINDERS", "Layout", "Reading", "Source", "canonical", "find_layout", "find_source", "held_out"]

Finder = Callable[[Path], dict[str, Source] | None]
FINDERS: tuple[Finder, ...] = (
    coco.find,
    lvis.find,
    cvat.find,
    yolo.find,
    image_folder.find,
    voc.find,
    labelme.find,
    yolo.find_without_names,
)
"""Functions from a folder to its sources by split, or None; the first that knows a folder counts."""
FILE_FINDERS = (lvis.find_file, coco.find_file, cvat.find_file, yolo.find_file, image_folder.find_file)
"""Functions from an annotation file and the folder of its images, or None, to a source; None where it is another's."""


def find_layout(folder: Path, lvis_first: bool = False, voc_first_pixel: int | None = None) -> Layout:
    """Recognize the layout of a data folder.

    Parameters
    ----------
    folder
        The data folder, or a ``data.yaml`` of YOLO.
    lvis_first
        Which of two annotations count where the folder has those of COCO and those of LVIS for the same images.
    voc_first_pixel
        The number, 0 or 1, that the first pixel has in Pascal VOC; None: as its boxes show.

    Raises
    ------
    InputError
        When there is no such folder, or it has none of the known layouts.
    """
    folder = Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: there is no such folder")
    voc_find = partial(voc.find, first_pixel=voc_first_pixel)
    finders = [voc_find if find is voc.find else find for find in ((lvis.find,) if lvis_first else ()) + FINDERS]
    sources = _first(finders, folder) if folder.is_dir() else yolo.find_by_settings(folder)
    if not sources and folder.is_file():
        raise InputError(
            f"{folder}: is a file, where a data folder or a data.yaml is needed; unpack it where it is an archive, and "
            "name it with data.train_annotations where it has annotations"
        )
    if not sources:
        below = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_known(finders, path)]
        hint = f"; a folder in it has: {', '.join(map(str, below[:3]))}" if below else ""
        raise InputError(
            f"{folder}: no annotations of a known layout (docs/formats.md lists them){hint}; name files with "
            "data.train_annotations and data.validation_annotations"
        )
    return Layout(folder, ", ".join(dict.fromkeys(source.layout for source in sources.values())), sources)


def _first(finders: Iterable[Finder], folder: Path) -> dict[str, Source] | None:
    return next(filter(None, (find(folder) for find in finders)), None)


def _is_known(finders: Iterable[Finder], folder: Path) -> bool:
    try:
        return bool(_first(finders, folder))
    except InputError:  # the layout is known, and something is wrong with it
        return True


def find_source(annotations: Path, images: Path | None = None) -> Source:
    """Recognize an annotation file by its name and content.

    Parameters
    ----------
    annotations
        The file.
    images
        The folder of its images; None: it is looked for around the file.

    Raises
    ------
    InputError
        When a path is missing, or the file is of no known format.
    """
    annotations = Path(annotations)
    if not annotations.exists():
        raise InputError(f"{annotations}: there is no such file")
    if images is not None and not Path(images).is_dir():
        raise InputError(f"{images}: there is no such folder of images")
    found = next(filter(None, (find(annotations, images) for find in FILE_FINDERS)), None)
    if found is None:
        raise InputError(f"{annotations}: is no annotation file of a known format (docs/formats.md lists them)")
    return found
