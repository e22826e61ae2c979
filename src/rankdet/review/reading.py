"""What a report is about: runs and files of detections, with the ground truth that they are measured by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rankdet.coco import GroundTruth, Results, grouped, raise_errors, read_results
from rankdet.coco.parsing import read_json
from rankdet.coco.suspicions import NO_MASKS
from rankdet.data.layouts import Source
from rankdet.inference.evaluation import evaluate_on_folder
from rankdet.inference.loading import load
from rankdet.metrics import Measurement, measure
from rankdet.metrics.evaluator import IouType
from rankdet.recipes import Recipe, load_recipe
from rankdet.recipes.default import BOXES
from rankdet.runs.folder import Run, read_log, with_nan
from rankdet.structures import InputError

SAME = 1e-6
"""How much an AP that is measured again may differ from the one that a run has noted."""


class OtherData(InputError):
    """A run was evaluated on other data than those that it is to be measured by."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A run, or detections of any tool: what is known of it.

    Parameters
    ----------
    name
        Of the folder or the file.
    path
        The run folder or the file of detections.
    metrics
        What its evaluation has noted, or what was measured of its detections; empty where there is neither.
    measured
        Its boxes or its masks beside the objects, from which curves are made; None where there are no detections, or
        no ground truth.
    source
        The ground truth that was read, and where its images are; None where there is none.
    log
        The records of its training.
    recipe
        Of its training; None for detections.
    findings
        What was odd about its data and detections.
    """

    name: str
    path: Path
    metrics: Mapping[str, Any]
    measured: Measurement | None = None
    source: Source | None = None
    log: Sequence[Mapping[str, Any]] = ()
    recipe: Recipe | None = None
    findings: Sequence[str] = ()

    @property
    def digest(self) -> str | None:
        """What tells its data from others; None where they are not known."""
        if self.measured is not None:
            return self.measured.comparison.ground_truth.digest()
        return self.metrics.get("data_digest")

    @property
    def shown(self) -> Mapping[str, Any]:
        """The metrics of what ``measured`` compares: of masks their own, otherwise those of boxes."""
        is_masks = self.measured is not None and self.measured.comparison.iou_type == "segm"
        return self.metrics.get("masks", self.metrics) if is_masks else self.metrics


@dataclass(eq=False)
class _Truths:
    """Ground truth that several subjects share is read once."""

    data: Path | None
    split: str
    images: Path | None
    only_known: bool
    labels_from: int | None
    read: dict[tuple[Source, bool], tuple[GroundTruth, list[str]]] = field(default_factory=dict)

    def source(self, recipe: Recipe | None, path: Path) -> Source:
        """Where the ground truth of a run, or of detections, is."""
        if self.data is None and recipe is None:
            raise InputError(f"{path} does not say what was to be found: name it with --data")
        fields = (recipe or load_recipe(BOXES)).data
        if self.data is not None and self.data.is_file():
            fields = fields.at(None, self.data, self.images)
        elif self.data is not None:
            return fields.at(self.data).find_source(self.split)
        found = fields.find_validation_source()
        if found is None:
            raise InputError(f"{path} was trained without images to evaluate on: name some with --data")
        return found

    def of(self, source: Source, masks: bool) -> tuple[GroundTruth, list[str]]:
        """The sound records of a source, and what is said of the others."""
        key = source, masks
        if key not in self.read:
            truth, findings = source.read(masks)
            raise_errors(
                one._replace(remedy="--iou-type bbox compares boxes") if one.problem == NO_MASKS else one
                for one in findings
            )
            self.read[key] = truth, grouped(findings)
        return self.read[key]


def read_subjects(
    paths: Sequence[Path],
    data: Path | None = None,
    split: str = "val",
    images: Path | None = None,
    iou_type: IouType | None = None,
    max_detections: int | None = None,
    only_known: bool = False,
    labels_from: int | None = None,
) -> list[Subject]:
    """Read runs and files of detections, and measure them where their ground truth is known.

    See `rankdet.review.write_report` for the arguments and errors.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("a run or a file is named twice")
    if data is None and images is not None:
        raise InputError("--images is the folder of the images of an annotation file: name it with --data")
    truths = _Truths(data, split, images, only_known, labels_from)
    parts = [_Found.at(path) for path in paths]
    detected = [part.has_masks for part in parts if part.detections]
    masks = bool(detected) and all(detected) if iou_type is None else iou_type == "segm"
    names = _names(paths)
    return [part.subject(name, truths, masks, max_detections) for part, name in zip(parts, names, strict=True)]


