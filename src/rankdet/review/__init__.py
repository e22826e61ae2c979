"""`rankdet report`: runs, or detections of any tool, with their ground truth → one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankdet.extras import require

require(__name__)

from rankdet.metrics.evaluator import IouType
from rankdet.report import Section, write_page
from rankdet.review.errors import error_sections, score_sections
from rankdet.review.examples import example_sections
from rankdet.review.learning import learning_sections, recipe_sections, time_sections
from rankdet.review.quality import class_sections, curve_sections, part_sections
from rankdet.review.reading import Subject, read_subjects
from rankdet.review.summary import summary_sections
from rankdet.runs.folder import output_folder
from rankdet.structures import InputError

__all__ = ["Subject", "read_subjects", "write_report"]

MOST_CLASSES = 80
"""Classes whose curves are drawn, as many as COCO has: a page of more would be long, and large."""


def write_report(
    found: Sequence[Path],
    out: Path,
    *,
    data: Path | None = None,
    split: str = "val",
    images: Path | None = None,
    iou_type: IouType | None = None,
    max_detections: int | None = None,
    only_known: bool = False,
    labels_from: int | None = None,
    classes: int = MOST_CLASSES,
) -> list[Subject]:
    """Write a page about runs, or about detections of any tool: one HTML file with numbers, curves and images.

    Parameters
    ----------
    found
        Run folders, and files of detections as `rankdet.metrics.evaluate` takes them; several are compared.
    out
        The file to write.
    data
        A data folder or an annotation file with what was to be found; None: where the recipe of each run says. A run
        that was evaluated on other data is evaluated on these, and keeps its own evaluation.
    split
        The split of a data folder.
    images
        The folder of the images of an annotation file; None: it is looked for around the file.
    iou_type
        What the curves compare, ``"bbox"`` or ``"segm"``; None: masks where all have them, and otherwise boxes.
    max_detections, only_known, labels_from
        How a file of detections is read: see `rankdet.metrics.evaluate`. A run has chosen its detections.
    classes
        Most classes whose curves are drawn: those with the most objects.

    Returns
    -------
    list[Subject]
        What was read and measured.

    Raises
    ------
    InputError
        When something is missing or broken, or detections were made on other images than those of the data.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: --out is the HTML file to write")
    subjects = read_subjects(
        found,
        data,
        split,
        images,
        iou_type,
        max_detections=max_detections,
        only_known=only_known,
        labels_from=labels_from,
    )
    sections: list[Section] = [
        *summary_sections(subjects),
        *curve_sections(subjects, classes),
        *part_sections(subjects),
        *class_sections(subjects),
        *error_sections(subjects),
        *score_sections(subjects),
        *example_sections(subjects),
        *learning_sections(subjects),
        *time_sections(subjects),
        *recipe_sections(subjects),
    ]
    names = [subject.name for subject in subjects]
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs compared"
    introduction = "" if len(names) < 3 else ", ".join(names)
    with output_folder(out.absolute().parent):
        write_page(out, title, sections, introduction)
    return subjects
