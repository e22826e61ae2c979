"""What scores mean: true and false positives by score.

Legend: M detections that are true or false positives, B bins of scores.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class ScoreBins(NamedTuple):
    """Detections by score, in bins of equal width.

    edges
        (B + 1,) a bin has its lower edge, the last one also its upper.
    hits, misses
        (B,) int64, true positives and false positives.
    scores
        (B,) mean score; NaN in an empty bin.
    ious
        (B,) mean IoU of the true positives; NaN without any.
    """

    edges: NDArray[np.float64]
    hits: NDArray[np.int64]
    misses: NDArray[np.int64]
    scores: NDArray[np.float64]
    ious: NDArray[np.float64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """(B,) share of true positives; NaN in an empty bin. A calibrated score equals it."""
        return _divided(self.hits, self.hits + self.misses)

    @property
    def error(self) -> float:
        """Expected calibration error: the mean of |precision − score| over all detections; NaN without any."""
        counts = self.hits + self.misses
        if not counts.sum():
            return float("nan")
        return float(np.nansum(abs(self.precision - self.scores) * counts) / counts.sum())


def score_bins(scores: NDArray[np.float64], ious: NDArray[np.float64], bins: int = 10) -> ScoreBins:
    """Count true and false positives by score.

    Parameters
    ----------
    scores
        (M,) Where all are in [0, 1], so are the edges; otherwise these are the least and the largest score.
    ious
        (M,) IoU of a true positive with its object, NaN for a false positive.
    bins
        B, the number of bins.

    Examples
    --------
    >>> found = score_bins(np.array([0.9, 0.8, 0.2]), np.array([0.7, np.nan, np.nan]), bins=2)
    >>> found.hits, found.misses, found.precision
    (array([0, 1]), array([1, 1]), array([0. , 0.5]))
    >>> round(found.error, 3)
    0.3
    """
    low, high = min(0.0, float(scores.min(initial=0.0))), max(1.0, float(scores.max(initial=1.0)))
    edges = np.linspace(low, high, bins + 1)
    places = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    is_hit = ~np.isnan(ious)
    hits = np.bincount(places[is_hit], minlength=bins)
    counts = np.bincount(places, minlength=bins)
    return ScoreBins(
        edges,
        hits,
        counts - hits,
        _divided(np.bincount(places, scores, minlength=bins), counts),
        _divided(np.bincount(places[is_hit], ious[is_hit], minlength=bins), hits),
    )


def _divided(sums: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