@dataclass(frozen=True, eq=False)
class _Found:
    """What lies at a path, before it is compared with anything."""

    path: Path
    file: Path
    detections: Any
    metrics: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    recipe: Recipe | None

    @classmethod
    def at(cls, path: Path) -> _Found:
        """Read a run folder, or a file of detections."""
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"there is no run folder and no file of detections {path}")
            return cls(path, path, read_json(path), {}, (), None)
        run = Run(path)
        if not (run.log.exists() or run.detections.exists()):
            raise InputError(f"{path} is no run folder: it has neither {run.log.name} nor {run.detections.name}")
        return cls(
            path,
            run.detections,
            read_json(run.detections) if run.detections.exists() else None,
            with_nan(read_json(run.evaluation)) if run.evaluation.exists() else {},
            list(read_log(run.log)) if run.log.exists() else (),
            load_recipe(run.recipe) if run.recipe.exists() else None,
        )

    @property
    def has_masks(self) -> bool:
        """Whether its detections have masks."""
        records = self.detections.get("annotations") if isinstance(self.detections, dict) else self.detections
        if not isinstance(records, list) or not records:
            return False
        # Some tools write an empty segmentation beside each box.
        return all(isinstance(one, dict) and bool(one.get("segmentation")) for one in records)

    def subject(self, name: str, truths: _Truths, masks: bool, cap: int | None = None) -> Subject:
        """Measure it, where its ground truth is known.

        A run that was evaluated on other data than those that are asked for is evaluated on these.
        """
        try:
            return self._measured(name, truths, masks, cap)
        except OtherData:
            if truths.data is None or not self.path.is_dir() or not Run(self.path).checkpoints():
                raise
        with TemporaryDirectory() as folder:
            out = Path(folder)
            evaluate_on_folder(load(self.path), truths.data, truths.split, out=out, images=truths.images)
            run = Run(out)
            detections, metrics = read_json(run.detections), with_nan(read_json(run.evaluation))
            again = replace(self, file=run.detections, detections=detections, metrics=metrics)
            return again._measured(name, truths, masks and again.has_masks, cap)

    def _measured(self, name: str, truths: _Truths, masks: bool, cap: int | None) -> Subject:
        known = Subject(name, self.path, self.metrics, log=self.log, recipe=self.recipe)
        if self.detections is None:
            if truths.data is not None and Run(self.path).checkpoints():
                raise OtherData(f"{self.path} has no detections")  # which an evaluation makes
            return replace(known, findings=[f"{name} has no detections yet: rankdet evaluate writes them"])
        try:
            source = truths.source(self.recipe, self.path)
            truth, findings = truths.of(source, masks)
        except InputError as error:
            if truths.data is not None or self.recipe is None:
                raise
            return replace(known, findings=[f"{error}: without ground truth (--data) there are no curves"])
        truth = _with_classes(truth, self.metrics, self.path)
        digest = self.metrics.get("data_digest")
        if digest is not None and digest != truth.digest():
            raise self._of_other_data(f"on other data: images or objects of {source.annotations} differ")
        try:
            results, odd = read_results(self.file, truth, masks, truths.only_known, truths.labels_from)
        except InputError as error:
            if digest is not None or not self.metrics:
                raise
            raise OtherData(str(error)) from error  # of a run that has noted no digest, as before
        results = replace(results, boxes=None) if masks and self.metrics else results
        measured = measure(truth, results, "segm" if masks else "bbox", self._cap(results, truth) or cap)
        if "per_class" not in self.metrics:  # of images without an object a run has noted no numbers
            known = replace(known, metrics={**self.metrics, **measured.metrics})
        self._check(measured, source, masks)
        said = [*findings, *grouped(odd), *known.metrics.get("findings", ())]
        return replace(known, measured=measured, source=source, findings=list(dict.fromkeys(said)))

    def _cap(self, results: Results, truth: GroundTruth) -> int | None:
        """A run has chosen its detections already, and all of them count."""
        if not self.metrics or not len(results):
            return None
        _, counts = np.unique(results.image_ids, return_counts=True)
        return max(100 if truth.federation is None else 300, int(counts.max()))

    def _check(self, measured: Measurement, source: Source, masks: bool) -> None:
        """Raise InputError where the evaluation of a run has noted other numbers than its detections have here."""
        noted = self.metrics.get("masks", {}) if masks else self.metrics
        here = measured.metrics
        counts = [
            sum(numbers["ground_truths"] for numbers in metrics.get("per_class", {}).values())
            for metrics in (noted, here)
        ]
        # Bad detections have the same AP on any data, of which the ids may be the same.
        if "per_class" in noted and counts[0] != counts[1]:
            raise self._of_other_data(f"on {counts[0]} objects, but {source.annotations} has {counts[1]}")
        for name in ("AP", "oLRP"):
            one, other = noted.get(name, math.nan), here[name]
            if name in noted and not (abs(one - other) <= SAME or (math.isnan(one) and math.isnan(other))):
                said = f"{self.path} has noted an {name} of {one:.4f}, but {source.annotations} gives {other:.4f}"
                raise OtherData(f"{said}: it was evaluated on other data; name them with --data and --split")

    def _of_other_data(self, why: str) -> OtherData:
        return OtherData(f"{self.path} was evaluated {why}: name its data with --data and --split")


def _with_classes(truth: GroundTruth, metrics: Mapping[str, Any], owner: Path) -> GroundTruth:
    """The ground truth with the classes that an evaluation has measured, in its order."""
    if "per_class" not in metrics:
        return truth
    own = dict(zip(truth.names, truth.categories, strict=True))
    matched, _ = truth.with_categories([own.get(name, (0, name)) for name in metrics["per_class"]], owner)
    return matched


def _names(paths: Sequence[Path]) -> list[str]:
    """What the page calls each path: its name, or as many folders above as tell it from the others."""
    places = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, places)) + 1):
        names = ["/".join(place[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return names
    raise ValueError("paths are equal")
