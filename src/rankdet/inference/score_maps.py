"""Increasing maps of scores, fitted so that a score states what is to be expected of its detection.

Legend: D detections, K knots, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from rankdet.metrics.calibration import Outcomes
from rankdet.metrics.evaluator import IouType
from rankdet.structures import Detection, InputError

Values = NDArray[np.float64]
Method = Literal["isotonic", "platt"]
Target = Literal["iou", "precision"]

SHARE_OF_SCORE = 1e-3
"""Share of the old score in the new one: a map that does not fall becomes one that rises, and no order is lost."""
PRIOR = 1e-2
"""Weight, in detections, of scale 1 and shift 0 beside what Platt scaling is fitted on; it makes the fit unique."""


@dataclass(frozen=True)
class Unchanged:
    """Each score is itself: the map of a class that nothing could be fitted on."""

    def __call__(self, scores: Values) -> Values:
        return scores

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {}


@dataclass(frozen=True)
class Isotonic:
    """A piecewise linear map from 0 at 0 through K knots; nearly constant behind the last.

    Parameters
    ----------
    scores
        K ascending scores in [0, 1].
    values
        K values in [0, 1] that do not fall.

    Examples
    --------
    >>> Isotonic((0.5, 0.9), (0.2, 0.6))(np.array([0.25, 0.5, 0.7, 0.9, 1.0])).round(2)
    array([0.1, 0.2, 0.4, 0.6, 0.6])
    """

    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, scores: Values) -> Values:
        """Map scores in [0, 1], of any shape."""
        return _rising(scores, np.interp(scores, [0.0, *self.scores], [0.0, *self.values]))

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"scores": list(self.scores), "values": list(self.values)}


@dataclass(frozen=True)
class Platt:
    """Platt scaling: the sigmoid of scale · logit + shift, with a scale of at least 0.

    Examples
    --------
    >>> Platt(scale=1.0, shift=0.0)(np.array([0.1, 0.5])).round(3)
    array([0.1, 0.5])
    """

    scale: float
    shift: float

    def __call__(self, scores: Values) -> Values:
        """Map scores in [0, 1], of any shape."""
        return _rising(scores, _sigmoid(self.scale * _logit(scores) + self.shift))

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"scale": self.scale, "shift": self.shift}


ScoreMap = Unchanged | Isotonic | Platt


def map_of_state(state: Mapping[str, Any]) -> ScoreMap:
    """The map whose `state` this is; raises KeyError, TypeError or ValueError where it is none."""
    if not state:
        return Unchanged()
    if "scale" in state:
        scale, shift = float(state["scale"]), float(state["shift"])
        if not (0 <= scale < np.inf and np.isfinite(shift)):
            raise ValueError(f"a map of scores has scale {scale:g} and shift {shift:g}")
        return Platt(scale, shift)
    scores, values = (tuple(map(float, state[name])) for name in ("scores", "values"))
    if len(scores) != len(values) or not scores:
        raise ValueError(f"{len(scores)} scores and {len(values)} values")
    for name, column in (("scores", scores), ("values", values)):
        if not (min(column) >= 0 and max(column) <= 1 + 1e-9):  # NaN is neither
            raise ValueError(f"{name} of a map are outside of 0 to 1")
    if not all(a < b for a, b in pairwise(scores)) or not all(a <= b for a, b in pairwise(values)):
        raise ValueError("a map of scores falls")
    return Isotonic(scores, values)


def fit_isotonic(scores: Values, outcomes: Values) -> ScoreMap:
    """Fit the increasing step function of the least squared error, by pooling adjacent violators.

    Neighbors whose means fall are pooled until none do. The knots are both ends of each step.

    Parameters
    ----------
    scores, outcomes
        (D,) each, in [0, 1]: the score of a detection, and what it should have been. Equal scores share their mean.

    Notes
    -----
    Zadrozny, Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", KDD 2002, as in
    arXiv:2405.20459. Differs from it in two ways, so that no order of detections is lost. Below the lowest score on
    which it was fitted the map falls to 0, where theirs is constant. And a thousandth of a score remains in it, so that
    steps rise as well.

    Examples
    --------
    >>> fit_isotonic(np.array([0.2, 0.4, 0.6]), np.array([0.5, 0.1, 0.8]))
    Isotonic(scores=(0.2, 0.4, 0.6), values=(0.3, 0.3, 0.8))
    """
    if not len(scores):
        return Unchanged()
    distinct, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, outcomes) / weights
    steps: list[tuple[float, float, int, int]] = []  # mean, weight, first and last of the distinct scores
    for number, (mean, weight) in enumerate(zip(means.tolist(), weights.tolist(), strict=True)):
        first = number
        while steps and steps[-1][0] >= mean:
            other, other_weight, first, _ = steps.pop()
            mean = (other * other_weight + mean * weight) / (other_weight + weight)
            weight += other_weight
        steps.append((mean, weight, first, number))
    knots = [(float(distinct[end]), mean) for mean, _, *ends in steps for end in dict.fromkeys(ends)]
    return Isotonic(*(tuple(column) for column in zip(*knots, strict=True)))


def fit_platt(scores: Values, outcomes: Values) -> ScoreMap:
    """Fit scale and shift of the logits by the least cross-entropy with the outcomes, by Newton's method.

    Where higher scores come with lower outcomes the scale is 0. A prior of a hundredth of a detection makes the fit
    unique, also where scores separate the outcomes. Parameters are those of `fit_isotonic`.

    Notes
    -----
    Platt, "Probabilistic Outputs for Support Vector Machines", 1999, on logits of scores, as in arXiv:2405.20459.

    Examples
    --------
    >>> logits = np.array([-1.0, 0.0, 1.0, 2.0])
    >>> found = fit_platt(1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(1 - 2 * logits)))
    >>> round(found.scale, 1), round(found.shift, 1)
    (2.0, -1.0)
    """
    if not len(scores):
        return Unchanged()
    logits = _logit(scores)
    inputs = np.stack([logits, np.ones(len(logits))], axis=1)
    point = _newton(inputs, outcomes, np.array([1.0, 0.0]))
    if point[0] < 0:
        point = np.array([0.0, _newton(inputs[:, 1:], outcomes, np.array([0.0]))[0]])
    return Platt(float(point[0]), float(point[1]))


@dataclass(frozen=True)
class Calibration:
    """What the scores of each class become.

    Parameters
    ----------
    maps
        C increasing maps, by label.
    target
        What a score then states: the ``"iou"`` that is to be expected of a detection, 0 where it hits nothing; or the
        ``"precision"``, how likely it hits an object by an IoU of 0.5.
    iou_type
        Whose IoU that is: of boxes ``"bbox"`` or of masks ``"segm"``.

    Examples
    --------
    >>> calibration = Calibration((Platt(1.0, -1.0), Unchanged()), "precision")
    >>> calibration.scores(torch.tensor([0.8, 0.7]), torch.tensor([0, 1])).round(decimals=3)
    tensor([0.5960, 0.7000], dtype=torch.float64)
    """

    maps: tuple[ScoreMap, ...]
    target: Target
    iou_type: IouType = "bbox"

    @classmethod
    def fit(cls, outcomes: Outcomes, method: Method = "isotonic", target: Target = "iou") -> Self:
        """Fit a map for each class on its detections, which should be those from an operating threshold on."""
        if method not in ("isotonic", "platt"):
            raise InputError(f"method must be 'isotonic' or 'platt', not {method!r}")
        if target not in ("iou", "precision"):
            raise InputError(f"target must be 'iou' or 'precision', not {target!r}")
        fit = fit_isotonic if method == "isotonic" else fit_platt
        if target == "iou":
            pairs = [(matches.scores, np.nan_to_num(matches.ious, nan=0.0)) for matches in outcomes.any_overlap]
        else:
            pairs = [(matches.scores, (~np.isnan(matches.ious)).astype(np.float64)) for matches in outcomes.at_half]
        return cls(tuple(fit(*pair) for pair in pairs), target, outcomes.iou_type)

    def scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(D,) float64, so that no two scores become equal by rounding; D scores and their labels are on the CPU."""
        found = scores.double()
        for label in labels.unique().tolist():
            rows = labels == label
            found[rows] = torch.from_numpy(self.maps[label](found[rows].numpy()))
        return found

    def __call__(self, detection: Detection) -> Detection:
        """Return the detections with their new scores, best score first."""
        scores = self.scores(detection.scores, detection.labels)
        order = scores.argsort(descending=True, stable=True)
        return replace(detection, scores=scores).select(order)

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"target": self.target, "iou_type": self.iou_type, "maps": [each.state() for each in self.maps]}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], num_classes: int) -> Self:
        """The calibration whose `state` this is; raises KeyError, TypeError or ValueError where it is none."""
        if state["target"] not in get_args(Target):
            raise ValueError(f"a calibration states {state['target']!r}")
        iou_type = state.get("iou_type", "bbox")  # before masks could be compared, none was noted
        if iou_type not in get_args(IouType):
            raise ValueError(f"a calibration compares {iou_type!r}")
        if len(state["maps"]) != num_classes:
            raise ValueError(f"{len(state['maps'])} maps of scores for {num_classes} categories")
        return cls(tuple(map(map_of_state, state["maps"])), state["target"], iou_type)


