"""Numbers of detections: AP of COCO and LVIS, oLRP with its optimal thresholds, rank correlation."""

from __future__ import annotations

from typing import NamedTuple, TypedDict, cast

import numpy as np
from typing_extensions import NotRequired

from rankdet.coco import (
    Finding,
    GroundTruth,
    GroundTruthSource,
    ResultsSource,
    grouped,
    raise_errors,
    read_ground_truth,
    read_results,
)
from rankdet.coco.parsing import no_collection
from rankdet.metrics.average_precision import AveragePrecision, average_precision
from rankdet.metrics.evaluator import Comparison, IouType, compare
from rankdet.metrics.lrp import OptimalLRP, optimal_lrp
from rankdet.metrics.matching import ClassMatches, Matches, by_class, match
from rankdet.metrics.ranking import spearman_correlation
from rankdet.structures import InputError

RAISE_CAP = "--max-detections {0} (max_detections={0}) counts as many"
"""What a finding of `cap_findings` names."""

__all__ = [
    "ClassMetrics",
    "Measurement",
    "Metrics",
    "OptimalLRP",
    "evaluate",
    "measure",
    "optimal_lrp",
    "spearman_correlation",
]


class ClassMetrics(TypedDict):
    """Numbers of one class as fractions, NaN where it has no objects: see `Metrics`."""

    AP: float
    oLRP: float
    oLRP_Loc: float
    oLRP_FP: float
    oLRP_FN: float
    rank_correlation: NotRequired[float]
    """Spearman's ρ of score and IoU over the true positives: whether the better box has the better score. NaN for fewer
    than two. Evaluations that were written before have none."""
    threshold: float
    """The LRP-optimal score: keep ``score >= threshold``."""
    ground_truths: int
    """Objects of the class, crowd regions not counted."""


