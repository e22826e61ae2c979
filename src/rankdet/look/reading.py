"""The splits of a data set as they are, broken records included: what a page about them is made from.

Legend: N images, A annotations of a split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rankdet.coco import Finding, GroundTruth, findings_of
from rankdet.coco.findings import record_name
from rankdet.coco.streaming import Rows
from rankdet.data.doctor import ReadSplit, odd_images, odd_records
from rankdet.data.layouts import Layout, Source, find_layout, find_source
from rankdet.data.layouts.splits import SPLITS
from rankdet.data.layouts.yolo_settings import SETTINGS_SUFFIXES
from rankdet.structures import InputError


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set: its sound records, and what was found wrong with the others.

    Parameters
    ----------
    name
        ``"train"``, ``"val"``, ``"test"``, or whatever else the folder calls it.
    source
        Its annotations and the folder of its images.
    truth
        The records, with their segmentations where the file has any; None where the file cannot be read.
    findings
        What is wrong or odd with records and files.
    of_images
        Findings about an image or one of its annotations, by the place of the image in ``truth``; notes are no such.
    of_objects
        Row of ``truth`` → severity of a finding about it.
    """

    name: str
    source: Source
    truth: GroundTruth | None
    findings: list[Finding]
    of_images: Mapping[int, list[Finding]]
    of_objects: Mapping[int, str]

    def path(self, image: int) -> Path:
        """The file of an image, by its place in ``truth``."""
        if self.truth is None:
            raise ValueError(f"{self.source.annotations} was not read")
        return self.source.images / self.truth.file_names[image].decode()


def read_splits(
    data: Path | None, names: Sequence[str] = (), files: Mapping[str, tuple[Path, Path | None]] = MappingProxyType({})
) -> list[Split]:
    """Read the splits of a data set, training first.

    Annotations that cannot be read are a split without records and with an error among its findings.

    Parameters
    ----------
    data
        A data folder or its ``data.yaml``, or one annotation file; None: ``files`` alone.
    names
        Splits to read; none: all.
    files
        Split → annotation file, and folder of its images or None: beside those of the data folder, or in their place.

    Raises
    ------
    InputError
        When there is no such folder, it has none of the known layouts, or no split of a name.
    """
    named = {split: find_source(*paths) for split, paths in files.items()}
    layout = Layout(data or Path(), "", {})
    if data is not None and data.is_file() and data.suffix not in SETTINGS_SUFFIXES:  # these name splits
        named = {data.stem: find_source(data), **named}
    elif data is not None:
        layout = find_layout(data)
    layout = replace(layout, sources={**layout.sources, **named})
    if names:
        return [_read(name, layout.source(name)) for name in dict.fromkeys(names)]
    order = sorted(layout.sources, key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))
    return [_read(name, layout.sources[name]) for name in order]


def _read(name: str, source: Source) -> Split:
    try:
        document, findings = source.content()
        truth, found = source.check(document, masks=True)
        if not truth.has_mask.any():  # then nothing is wrong with that
            truth, found = source.check(document, masks=False)
    except InputError as error:
        return Split(name, source, None, findings_of(error, str(source.annotations)), {}, {})
    findings = [
        *findings,
        *found,
        *odd_images(ReadSplit(truth, source.images, "error" if name == "train" else "warning")),
    ]
    of_images, of_objects = _concerned(truth, findings, document.get("annotations"))
    # Boxes that are odd, though sound, have kinds of their own, and mark their images by these.
    return Split(name, source, truth, findings + odd_records(truth), of_images, of_objects)


def _concerned(
    truth: GroundTruth, findings: Iterable[Finding], annotations: Any
) -> tuple[dict[int, list[Finding]], dict[int, str]]:
    """Findings by the place of the image that they concern, and their severity by the row of the annotation.

    Notes are left out. ``annotations`` are the records of the file, which know the images of those that are not in
    ``truth``.
    """
    by_record: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.record and finding.severity != "note":
            by_record[finding.record].append(finding)
    if not by_record:
        return {}, {}
    places = {one: place for place, one in enumerate(truth.image_ids.tolist())}
    found: dict[int, list[Finding]] = defaultdict(list)
    objects: dict[int, str] = {}
    for one, place in places.items():
        found[place] += by_record.get(f"image {one}", [])
    for row, image in enumerate(truth.images.tolist()):
        own = by_record.pop(truth.name_of(row), [])
        if own:
            found[image] += own
            objects[row] = own[0].severity
    for number, record in enumerate(annotations if isinstance(annotations, list | Rows) else []):
        if isinstance(record, Mapping) and isinstance(record.get("image_id"), int) and record["image_id"] in places:
            found[places[record["image_id"]]] += by_record.pop(record_name("annotation", number, record), [])
    return {image: own for image, own in found.items() if own}, objects
