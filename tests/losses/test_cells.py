"""Cells: the search, and the sums of soft steps over them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankdet.losses import soft_step
from rankdet.losses.cells import LANES, Cells, Search, Spare


def draw(count: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


POSITIVES = {
    "one": torch.tensor([0.3], dtype=torch.float64),
    "all equal": torch.full((50,), -1.7, dtype=torch.float64),
    "a cluster and an outlier": torch.cat([1e-6 * draw(40), torch.tensor([900.0], dtype=torch.float64)]),
    "two clusters and outliers": torch.cat([1e-5 * draw(99), 5 + 1e-5 * draw(99), 1e4 * draw(5)]),
    "many": draw(1500),
    "a grid": torch.arange(-64, 64, dtype=torch.float64) / 8,
    "tiny": 1e-30 * draw(9),
    "below what float32 can divide by": 1e-42 * draw(9),
    "huge": 1e30 * draw(9),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("name", POSITIVES)
def test_the_search_is_the_binary_search(name: str, delta: float, dtype: torch.dtype) -> None:
    cells = Cells(POSITIVES[name].sort().values, delta, dtype)
    edges, far = cells.edges, torch.tensor(torch.inf, dtype=dtype)
    span = (edges[-1] - edges[0]).clamp(min=1e-3)
    spread = edges[0] + span * (1.2 * torch.rand(4000, generator=torch.Generator().manual_seed(1), dtype=dtype) - 0.1)
    near = edges[::2].repeat(3) + 1e-3 * draw(3 * len(edges[::2]), seed=2).to(dtype)
    values = torch.cat([edges, edges.nextafter(far), edges.nextafter(-far), spread, near])
    assert torch.equal(cell_of(find(edges, values)), torch.bucketize(values, edges, right=True))
    assert len(cells) == len(edges) + 1


def find(edges: Tensor, values: Tensor) -> Tensor:
    return Search(edges)(values, torch.empty(len(values), dtype=torch.int32), Spare(edges, len(values)))


def cell_of(numbers: Tensor) -> Tensor:
    """Lanes are cell 0."""
    return (numbers.long() - (LANES - 1)).clamp(min=0)


def test_values_below_all_edges_take_turns() -> None:
    edges = Cells(draw(100).sort().values, 0.5, torch.float32).edges
    assert find(edges, torch.full((4 * LANES,), -1e9)).tolist() == 4 * list(range(LANES))
    assert find(edges, torch.full((4 * LANES,), 1e9)).unique().tolist() == [200 + LANES - 1]


def test_no_values_have_no_cells() -> None:
    assert find(Cells(draw(3).sort().values, 0.5, torch.float32).edges, torch.zeros(0)).shape == (0,)


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("name", ["one", "all equal", "a cluster and an outlier", "many", "a grid"])
def test_sums_over_cells_equal_sums_over_pairs(name: str, delta: float) -> None:
    positives = POSITIVES[name].sort().values
    values = torch.cat([draw(400, seed=3), positives[:50], positives[:50] + delta, positives[:50] - delta])
    cells = Cells(positives, delta, torch.float64)
    steps = soft_step(values - positives[:, None], delta)
    # The edges are rounded sums: a hard step is told by them exactly, a soft one is continuous across them.
    cell = torch.bucketize(values, cells.edges, right=True)
    counts = torch.bincount(cell, minlength=len(cells)).double()
    sums = torch.bincount(cell, weights=values, minlength=len(cells))
    torch.testing.assert_close(cells.steps_over(counts, sums), steps.sum(1), rtol=1e-9, atol=1e-9)
    weights = torch.rand(len(positives), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    offset, slope, total = cells.weighted_steps(weights)
    found = offset[cell] + slope[cell] * values
    torch.testing.assert_close(found, weights @ steps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(total, weights.sum()[None])


@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_one_large_value_leaves_the_sums_of_the_others(delta: float) -> None:
    positives, values = draw(20).sort().values, torch.cat([draw(300, seed=1), torch.tensor([1e30, -1e30])])
    cells = Cells(positives, delta, torch.float64)
    place = torch.bucketize(values, cells.edges, right=True)
    counts = torch.bincount(place, minlength=len(cells)).double()
    sums = torch.bincount(place, weights=values, minlength=len(cells))
    counts[0] = sums[0] = 0
    expected = soft_step(values - positives[:, None], delta).sum(1)
    torch.testing.assert_close(cells.steps_over(counts, sums), expected)
