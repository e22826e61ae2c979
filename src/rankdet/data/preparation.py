"""What a training does with its data before the first iteration: it reads them and says what is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from rankdet.coco import Finding, GroundTruth, findings_of, grouped, raise_errors
from rankdet.coco.findings import Findings
from rankdet.data.dataset import CocoDataset
from rankdet.structures import InputError, counted

Built = TypeVar("Built")
MISSING = "the image file is missing"


@dataclass(frozen=True)
class Prepared:
    """The data of a training, read and checked.

    Parameters
    ----------
    train
        The images to learn from; None where an error keeps them from being used.
    validation
        The images to evaluate on; None where there are none, or an error keeps them from being used.
    findings
        What is wrong or odd. With an error among them, no training begins.
    summary
        What is used and what is left out, and why: a line for the data, and a few for each split.
    folder
        The folder that paths in words are relative to; None: they stay as they are.
    """

    train: CocoDataset | None
    validation: CocoDataset | None
    findings: list[Finding]
    summary: str
    folder: Path | None = None

    def datasets(self) -> tuple[CocoDataset, CocoDataset | None]:
        """The images to learn from, and those to evaluate on or None; raises InputError where there are errors."""
        raise_errors(self.findings)
        if self.train is None:
            raise ValueError("data without an error have images to learn from")
        return self.train, self.validation

    def describe(self) -> str:
        """The summary, and a line for each kind of finding."""
        return described(self.summary, self.findings, self.folder)


def described(summary: str, findings: Iterable[Finding], folder: Path | None) -> str:
    """A summary of data, and a line for each kind of finding with the paths below ``folder`` relative to it."""
    return "\n".join([summary, *grouped(findings if folder is None else (_within(one, folder) for one in findings))])


def _within(finding: Finding, folder: Path) -> Finding:
    start = f"{folder}{os.sep}"
    return finding._replace(
        file="" if finding.file == str(folder) else finding.file.removeprefix(start),
        problem=finding.problem.replace(start, ""),
        detail=finding.detail.replace(start, ""),
    )


def prepare(
    name: str,
    build_train: Callable[[], CocoDataset],
    build_validation: Callable[[], CocoDataset | str],
    folder: Path | None = None,
) -> Prepared:
    """Read and check the data of a training; what is wrong is found, not raised.

    Images to learn from whose file is missing are an error, or left out where the data set skips what it cannot read.
    Images to evaluate on whose file is missing are kept: they count as images without detections. The classes of both
    are matched by name.

    Parameters
    ----------
    name
        What the summary calls the data.
    build_train
        Reads the images to learn from. What it raises as InputError is a finding.
    build_validation
        Reads the images to evaluate on, or returns why there are none.
    folder
        The folder that the summary names once, and that its other paths are relative to.

    Examples
    --------
    >>> print(prepare("COCO data", lambda: dataset, lambda: "there is no split val", folder).summary)  # doctest: +SKIP
    COCO data in /home/me/cells:
      train: 11 of 12 images, 205 objects (annotations/instances_train.json)
        left out: 1 image without objects; data.keep_empty=true keeps it
      val: nothing is evaluated: there is no split val
    """
    findings: list[Finding] = []
    lines: list[str] = []
    train, validation = _built(build_train, findings), None
    if isinstance(train, CocoDataset):
        train = _trainable(train, findings)
        lines += [] if train is None else _learned(train, folder)
    found = _built(build_validation, findings)
    if isinstance(found, CocoDataset):
        # Where nothing can be learned, the classes are looked at all the same.
        other = found if train is None else train
        validation, odd = comparable(found, other.categories, other.ground_truth)
        findings += odd
        is_held_out = train is not None and _is_same_file(train.ground_truth, validation.ground_truth)
        lines.append(f"  val: {measured(validation)}{_place(validation, folder, 'held out' if is_held_out else '')}")
    elif found is not None:
        lines.append(f"  val: nothing is evaluated: {found}")
    heading = f"{name}:" if folder is None else f"{name} in {folder}:"
    summary = "\n".join([heading, *(lines or ["  nothing can be used"])])
    return Prepared(train, validation, list(dict.fromkeys(findings)), summary, folder)


def _built(build: Callable[[], Built], findings: list[Finding]) -> Built | None:
    """What is built, or None and its errors."""
    try:
        built = build()
    except InputError as error:
        findings += findings_of(error)
        return None
    findings += built.findings if isinstance(built, CocoDataset) else []
    return built


def _trainable(train: CocoDataset, findings: list[Finding]) -> CocoDataset | None:
    """The images to learn from, without those that have no file where these are skipped; None where nothing is left."""
    missing = train.missing_files()
    if train.skip_unreadable:
        findings += _of_missing(train, missing, "warning", "it is left out")
        train = train.without(missing)
    else:
        is_elsewhere = len(missing) == len(train)
        helps = "data.train_images names their folder" if is_elsewhere else "data.skip_unreadable=true leaves it out"
        findings += _of_missing(train, missing, "error", helps)
    if not train.num_objects:
        findings.append(Finding("error", str(train.ground_truth), "", "no image has an object to learn from"))
    return train if len(train) else None


def comparable(
    dataset: CocoDataset, categories: Sequence[tuple[int, str]], owner: object, only_common: bool = False
) -> tuple[CocoDataset, list[Finding]]:
    """Images to evaluate on with the classes of ``owner``, matched by name, and what is wrong or odd about them.

    Images whose file is missing stay: they count as images without detections. It is an error if none can be read.
    So are objects of other classes, unless ``only_common`` says that they are left out.
    """
    remedy = "it counts as an image without detections"
    findings = _of_missing(dataset, dataset.missing_files(), "warning", remedy)
    try:
        dataset.check_readable()
    except InputError as error:
        findings += findings_of(error, str(dataset.ground_truth))
    matched, odd = dataset.with_categories(categories, owner, only_common)
    return matched, findings + odd


def _of_missing(
    dataset: CocoDataset, indices: Sequence[int], severity: Literal["error", "warning"], remedy: str
) -> list[Finding]:
    """A finding for each image, by index, whose file is missing."""
    source, findings = str(dataset.ground_truth), Findings()
    for index in indices:
        record, path = f"image {dataset.image_ids[index]}", str(dataset.path(index))
        findings.add(Finding(severity, source, record, MISSING, path, remedy))
    return findings.rows()


def _learned(dataset: CocoDataset, folder: Path | None) -> list[str]:
    """How much of an annotation file is learned from, and what is left out, and why."""
    truth = dataset.ground_truth
    images = _used(len(dataset), len(truth.image_ids), "image")
    objects = _used(dataset.num_objects, len(truth.labels) + truth.num_left_out, "object")
    omissions = [f"    left out: {omission}" for omission in dataset.omissions()]
    return [f"  train: {images}, {objects}{_place(dataset, folder)}", *omissions]


def _used(number: int, total: int, noun: str) -> str:
    return counted(total, noun) if number == total else f"{number} of {counted(total, noun)}"


def _place(dataset: CocoDataset, folder: Path | None, remark: str = "") -> str:
    """Where the annotations of a data set are, and a remark, in parentheses."""
    file = str(dataset.ground_truth)
    if folder is not None:
        file = "" if file == str(folder) else file.removeprefix(f"{folder}{os.sep}")
    words = ", ".join(filter(None, [file, remark]))
    return f" ({words})" if words else ""


def measured(dataset: CocoDataset) -> str:
    """How much an annotation file has to evaluate on, in words."""
    truth = dataset.ground_truth
    crowds = int(truth.is_crowd.sum())
    regions = f", {counted(crowds, 'crowd')} in which detections do not count" if crowds else ""
    return f"{counted(len(truth.image_ids), 'image')}, {counted(len(truth.labels) - crowds, 'object')}{regions}"


def _is_same_file(one: GroundTruth, other: GroundTruth) -> bool:
    """Whether two records of annotations are parts of one file; splits of a ``data.yaml`` number their images alike."""
    return str(one) == str(other) and not np.isin(other.image_ids, one.image_ids).any()
