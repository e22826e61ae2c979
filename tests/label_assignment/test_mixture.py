"""Many mixtures at once against one at a time: plain Python, and scikit-learn where it is installed."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from rankdet.label_assignment.mixture import component_log_densities, fit_mixtures

Parameters = tuple[list[float], list[float], list[float]]
ADDED = pytest.mark.parametrize("added", [1e-5, 1e-6])


def make_rows() -> tuple[Tensor, Tensor]:
    """Costs of objects with 1 to 45 candidates: two clusters, one, ties, far outliers, all equal, a pair."""
    generator = torch.Generator().manual_seed(0)
    values = torch.zeros(60, 45, dtype=torch.float64)
    is_given = torch.zeros(60, 45, dtype=torch.bool)
    for row in range(60):
        count = 1 + row % 45
        near = torch.rand(count, generator=generator, dtype=torch.float64) * 10 ** (row % 3 - 1)
        far = torch.rand(count, generator=generator) < (0.0, 0.3, 0.6)[row % 3]
        values[row, :count] = near + far * (1 + row % 7)
        if row % 10 == 9:
            values[row, :count] = (4 * values[row, :count]).round() / 4
        is_given[row, :count] = True
    values[7], values[8, :2] = 0.75, torch.tensor([0.5, 0.5000001])
    is_given[8] = False
    is_given[8, :2] = True
    values[9, 3] = 50
    return values, is_given


def normal_log_density(value: float, mean: float, variance: float) -> float:
    return -0.5 * (math.log(2 * math.pi * variance) + (value - mean) ** 2 / variance)


def fit_plainly(values: list[float], added: float) -> Parameters:
    """One mixture, one value at a time."""
    weights, means, variances = [0.5, 0.5], [min(values), max(values)], [1.0, 1.0]
    before = -math.inf
    for _ in range(100):
        shares, likelihoods = [], []
        for value in values:
            logs = [math.log(weights[k]) + normal_log_density(value, means[k], variances[k]) for k in (0, 1)]
            largest = max(logs)
            total = largest + math.log(sum(math.exp(entry - largest) for entry in logs))
            likelihoods.append(total)
            shares.append([math.exp(entry - total) for entry in logs])
        for k in (0, 1):
            sum_of_shares = sum(share[k] for share in shares) + 1e-300
            weights[k] = sum_of_shares / len(values)
            means[k] = sum(share[k] * value for share, value in zip(shares, values, strict=True)) / sum_of_shares
            squares = (share[k] * (value - means[k]) ** 2 for share, value in zip(shares, values, strict=True))
            variances[k] = sum(squares) / sum_of_shares + added
        likelihood = sum(likelihoods) / len(values)
        if abs(likelihood - before) < 1e-3:
            break
        before = likelihood
    return weights, means, variances


@ADDED
def test_every_row_is_fitted_as_if_it_were_alone(added: float) -> None:
    values, is_given = make_rows()
    mixture = fit_mixtures(values, is_given, added_variance=added)
    for row in range(len(values)):
        expected = torch.tensor(fit_plainly(values[row][is_given[row]].tolist(), added), dtype=torch.float64)
        torch.testing.assert_close(torch.stack(mixture)[:, row], expected, rtol=1e-7, atol=1e-9)


@ADDED
def test_mixtures_are_those_of_scikit_learn(added: float) -> None:
    sklearn_mixture = pytest.importorskip("sklearn.mixture", reason="needs scikit-learn, of the extra dev")
    values, is_given = make_rows()
    mixture = fit_mixtures(values, is_given, added_variance=added)
    for row in range(len(values)):
        own = values[row][is_given[row]]
        if len(own) < 2:
            continue
        oracle = sklearn_mixture.GaussianMixture(
            2,
            covariance_type="diag",
            reg_covar=added,
            weights_init=[0.5, 0.5],
            means_init=[[own.min()], [own.max()]],
            precisions_init=[[1.0], [1.0]],
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its first guess, which is overwritten, finds too few distinct points
            oracle.fit(own.numpy()[:, None])
        parameters = oracle.weights_, oracle.means_[:, 0], oracle.covariances_[:, 0]
        for found, expected in zip(mixture, parameters, strict=True):
            torch.testing.assert_close(found[row], torch.from_numpy(expected.copy()), rtol=1e-6, atol=1e-8)
        one = type(mixture)(*(parameter[row : row + 1] for parameter in mixture))
        parts = component_log_densities(own[None], one)[0]
        torch.testing.assert_close(
            parts.logsumexp(dim=1), torch.from_numpy(oracle.score_samples(own.numpy()[:, None])), rtol=1e-5, atol=1e-5
        )
        is_near = torch.from_numpy(oracle.predict_proba(own.numpy()[:, None]))
        clear = (is_near[:, 0] - 0.5).abs() > 1e-6
        assert torch.equal((parts[:, 0] >= parts[:, 1])[clear], (is_near[:, 0] >= is_near[:, 1])[clear])


def test_what_stands_in_empty_places_does_not_matter() -> None:
    values, is_given = make_rows()
    garbage = torch.where(is_given, values, torch.inf)
    expected = fit_mixtures(values, is_given, added_variance=1e-5)
    for found, other in zip(fit_mixtures(garbage, is_given, added_variance=1e-5), expected, strict=True):
        assert torch.equal(found, other)


def test_rows_without_values_and_no_rows_are_finite() -> None:
    for rows in (2, 0):
        mixture = fit_mixtures(torch.zeros(rows, 4), torch.zeros(rows, 4, dtype=torch.bool), added_variance=1e-5)
        assert all(parameter.shape == (rows, 2) and parameter.isfinite().all() for parameter in mixture)


def test_without_iterations_the_starting_values_remain() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0]])
    weights, means, variances = fit_mixtures(
        values, torch.ones(1, 3, dtype=torch.bool), added_variance=1e-5, max_iterations=0
    )
    assert (weights.tolist(), means.tolist(), variances.tolist()) == ([[0.5, 0.5]], [[1, 3]], [[1, 1]])
