"""How well scores order detections: rank correlation.

Legend: P pairs of numbers, such as the score and the localization quality (IoU) of a positive.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = Tensor | NDArray[np.floating] | Sequence[float]


def spearman_correlation(first: Values, second: Values) -> float:
    """Spearman's rank correlation ρ: the Pearson correlation of ranks, equal values sharing their average rank.

    Parameters
    ----------
    first, second
        (P,) each.

    Returns
    -------
    float
        In [−1, 1]; NaN for fewer than two pairs, where all values of one side are equal, or where one is NaN.

    Raises
    ------
    ValueError
        When the two are not vectors of one length.

    Examples
    --------
    >>> spearman_correlation([0.1, 0.2, 0.9], [5.0, 6.0, 7.0])
    1.0
    >>> spearman_correlation([1.0, 1.0, 2.0], [3.0, 1.0, 2.0])
    0.0
    """
    x, y = _vector(first), _vector(second)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"shapes {x.shape} and {y.shape} must be one (P,)")
    if len(x) < 2 or np.isnan(x).any() or np.isnan(y).any():
        return float("nan")
    x, y = average_ranks(x), average_ranks(y)
    # Ranks are multiples of 1/2 and their mean is (P + 1) / 2: the centered values are exact.
    x, y = x - (len(x) + 1) / 2, y - (len(y) + 1) / 2
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks 1 … P of (P,) values, ascending; equal values share the mean of their ranks.

    Examples
    --------
    >>> average_ranks(np.array([10.0, 30.0, 10.0]))
    array([1.5, 3. , 1.5])
    """
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


def _vector(values: Values) -> NDArray[np.float64]:
    if isinstance(values, Tensor):
        return values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
