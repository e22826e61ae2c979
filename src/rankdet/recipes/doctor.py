"""Everything that is wrong or odd with a data set, found by what a training does and by a closer look."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rankdet.coco import Finding, findings_of
from rankdet.data.doctor import ReadSplit, odd_images, odd_records, shared_images
from rankdet.data.layouts import Reading, Source
from rankdet.data.layouts.coco import has_segmentations
from rankdet.data.preparation import MISSING, described
from rankdet.recipes.schema.data import Data
from rankdet.recipes.schema.recipe import Evaluation
from rankdet.structures import InputError


class Diagnosis(NamedTuple):
    """What doctor says of a data set.

    summary
        What a training uses and leaves out, in words.
    findings
        What is wrong or odd. A training stops before its first iteration exactly where there are errors; one that only
        a look at the image files finds, stops it as soon as it comes to the image.
    folder
        The folder that paths in words are relative to.
    """

    summary: str
    findings: list[Finding]
    folder: Path | None

    def describe(self) -> str:
        """The summary, and a line for each kind of finding."""
        return described(self.summary, self.findings, self.folder)


def check_folder(folder: Path, *, with_masks: bool = False, images: bool = False) -> list[Finding]:
    """What is wrong or odd with a data folder for a training by the rules of COCO; see `diagnose`."""
    return diagnose(Data(folder=Path(folder), batch_size=1), with_masks, images=images).findings


def diagnose(
    data: Data, with_masks: bool = False, evaluation: Evaluation = Evaluation(), images: bool = False
) -> Diagnosis:
    """Prepare data as a training does, and look closer at all splits that there are.

    Parameters
    ----------
    data
        The data of a recipe, with its folder.
    with_masks
        Whether masks are learned. Where they are not, what is odd about them is a warning.
    evaluation
        Whether the training evaluates, and by which number.
    images
        Decode every image, which takes long, and compare the content of files.
    """
    prepared = evaluation.checked(data.prepare(with_masks, evaluation.is_asked))
    findings, splits = list(prepared.findings), []
    used = list(_used_sources(data, evaluation.is_asked))
    files = {source.annotations for source in used}
    for source in used + [other for other in _all_sources(data) if other.annotations not in files]:
        try:
            content = None if source.is_indexed else source.content()
            truth, found = source.read(False, content)
        except InputError as error:
            findings += [] if source in used else _as_warnings(findings_of(error, str(source.annotations)))
            continue
        findings += [] if source in used else _as_warnings(found)
        findings += [] if with_masks else _as_warnings(_of_masks(source, content, found))
        findings += odd_records(truth)
        truth.forget()
        is_learned = source in used[:1] and not data.skip_unreadable
        used_ids = None if prepared.train is None else prepared.train.image_ids
        splits.append(
            ReadSplit(truth, source.images, "error", used_ids) if is_learned else ReadSplit(truth, source.images)
        )
    missing = {(finding.file, finding.record) for finding in findings if finding.problem == MISSING}
    for split in splits:
        odd = odd_images(split, images)
        findings += [one for one in odd if one.problem != MISSING or (one.file, one.record) not in missing]
        split.truth.forget()
    findings = list(dict.fromkeys(findings + shared_images(splits, images)))
    return Diagnosis(prepared.summary, findings, prepared.folder)


def _used_sources(data: Data, is_evaluated: bool) -> Iterable[Source]:
    """Where the images are that are learned from, and then those that are evaluated on."""
    with suppress(InputError):
        yield data.find_source(data.train_split)
    with suppress(InputError):
        found = data.find_validation_source() if is_evaluated else None
        yield from [] if found is None else [found]


def _all_sources(data: Data) -> Iterable[Source]:
    with suppress(InputError):
        layout = data.find_layout()
        yield from () if layout is None else layout.sources.values()


def _of_masks(source: Source, content: Reading | None, known: Iterable[Finding]) -> list[Finding]:
    """What a training of masks would find, too; nothing where the annotations have none."""
    if source.is_indexed and not has_segmentations(source.annotations):
        return []  # in place of millions of findings
    try:
        truth, found = source.read(True, content)
    except InputError:
        return []
    if not truth.has_mask.any():
        return []
    told = set(known)
    return [finding for finding in found if finding not in told]


def _as_warnings(findings: Iterable[Finding]) -> list[Finding]:
    return [finding._replace(severity="warning") if finding.severity == "error" else finding for finding in findings]