def _newton(inputs: Values, outcomes: Values, start: Values) -> Values:
    """The least cross-entropy of sigmoid(inputs · point), which is convex, with the prior around ``start``."""

    def loss(point: Values) -> float:
        logits = inputs @ point
        entropy = np.logaddexp(0, logits) - outcomes * logits
        return float(entropy.sum() + PRIOR / 2 * ((point - start) ** 2).sum())

    point, value = start, loss(start)
    for _ in range(100):
        expected = _sigmoid(inputs @ point)
        slope = inputs.T @ (expected - outcomes) + PRIOR * (point - start)
        curvature = inputs.T @ (inputs * (expected * (1 - expected))[:, None]) + PRIOR * np.eye(len(point))
        step = np.linalg.solve(curvature, slope)
        decrease = float(slope @ step)
        size = 1.0
        while size > 1e-10 and loss(point - size * step) > value - 1e-4 * size * decrease:
            size /= 2
        if decrease < 1e-12 * (1 + value) or size <= 1e-10:
            return point
        point = point - size * step
        value = loss(point)
    return point


def _rising(scores: Values, values: Values) -> Values:
    return values + SHARE_OF_SCORE * (scores - values)


def _logit(scores: Values) -> Values:
    """The logits, of 0 and 1 those of the next numbers in float32, which scores come in."""
    inside = np.clip(scores, float(np.finfo(np.float32).tiny), 1 - 2.0**-25)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _sigmoid(logits: Values) -> Values:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))
