"""The one reader of annotation files: record by record, with everything that is wrong found at once.

`rankdet.coco.records` says what a record means and whether it can stay, `rankdet.coco.suspicions` what is odd about all
of them together. What only some uses need of a file is an argument. Which sound objects a detector learns from is
decided later, in `rankdet.data.usable`.

Legend: N images, A annotations, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO
from numpy.typing import NDArray

from rankdet.coco.findings import Finding
from rankdet.coco.ground_truth import Federation, GroundTruth
from rankdet.coco.lvis import FREQUENCIES, LISTS, frequency, is_federated
from rankdet.coco.packed import PackedBytes
from rankdet.coco.parsing import no_collection, written
from rankdet.coco.records import (
    WITHOUT_MASK,
    Image,
    Known,
    read_annotations,
    read_categories,
    read_images,
)
from rankdet.coco.sections import Section, whole
from rankdet.coco.streaming import Rows, read_document
from rankdet.coco.suspicions import NO_MASKS, suspicions
from rankdet.structures import InputError

GroundTruthSource = str | PathLike[str] | Mapping[str, Any] | COCO


@no_collection()
def read_ground_truth(
    source: GroundTruthSource,
    *,
    files: bool = False,
    masks: bool = False,
    lvis: bool = False,
    crowds_are_objects: bool = False,
    name: str | None = None,
) -> tuple[GroundTruth, list[Finding]]:
    """Read and check an annotation file of COCO or LVIS.

    A record that makes no sense is left out with a warning; what is meant by another form is read, with a note. A box
    that is missing is that around the segmentation. The rules of LVIS hold where some image lists classes, or all
    lists are empty and every category has a frequency. A file without the section ``annotations`` has none.

    Parameters
    ----------
    source
        Path of the JSON file, the loaded object, or a ``hotcoco.COCO``.
    files
        Whether the images are read: each record names a file and its size, and there is at least one.
    masks
        Whether segmentations are read. An object without a sound one stays, and is left out of masks alone.
    lvis
        Whether the file is in LVIS format. The file of an image is the end of its ``coco_url``
        (``train2017/000000391895.jpg``), and ``file_name`` counts only where there is no such address.
    crowds_are_objects
        Whether crowd regions are read as objects, for tools that flag ordinary masks so.
    name
        What messages call the file, where ``source`` is loaded already.

    Returns
    -------
    tuple[GroundTruth, list[Finding]]
        The sound records, and what was found. Errors are: ids of images or categories that repeat; a section whose
        records are all left out; masks that are asked for where no object has one; and, with ``files``, boxes that are
        all relative to the size of the image.

    Raises
    ------
    InputError
        When the file is missing, is no JSON, or lacks its images or categories.
    """
    name, document, findings = _document(source, files, name)
    section = Section(name, "category", document["categories"])
    categories = read_categories(section)
    findings += section.findings()
    images = _images(name, document, files, lvis, findings)
    category_ids = sorted(categories)
    labels = {id_: label for label, id_ in enumerate(category_ids)}
    section = Section(name, "annotation", document["annotations"])
    lost = frozenset(whole(row.get("id")) for row in document["images"] if isinstance(row, dict)) - images.keys()
    said: list[Finding] = []
    federation = _federation(name, images, [categories[id_] for id_ in category_ids], lvis, said)
    places = {id_: place for place, id_ in enumerate(images)}
    image_ids, sizes, file_names = _image_columns(images)
    del document, images  # before there are millions of annotations
    found = read_annotations(section, Known(places, sizes, labels, lost, masks, crowds_are_objects))
    findings += section.findings() + said
    truth = GroundTruth(
        source=name,
        categories=[(id_, categories[id_]["name"]) for id_ in category_ids],
        image_ids=image_ids,
        sizes=sizes,
        file_names=file_names,
        annotation_ids=found.ids,
        places=found.places,
        has_new_id=found.has_new_id,
        images=found.images,
        labels=found.labels,
        boxes=found.boxes,
        areas=found.areas,
        is_crowd=found.is_crowd,
        is_ignored=found.is_ignored,
        segmentations=found.segmentations if masks else None,
        has_empty_mask=found.has_empty_mask,
        federation=federation,
        num_left_out=found.num_left_out,
    )
    odd = suspicions(truth, found, files)
    if NO_MASKS in (one.problem for one in odd):  # then what is wrong with each is what stops
        findings = [one._replace(severity="error") if one.problem.endswith(WITHOUT_MASK) else one for one in findings]
    return truth, findings + odd


def read_file_names(path: Path, lvis: bool = False) -> tuple[list[str], list[Finding]]:
    """The file names of the sound images of an annotation file, and what is wrong with the others.

    Raises InputError when the file is missing, is no JSON or lacks its images or categories.
    """
    name, document, findings = _document(path, files=True)
    return [image.file_name for image in _images(name, document, True, lvis, findings).values()], findings


def _document(
    source: GroundTruthSource, files: bool, name: str | None = None
) -> tuple[str, Mapping[str, Any], list[Finding]]:
    """What messages call a source, its content with all three sections, and what is odd about these."""
    name, document = name or "ground truth", source
    if isinstance(source, COCO):
        document = source.dataset
    elif isinstance(source, str | PathLike):
        name, document = str(source), read_document(Path(source))
    if not isinstance(document, Mapping):
        kind = "a list, as files of detections are" if isinstance(document, list) else "no object"
        raise InputError(
            f"{name}: the top level of a COCO file is an object with images, annotations and categories; this is {kind}"
        )
    findings = []
    if document.get("annotations") is None and "images" in document and "categories" in document:
        document = {**document, "annotations": []}
        findings.append(Finding("warning", name, "", "section 'annotations' is missing: no image has objects"))
    for section in ("images", "annotations", "categories"):
        if section not in document:
            raise InputError(f"{name}: section {section!r} is missing")
        if not isinstance(document[section], list | Rows):
            raise InputError(f"{name}: section {section!r} is not a list")
        if files and section != "annotations" and not document[section]:
            raise InputError(f"{name}: section {section!r} is empty")
    return name, document, findings


def _images(
    name: str, document: Mapping[str, Any], files: bool, lvis: bool, findings: list[Finding]
) -> dict[int, Image]:
    section = Section(name, "image", document["images"])
    found = read_images(section, files, by_address=files and lvis)
    findings += section.findings()
    return found


def _federation(
    name: str, images: Mapping[int, Image], categories: list[dict[str, Any]], lvis: bool, findings: list[Finding]
) -> Federation | None:
    """What LVIS has beyond COCO, by category in the order of the labels; None for COCO."""
    rows = [image.row for image in images.values()]
    if not is_federated(rows, categories):
        if lvis:
            problem = "no image lists the classes that were looked for: the rules of COCO hold"
            findings.append(Finding("note", name, "", problem))
        return None
    for row in categories:
        if not frequency(row):
            problem = f"frequency is none of {', '.join(FREQUENCIES)}: the class counts in no APr, APc or APf"
            findings.append(Finding("warning", name, f"category {row['id']}", problem, repr(row.get("frequency"))))
    known = {whole(row["id"]) for row in categories}
    lists = [{key: _known(name, row, key, known, findings) for key in LISTS} for row in rows]
    return Federation(np.array([frequency(row) for row in categories]), PackedBytes(map(written, lists)))


def _known(
    name: str, image: Mapping[str, Any], key: str, known: set[int | None], findings: list[Finding]
) -> list[int | None]:
    """The category ids that an image lists under a key, without those that the file does not have."""
    given = image.get(key)
    if given is None:
        return []
    if not isinstance(given, list):
        findings.append(Finding("warning", name, f"image {image['id']}", f"{key} is no list: taken as empty"))
        return []
    ids = [whole(value) for value in given]
    lost = [value for value, id_ in zip(given, ids, strict=True) if id_ not in known]
    if lost:
        problem = f"{key} holds what is no category of the file: left out of it"
        findings.append(Finding("note", name, f"image {image['id']}", problem, repr(lost[0])))
    return [id_ for id_ in ids if id_ in known]


def _image_columns(images: Mapping[int, Image]) -> tuple[NDArray[np.int64], NDArray[np.int64], PackedBytes]:
    """Ids, sizes and file names of the images."""
    return (
        np.array(list(images), dtype=np.int64),
        np.array([(image.height, image.width) for image in images.values()], dtype=np.int64).reshape(-1, 2),
        PackedBytes(image.file_name.encode() for image in images.values()),
    )
