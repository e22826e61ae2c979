"""Spearman correlation: ties share ranks, and what has no correlation has none."""

import math

import numpy as np
import pytest
import torch

from rankdet.metrics import spearman_correlation


def test_only_the_order_matters():
    assert spearman_correlation([1, 2, 3, 4], np.exp([1.0, 5.0, 5.5, 9.0])) == 1
    assert spearman_correlation([1, 2, 3, 4], [9, 4, 1, 0]) == -1


def test_without_ties_equals_the_formula_of_squared_rank_differences():
    x = torch.tensor([0.3, 0.9, 0.1, 0.5, 0.7])  # ranks 2 5 1 3 4
    y = torch.tensor([0.8, 0.6, 0.2, 0.4, 0.9])  # ranks 4 3 1 2 5
    assert spearman_correlation(x, y) == pytest.approx(1 - 6 * (4 + 4 + 0 + 1 + 1) / (5 * 24), abs=1e-12)


def test_ties_share_their_average_rank():
    # Ranks 1.5 1.5 3 4 and 1 2 3.5 3.5: the Pearson correlation of these.
    expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3.5, 3.5])[0, 1]
    assert spearman_correlation([0, 0, 1, 2], [5, 6, 7, 7]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, math.nan], [1.0, 2])])
def test_what_has_no_correlation_is_nan(x, y):
    assert math.isnan(spearman_correlation(x, y))


def test_tensors_of_any_kind_are_taken():
    scores = torch.tensor([0.1, 0.5, 0.4], dtype=torch.bfloat16, requires_grad=True)
    assert spearman_correlation(scores, torch.tensor([1, 3, 2])) == 1


def test_shapes_must_pair():
    with pytest.raises(ValueError, match="must be one"):
        spearman_correlation([1.0, 2.0], [1.0])
