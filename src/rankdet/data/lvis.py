"""Where a folder keeps a split of LVIS v1."""

from pathlib import Path

from rankdet.coco.lvis import image_file
from rankdet.data.splits import Split, find_annotations, first_texts, folder_of_images


def find_lvis_split(folder: Path, split: str) -> Split:
    """Find a split of LVIS in a folder.

    The annotations are ``annotations/lvis_v1_{split}.json``, or the same with another version. The images are in
    ``train2017`` and ``val2017`` of the folder or of its folder ``images``: LVIS divides those of COCO anew, so
    validation has images of both.

    Parameters
    ----------
    folder
        The data set.
    split
        ``train``, ``val``, …

    Returns
    -------
    Split
        The annotation file and the folder that ``train2017`` and ``val2017`` are in.

    Raises
    ------
    InputError
        As `rankdet.data.splits.find_split`.
    """
    folder = Path(folder)
    annotations = find_annotations(
        folder, split, [f"annotations/lvis_v1_{split}.json"], [f"annotations/lvis_*_{split}.json"]
    )
    return Split(annotations, find_lvis_images(folder, annotations))


def find_lvis_images(folder: Path, annotations: Path) -> Path:
    """The folder that the images of an annotation file lie in, by the ends of their addresses."""
    first = [image_file(url) for url in first_texts(annotations, "coco_url")]
    names = [name for name in first if name] or first_texts(annotations, "file_name")
    return folder_of_images(folder, annotations, [folder, folder / "images"], names, lvis=True)
