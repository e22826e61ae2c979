"""Errors of calibration: how far scores are from what they should state, the IoU or the precision of detections.

Legend: D detections of one class in all images, C classes, J bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import GroundTruth, Results
from rankdet.metrics.evaluator import IouType, compare
from rankdet.metrics.lrp import optimal_lrp
from rankdet.metrics.matching import ClassMatches, match_classes

ANY_OVERLAP = float(np.finfo(np.float64).tiny)
"""The IoU τ = 0 of LaECE₀ and LaACE₀: a detection has an object where both share anything at all."""


class CalibrationErrors(NamedTuple):
    """Errors of calibration as fractions, NaN where no detection counts. Lower is better.

    LaECE0, LaACE0, D_ECE
        See `laece0`, `laace0` and `d_ece`.
    detections
        How many detections are measured.
    """

    LaECE0: float
    LaACE0: float
    D_ECE: float
    detections: int


class Outcomes(NamedTuple):
    """Scores of detections beside what came of them, of each class in the order of the labels.

    any_overlap
        C matches at τ = 0: each detection, best score first, with the object that it overlaps most, if any is left.
    at_half
        C matches at τ = 0.5, as those of AP50.
    iou_type
        What has overlapped: boxes ``"bbox"`` or masks ``"segm"``.
    """

    any_overlap: list[ClassMatches]
    at_half: list[ClassMatches]
    iou_type: IouType = "bbox"

    @classmethod
    def of(
        cls, truth: GroundTruth, results: Results, iou_type: IouType = "bbox", max_detections: int = 100
    ) -> Outcomes:
        """Match detections with objects by the rules of AP, twice."""
        comparison = compare(truth, results, iou_type, max_detections)
        return cls(match_classes(comparison, ANY_OVERLAP), match_classes(comparison), iou_type)

    def thresholds(self) -> list[float]:
        """C LRP-optimal scores (`rankdet.metrics.optimal_lrp`), NaN where a class has none."""
        return [optimal_lrp(*matches).threshold for matches in self.at_half]

    def above(self, thresholds: Sequence[float]) -> Outcomes:
        """The detections whose score reaches that of their class; none of a class whose threshold is NaN."""
        return self._changed(lambda side: [each.above(cut) for each, cut in zip(side, thresholds, strict=True)])

    def with_scores(self, maps: Sequence[Callable[[NDArray[np.float64]], NDArray[np.float64]]]) -> Outcomes:
        """The same detections with the scores that increasing maps, one for each class, make of theirs."""
        return self._changed(
            lambda side: [each._replace(scores=change(each.scores)) for each, change in zip(side, maps, strict=True)]
        )

    def errors(self) -> CalibrationErrors:
        """Measure the scores."""
        detections = sum(len(matches.scores) for matches in self.at_half if matches.ground_truths)
        return CalibrationErrors(laece0(self.any_overlap), laace0(self.any_overlap), d_ece(self.at_half), detections)

    def _changed(self, change: Callable[[list[ClassMatches]], list[ClassMatches]]) -> Outcomes:
        return self._replace(any_overlap=change(self.any_overlap), at_half=change(self.at_half))


def laece0(classes: Sequence[ClassMatches], bins: int = 25) -> float:
    r"""Localization-aware expected calibration error with τ = 0, the mean over classes.

    .. math:: \mathrm{LaECE}_0^c = \sum_{j=1}^{J} \frac{|D_j|}{|D|}
              \left| \frac{1}{|D_j|} \sum_{i \in D_j} p_i - \frac{1}{|D_j|} \sum_{i \in D_j} \mathrm{IoU}_i \right|

    A score p should state the IoU that is to be expected, of boxes or of masks. Bins j are equally wide, open below,
    and closed above.

    Parameters
    ----------
    classes
        Scores and IoUs (D,) of each class, matched at τ = 0; NaN, which counts as 0, for a detection without an object.
    bins
        J.

    Returns
    -------
    float
        In [0, 1]; NaN where no class has both objects and detections. Other classes are left out.

    Notes
    -----
    Kuzucu, Oksuz, Sadeghi, Dokania, "On Calibration of Object Detectors: Pitfalls, Evaluation and Baselines", ECCV
    2024, arXiv:2405.20459: LaECE of Oksuz, Joy, Dokania, "Towards Building Self-Aware Object Detectors via
    Reliable Uncertainty Quantification and Calibration", CVPR 2023, with τ = 0, where precision × mean IoU of the true
    positives becomes the mean IoU of all.

    Differs from the authors' code in two ways. There a detection that overlaps nothing takes an object all the same, so
    that another may miss it. And a class whose error is 0 is left out of the mean there.

    Examples
    --------
    One bin is right on average, in the other 0.9 is said of an IoU of 0.7: half of 0 and half of 0.2.

    >>> scores, ious = np.array([0.9, 0.9, 0.5, 0.5]), np.array([0.7, 0.7, 1.0, np.nan])
    >>> round(laece0([ClassMatches(scores, ious, 4)]), 6)
    0.1
    """
    return _mean_over_classes(classes, lambda scores, ious: _binned_error(scores, ious, bins))


def laace0(classes: Sequence[ClassMatches]) -> float:
    r"""Localization-aware adaptive calibration error with τ = 0, the mean over classes: each detection is a bin.

    .. math:: \mathrm{LaACE}_0^c = \frac{1}{|D|} \sum_{i \in D} \left| p_i - \mathrm{IoU}_i \right|

    Within a bin of `laece0`, errors of both signs cancel out; here none does. Parameters, result and source are those
    of `laece0`.

    Examples
    --------
    >>> scores, ious = np.array([0.9, 0.9, 0.5, 0.5]), np.array([0.7, 0.7, 1.0, np.nan])
    >>> round(laace0([ClassMatches(scores, ious, 4)]), 6)
    0.35
    """
    return _mean_over_classes(classes, lambda scores, ious: float(np.abs(scores - ious).mean()))


def d_ece(classes: Sequence[ClassMatches], bins: int = 10) -> float:
    r"""Detection expected calibration error: how far scores are from precision at IoU 0.5, of all classes together.

    .. math:: \mathrm{D\text{-}ECE} = \sum_{j=1}^{J} \frac{|D_j|}{|D|}
              \left| \frac{1}{|D_j|} \sum_{i \in D_j} p_i - \mathrm{precision}(j) \right|

    Parameters
    ----------
    classes
        Scores and IoUs (D,) of each class, matched at τ = 0.5; NaN for a false positive.
    bins
        J.

    Returns
    -------
    float
        In [0, 1]; NaN where no class has both objects and detections. Other classes are left out.

    Notes
    -----
    Küppers, Kronenberger, Shantia, Haselhoff, "Multivariate Confidence Calibration for Object Detection", CVPR
    Workshops 2020, arXiv:2004.13546, with bins of the score alone; with 10 bins and τ = 0.5 as in arXiv:2405.20459.

    Examples
    --------
    Of two detections with 0.8 one is right:

    >>> round(d_ece([ClassMatches(np.array([0.8, 0.8]), np.array([0.9, np.nan]), 1)]), 6)
    0.3
    """
    measured = [matches for matches in classes if matches.ground_truths]
    scores = np.concatenate([np.zeros(0), *(matches.scores for matches in measured)])
    hits = np.concatenate([np.zeros(0), *(~np.isnan(matches.ious) for matches in measured)])
    return _binned_error(scores, hits, bins) if len(scores) else float("nan")


def _binned_error(scores: NDArray[np.float64], outcomes: NDArray[np.float64], bins: int) -> float:
    """Mean over the detections of | mean score − mean outcome | of their bin."""
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, bins - 1)
    # |D_j| cancels out: the difference of the sums is that of the means, times |D_j|.
    return float(np.abs(np.bincount(places, scores - outcomes)).sum() / len(scores))


def _mean_over_classes(
    classes: Sequence[ClassMatches], error: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
) -> float:
    measured = [matches for matches in classes if matches.ground_truths and len(matches.scores)]
    values = [error(matches.scores, np.nan_to_num(matches.ious, nan=0.0)) for matches in measured]
    return float(np.mean(values)) if values else float("nan")
