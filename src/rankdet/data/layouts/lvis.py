"""LVIS: ``annotations/lvis_v1_train.json`` and the images of COCO, which it divides anew."""

from __future__ import annotations

from pathlib import Path

from rankdet.coco.lvis import image_file
from rankdet.data.layouts.images import first_texts, folder_with
from rankdet.data.layouts.source import Source, by_split


def find(folder: Path) -> dict[str, Source] | None:
    """The splits of ``annotations/lvis_VERSION_SPLIT.json``; version 1 counts where there are several.

    The images are in ``train2017`` and ``val2017`` of the folder or of its folder ``images``, for validation has images
    of both.
    """
    files = sorted(folder.glob("annotations/lvis_*_*.json"))
    newest = [path for path in files if path.stem.startswith("lvis_v1_")]
    splits = {path.stem.split("_", 2)[2] for path in newest}
    files = newest + [path for path in files if path.stem.split("_", 2)[2] not in splits]
    return by_split((path.stem.split("_", 2)[2], _source(path, folder)) for path in files) or None


def find_file(annotations: Path, images: Path | None) -> Source | None:
    """The source of a file that is called like one of LVIS."""
    if annotations.suffix != ".json" or not annotations.stem.startswith("lvis_"):
        return None
    return _source(annotations, annotations.parent.parent, images)


def _source(annotations: Path, folder: Path, images: Path | None = None) -> Source:
    if images is None:
        first = [image_file(url) for url in first_texts(annotations, "coco_url")]
        names = [name for name in first if name] or first_texts(annotations, "file_name")
        images = folder_with(names, [folder, folder / "images"]) or folder
    return Source("LVIS", annotations, images, is_lvis=True)
