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

from rankdet.coco import Finding, GroundTruth, PackedBytes
from rankdet.coco.reading import read_json
from rankdet.data.doctor import ReadSplit, odd_images, odd_records
from rankdet.data.layouts import Layout, Source, find_layout, find_source
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
        A data folder, or one annotation file; None: ``files`` alone.
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
    if data is not None and data.is_file():
        return [_read(data.stem, find_source(data))]
    layout = Layout(Path(), "", {}) if data is None else find_layout(data)
    layout = replace(layout, sources={**layout.sources, **named})
    if names:
        return [_read(name, layout.source(name)) for name in dict.fromkeys(names)]
    first = ("train", "val", "test")
    order = sorted(layout.sources, key=lambda name: (first.index(name) if name in first else len(first), name))
    return [_read(name, layout.sources[name]) for name in order]


def _read(name: str, source: Source) -> Split:
    try:
        truth, findings = source.read(masks=False)
    except InputError as error:
        problem = str(error).removeprefix(f"{source.annotations}: ")
        return Split(name, source, None, [Finding("error", str(source.annotations), "", problem)], {}, {})
    truth, odd = _with_outlines(truth, source)
    findings += [one._replace(severity="warning") for one in odd if one not in findings]
    findings += odd_images(ReadSplit(truth, source.images, "error" if name == "train" else "warning"))
    of_images, of_objects = _concerned(truth, findings, source)
    # Boxes that are odd, though sound, have kinds of their own, and mark their images by these.
    return Split(name, source, truth, findings + odd_records(truth), of_images, of_objects)


def _with_outlines(truth: GroundTruth, source: Source) -> tuple[GroundTruth, list[Finding]]:
    """The same records with the segmentations that are sound, and what is wrong with the others.

    A box whose segmentation is none stays. Where no annotation has any, nothing is wrong with that.
    """
    try:
        masked, findings = source.read(masks=True)
    except InputError:
        return truth, []
    if masked.segmentations is None or not any(masked.segmentations[row] for row in range(len(masked.boxes))):
        return truth, []
    rows = {one: row for row, one in enumerate(masked.annotation_ids.tolist())}
    places = [rows.get(one) for one in truth.annotation_ids.tolist()]
    segmentations = PackedBytes(b"" if place is None else masked.segmentations[place] for place in places)
    return replace(truth, segmentations=segmentations), findings


def _concerned(
    truth: GroundTruth, findings: Iterable[Finding], source: Source
) -> tuple[dict[int, list[Finding]], dict[int, str]]:
    """Findings by the place of the image that they concern, and their severity by the row of the annotation."""
    rows = {one: row for row, one in enumerate(truth.annotation_ids.tolist())}
    objects: dict[int, str] = {}
    places = {one: place for place, one in enumerate(truth.image_ids.tolist())}
    found: dict[int, list[Finding]] = defaultdict(list)
    lost: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.severity == "note":
            continue
        kind, _, one = finding.record.partition(" ")
        if kind == "image" and one.isdecimal() and int(one) in places:
            found[places[int(one)]].append(finding)
        elif kind == "annotation" and one.isdecimal() and int(one) in rows:
            found[int(truth.images[rows[int(one)]])].append(finding)
            objects[rows[int(one)]] = finding.severity
        elif kind == "annotation":
            lost[one].append(finding)
    if lost:  # annotations that were left out: only the file knows the images they belong to
        for row in _annotations(source):
            for finding in lost.pop(str(row.get("id")), ()):
                if isinstance(row.get("image_id"), int) and row["image_id"] in places:
                    found[places[row["image_id"]]].append(finding)
    return found, objects


def _annotations(source: Source) -> list[Mapping[str, Any]]:
    """The annotations of a split as they are, as far as they can be read."""
    try:
        document = read_json(source.annotations) if source.document is None else source.document()[0]
    except InputError:
        return []
    rows = document.get("annotations") if isinstance(document, Mapping) else None
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