class Metrics(TypedDict):
    """Numbers of a data set as fractions, NaN where undefined.

    Those of oLRP and the rank correlation are means over the classes that have them.

    AP and AR are those of COCO. LVIS has ``APr``, ``APc`` and ``APf``, over its rare, common and frequent classes, and
    ``AR300`` in place of ``AR1``, ``AR10`` and ``AR100``.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    APr: NotRequired[float]
    APc: NotRequired[float]
    APf: NotRequired[float]
    AR1: NotRequired[float]
    AR10: NotRequired[float]
    AR100: NotRequired[float]
    AR300: NotRequired[float]
    ARs: float
    ARm: float
    ARl: float
    oLRP: float
    oLRP_Loc: float
    oLRP_FP: float
    oLRP_FN: float
    rank_correlation: NotRequired[float]
    per_class: dict[str, ClassMetrics]
    """By name of the class, in the order of the category ids. Classes that share a name have their id in it."""
    findings: list[str]
    """Lines on what was left out or read in another form, and on images with more objects than detections count."""


class Measurement(NamedTuple):
    """The numbers of an evaluation, and what they were made from: curves, matches and the records themselves."""

    metrics: Metrics
    precision: AveragePrecision
    matches: Matches
    comparison: Comparison


def evaluate(
    ground_truth: GroundTruthSource | GroundTruth,
    detections: ResultsSource,
    iou_type: IouType = "bbox",
    max_detections: int | None = None,
    only_known: bool = False,
    labels_from: int | None = None,
) -> Metrics:
    """Measure detections against a data set of COCO or LVIS.

    A data set whose images list classes that were looked for (``neg_category_ids``) is one of LVIS and measured by its
    rules: only detections of classes that were looked for in an image or have an object there count. An annotation
    without a mask is left out where masks are compared, and a crowd without one is its box.

    Parameters
    ----------
    ground_truth
        Path of an annotation file, the loaded object, or a ``hotcoco.COCO``, which are read and checked; or what a data
        set has read already (``CocoDataset.ground_truth``).
    detections
        Path of a COCO result file or the loaded list of ``{image_id, category_id, bbox, score}``, boxes as
        ``[x, y, width, height]`` in pixels; with ``segmentation`` instead of ``bbox`` for ``"segm"``. Or an object with
        such a list as ``annotations`` and ``images`` of its own, which are matched by file name. Or
        `rankdet.coco.Results`, which need no check.
    iou_type
        ``"bbox"`` or ``"segm"``: what is compared, boxes or masks.
    max_detections
        The best detections that count in each image: of each class, in LVIS of all classes together. None: 100, in
        LVIS 300.
    only_known
        Whether detections in images or of categories that the data set does not have are left out and counted;
        otherwise they are an error.
    labels_from
        0 or 1 where a ``category_id`` counts the classes of the data set, in the order of their ids, from there on.
        None: it is an id.

    Returns
    -------
    Metrics
        AP, AR and oLRP of all classes and of each, as fractions. Categories that share a name are told apart by their
        id: ``"cat (id 3)"``. Its ``findings`` say what was left out, and where ``max_detections`` is too low.

    Raises
    ------
    InputError
        When a file is missing or broken or a record makes no sense; the message names both.

    Notes
    -----
    AP and AR are those of pycocotools and lvis-api with NaN for their −1. As there, COCO does not know the flag
    ``ignore`` of an annotation, and in LVIS it is neither found nor missed. Differs from them for an annotation with
    the id 0, which they take for "no match" and so count as missed; here it counts like any other.

    oLRP is defined in `rankdet.metrics.lrp.optimal_lrp`.

    Examples
    --------
    >>> truth = {
    ...     "images": [{"id": 1, "width": 100, "height": 100}],
    ...     "categories": [{"id": 7, "name": "cell"}],
    ...     "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 10, 40, 40]}],
    ... }
    >>> found = [{"image_id": 1, "category_id": 7, "bbox": [10, 10, 40, 32], "score": 0.6}]
    >>> result = evaluate(truth, found)
    >>> round(result["AP"], 3), round(result["oLRP"], 3), result["per_class"]["cell"]["threshold"]
    (0.7, 0.4, 0.6)
    """
    return measure(ground_truth, detections, iou_type, max_detections, only_known, labels_from).metrics


@no_collection()  # of masks there are as many objects as annotations and detections
def measure(
    ground_truth: GroundTruthSource | GroundTruth,
    detections: ResultsSource,
    iou_type: IouType = "bbox",
    max_detections: int | None = None,
    only_known: bool = False,
    labels_from: int | None = None,
) -> Measurement:
    """Measure as `evaluate` does, with the same arguments and errors, and keep what the numbers were made from."""
    if iou_type not in ("bbox", "segm"):
        raise InputError(f"iou_type must be 'bbox' or 'segm', not {iou_type!r}")
    if max_detections is not None and max_detections < 1:
        raise InputError(f"max_detections must be at least 1, not {max_detections}")
    masks = iou_type == "segm"
    truth, read = (ground_truth, []) if isinstance(ground_truth, GroundTruth) else _read(ground_truth, masks)
    limit = max_detections or (100 if truth.federation is None else 300)
    results, findings = read_results(detections, truth, masks, only_known, labels_from)
    findings = [*read, *findings, *cap_findings(truth, limit, of_each_class=truth.federation is None)]
    if not len(truth.labels):
        findings.append(Finding("warning", str(truth), "", "has no objects: there is nothing to measure by"))
    comparison = compare(truth, results, iou_type, limit)
    precision = average_precision(comparison)
    matches = match(comparison)
    classes = by_class(comparison, matches)
    optima = [optimal_lrp(*matched) for matched in classes]
    names = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN", "threshold")
    per_class = {
        name: {"AP": float(own), **dict(zip(names, optimum, strict=True)), "ground_truths": matched.ground_truths}
        | {"rank_correlation": _rank_correlation(matched)}
        for name, own, optimum, matched in zip(truth.names, precision.per_class, optima, classes, strict=True)
    }
    means = {name: _mean_defined([optimum[place] for optimum in optima]) for place, name in enumerate(names[:-1])}
    means["rank_correlation"] = _mean_defined([own["rank_correlation"] for own in per_class.values()])
    metrics = {**precision.summary, **means, "per_class": per_class, "findings": grouped(findings)}
    return Measurement(cast(Metrics, metrics), precision, matches, comparison)


def cap_findings(truth: GroundTruth, cap: int, of_each_class: bool, remedy: str = RAISE_CAP) -> list[Finding]:
    """A warning where an image has more objects than a cap on detections lets count, crowd regions not counted.

    ``of_each_class`` says whether the cap is for each class of an image or for all together; ``remedy`` raises it.
    """
    objects = ~truth.is_crowd if truth.federation is None else np.ones_like(truth.is_crowd)
    keys = truth.images[objects]
    if of_each_class:
        keys = keys * len(truth.categories) + truth.labels[objects]
    counts = np.bincount(keys)
    places = np.flatnonzero(counts > cap)
    if not len(places):
        return []
    most = int(counts.max())
    images = len(np.unique(places // len(truth.categories))) if of_each_class else len(places)
    kind = "objects of one class" if of_each_class else "objects"
    problem = (
        f"{images} {'image has' if images == 1 else 'images have'} more {kind} than the {cap} detections that count"
    )
    return [Finding("warning", str(truth), "", problem, f"up to {most}", remedy.format(most))]


def _read(source: GroundTruthSource, masks: bool) -> tuple[GroundTruth, list[Finding]]:
    truth, findings = read_ground_truth(source, masks=masks)
    raise_errors(findings)
    return truth, findings


def _rank_correlation(matches: ClassMatches) -> float:
    is_hit = ~np.isnan(matches.ious)
    return spearman_correlation(matches.scores[is_hit], matches.ious[is_hit])


def _mean_defined(values: list[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
