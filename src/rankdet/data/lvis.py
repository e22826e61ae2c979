"""LVIS v1: annotation files of COCO with federated lists, frequencies, and addresses in place of file names."""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from rankdet.data.records import Finding, Records, check_records, load_document, record_name
from rankdet.data.splits import Split, find_annotations, first_texts, folder_of_images

FREQUENCIES = ("r", "c", "f")
"""Of classes in up to 10, in 11 to 100 and in more than 100 training images."""
LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""What an image says of the classes without an object in it that were looked for, and of those that are not annotated
to the end."""


def read_lvis_records(
    path: Path, with_masks: bool = False, drop_degenerate: bool = False
) -> tuple[Records, list[Finding]]:
    """Read and check an annotation file of LVIS: as `rankdet.data.records.read_records`, and what LVIS has beyond COCO.

    Every image has ``neg_category_ids`` and ``not_exhaustive_category_ids``, every category a ``frequency``. The file
    of an image is the end of its ``coco_url`` (``train2017/000000391895.jpg``); its ``file_name`` counts only where
    there is no such address.
    """
    document = load_document(path)
    findings: list[Finding] = []
    images = []
    for place, row in enumerate(document["images"]):
        problem = _address_problem(row)
        if problem is None:
            images.append(_with_file_name(row))
        else:
            findings.append(Finding("error", str(path), record_name("image", place, row), problem))
    records, found = check_records(path, document | {"images": images}, with_masks, drop_degenerate)
    findings += found
    findings += [Finding("error", str(path), *problem) for problem in _federation_problems(document, records)]
    return records, findings


def read_lvis_images(path: Path) -> tuple[dict[int, Mapping[str, Any]], list[Finding]]:
    """Read the images alone: the sound ones by id, and what is wrong with the file."""
    records, findings = read_lvis_records(path)
    return records.images, findings


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
    return folder_of_images(folder, annotations, [folder, folder / "images"], names, read_lvis_images)


def image_file(url: str) -> str:
    """The file of an image from its address: a folder and a name; empty where the address has no folder.

    Examples
    --------
    >>> image_file("http://images.cocodataset.org/val2017/000000397133.jpg")
    'val2017/000000397133.jpg'
    """
    return "/".join(url.split("/")[-2:]) if "/" in url else ""


def _address_problem(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None  # whoever checks the records of COCO says so
    if "coco_url" not in row:
        return None if "file_name" in row else "key 'coco_url' is missing"
    url = row["coco_url"]
    return None if isinstance(url, str) and image_file(url) else f"coco_url {url!r} does not end in a folder and a file"


def _with_file_name(row: Any) -> Any:
    return row | {"file_name": image_file(row["coco_url"])} if isinstance(row, dict) and "coco_url" in row else row


def _federation_problems(document: Mapping[str, list[Any]], records: Records) -> Iterator[tuple[str, str]]:
    """Record and problem of images and categories that are sound for COCO, but not for LVIS."""
    known = {category_id for category_id, _ in records.categories}
    for place, row in enumerate(document["categories"]):
        if isinstance(row, dict) and row.get("frequency") not in FREQUENCIES:
            said = f"{row['frequency']!r} is none of" if "frequency" in row else "is missing; it is one of"
            yield record_name("category", place, row), f"frequency {said} {', '.join(FREQUENCIES)}"
    for image_id, row in records.images.items():
        for field in LISTS:
            problem = _list_problem(row.get(field), known)
            if problem is not None:
                yield f"image {image_id}", f"{field} {problem}"


def _list_problem(values: Any, known: Container[int]) -> str | None:
    if not isinstance(values, list):
        return "is missing, or no list of category ids"
    for value in values:
        if type(value) is not int or value not in known:
            return f"holds {value!r}, which is no category of the file"
    return None
