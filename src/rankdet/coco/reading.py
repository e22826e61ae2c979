"""The one reader of annotation files: record by record, with everything that is wrong found at once.

`rankdet.coco.records` says what a record means and whether it can stay, `rankdet.coco.suspicions` what is odd about all
of them together. What only some uses need of a file is an argument. Which sound objects a detector learns from is
decided later, in `rankdet.data.usable`.

Legend: N images, A annotations, C categories.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import attrgetter
from os import PathLike
from pathlib import Path
from types import GenericAlias
from typing import Any

import numpy as np
from hotcoco import COCO

from rankdet.coco.findings import Finding
from rankdet.coco.ground_truth import Federation, GroundTruth
from rankdet.coco.lvis import FREQUENCIES, LISTS, frequency, is_federated
from rankdet.coco.packed import PackedBytes
from rankdet.coco.records import (
    WITHOUT_MASK,
    Annotations,
    Image,
    read_annotations,
    read_categories,
    read_images,
)
from rankdet.coco.sections import Section, whole
from rankdet.coco.suspicions import NO_MASKS, suspicions
from rankdet.structures import InputError

try:
    import msgspec
except ImportError:  # part of the extra `train`: a third of the time of `json`
    msgspec = None

ENCODER = json.JSONEncoder(separators=(",", ":"))
GroundTruthSource = str | PathLike[str] | Mapping[str, Any] | COCO


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python from looking for garbage, again and again, among the millions of new objects of a file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@no_collection()
def read_json(path: str | PathLike[str]) -> Any:
    """The content of a JSON file; InputError names the file and, where the text is broken, the place in it."""
    try:
        return _parsed(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
        raise InputError(f"{path}: is not valid JSON: {error}") from error


def _parsed(text: bytes) -> Any:
    """The content of a JSON text; ValueError or RecursionError where it is broken."""
    if msgspec is not None:
        with suppress(ValueError, RecursionError):  # it takes neither NaN nor half letters, nor other encodings
            return msgspec.json.decode(text)
    return json.loads(text)


@no_collection()
def read_columns(
    path: str | PathLike[str], kinds: Mapping[str, Any], without: Collection[str]
) -> dict[str, list[Any]] | None:
    """The values of the records of a JSON file by key, in two thirds of the time, for no record becomes a dictionary.

    None where the file is not a list of objects, some object lacks a key of ``kinds``, has a value of another type
    there or a key of ``without``, or where msgspec is missing.
    """
    if msgspec is None:
        return None
    absent = [(key, msgspec.UnsetType, msgspec.UNSET) for key in without]
    record = msgspec.defstruct("Record", [*kinds.items(), *absent], gc=False)
    try:
        text = Path(path).read_bytes()
        if not text.isascii():  # the encoding of other values would not be checked
            return None
        rows = msgspec.json.decode(text, type=GenericAlias(list, (record,)))
    except (OSError, ValueError, RecursionError):
        return None
    return {key: list(map(attrgetter(key), rows)) for key in kinds}


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
    found = read_annotations(section, images, labels, masks, lost, crowds_are_objects)
    findings += section.findings()
    names = [(id_, categories[id_]["name"]) for id_ in category_ids]
    rows = [categories[id_] for id_ in category_ids]
    truth = _packed(name, names, images, found, masks, _federation(name, images, rows, lvis, findings))
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
) -> tuple[str, Mapping[str, list[Any]], list[Finding]]:
    """What messages call a source, its content with all three sections, and what is odd about these."""
    name, document = name or "ground truth", source
    if isinstance(source, COCO):
        document = source.dataset
    elif isinstance(source, str | PathLike):
        name, document = str(source), read_json(source)
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
        if not isinstance(document[section], list):
            raise InputError(f"{name}: section {section!r} is not a list")
        if files and section != "annotations" and not document[section]:
            raise InputError(f"{name}: section {section!r} is empty")
    return name, document, findings


def _images(
    name: str, document: Mapping[str, list[Any]], files: bool, lvis: bool, findings: list[Finding]
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
    return Federation(np.array([frequency(row) for row in categories]), PackedBytes(map(_json, lists)))


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


def _packed(
    name: str,
    categories: list[tuple[int, str]],
    images: Mapping[int, Image],
    found: Annotations,
    masks: bool,
    federation: Federation | None,
) -> GroundTruth:
    """The sound records in arrays."""
    codes = (b"" if one is None else _json(one) for one in found.segmentations)
    return GroundTruth(
        source=name,
        categories=categories,
        image_ids=np.array(list(images), dtype=np.int64),
        sizes=np.array([(image.height, image.width) for image in images.values()], dtype=np.int64).reshape(-1, 2),
        file_names=PackedBytes(image.file_name.encode() for image in images.values()),
        annotation_ids=found.ids,
        places=found.places,
        has_new_id=found.has_new_id,
        images=found.images,
        labels=found.labels,
        boxes=found.boxes,
        areas=found.areas,
        is_crowd=found.is_crowd,
        is_ignored=found.is_ignored,
        segmentations=PackedBytes(codes) if masks else None,
        has_empty_mask=found.has_empty_mask,
        federation=federation,
        num_left_out=found.num_left_out,
    )


def _json(value: Any) -> bytes:
    if isinstance(value, list):  # sound polygons: Python writes their numbers as JSON does, in less time
        return repr(value).replace(" ", "").encode()
    return ENCODER.encode(value).encode()
