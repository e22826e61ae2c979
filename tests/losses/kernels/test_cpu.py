"""The passes over the negatives by numba: against those of torch, by any number of threads, and without a cache.

Whole losses by numba obey the laws of ``test_laws.py`` and of ``test_operators.py``.

Legend: M candidates, P positives, N logits, δ half the width of the soft step.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rankdet
from rankdet.losses import rank_sort_loss
from rankdet.losses.cells import Cells
from rankdet.losses.negatives import Counted, TorchNegatives
from rankdet.losses.operators import chosen
from rankdet.losses.pools import Runs, sort_in_pools
from rankdet.losses.ranking import backend
from rankdet.losses.roles import RankedCandidates, from_targets, positive_logits, special_labels
from rankdet.losses.sorting import Window

kernels = pytest.importorskip("rankdet.losses.kernels.cpu", exc_type=ImportError)

by_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def draw(seed: int, positives: int, others: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(N,) logits and targets, shuffled; a tenth of the others is ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(positives + others, generator=generator)).to(dtype)
    targets = torch.zeros(len(logits))
    targets[:positives] = torch.rand(positives, generator=generator) * 0.9 + 0.1
    targets[positives : positives + others // 10] = -1
    order = torch.randperm(len(logits), generator=generator)
    return logits[order], targets[order]


def both(candidates: RankedCandidates, delta: float, keeps: bool) -> Iterator[tuple[Counted, list[Tensor]]]:
    """What the passes return, by torch and by numba; F is that of random weights, and positives get 7."""
    own, _ = positive_logits(candidates)
    positives, runs = own.sort().values, Runs.single(len(own))
    weights = torch.rand(len(own), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for passes in (TorchNegatives, kernels.NumbaNegatives):
        kept = torch.empty(candidates.num_logits, dtype=torch.int32) if keeps else None
        negatives = passes(candidates, positives, runs, delta, kept)
        yield negatives.count(own), negatives.gradient(weights, torch.full_like(own, 7.0))


def assert_equal(candidates: RankedCandidates, delta: float, keeps: bool) -> None:
    (counted, gradients), (found, found_gradients) = both(candidates, delta, keeps)
    torch.testing.assert_close(found.steps, counted.steps, rtol=1e-12, atol=1e-12 * candidates.num_logits)
    for mine, theirs in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)


@by_dtype
@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("positives", [1, 30, 4000])
def test_the_passes_are_those_of_torch(positives: int, delta: float, dtype: torch.dtype) -> None:
    logits, targets = draw(0, positives, 200_000, dtype)
    logits, targets = (part.split([150_000, 0, len(logits) - 150_000]) for part in (logits, targets))
    for keeps in {False, dtype == torch.float32}:
        assert_equal(from_targets(logits, targets)[0], delta, keeps)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20),
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), max_size=40),
    st.sampled_from([0.0, 1e-3, 0.5, 1e4]),
    st.booleans(),
)
def test_every_value_finds_the_cell_that_it_finds_in_torch(
    positives: list[float], others: list[float], delta: float, is_double: bool
) -> None:
    """Also at the edges of cells and beside them."""
    dtype = torch.float64 if is_double else torch.float32
    own = torch.tensor(positives, dtype=torch.float64)
    edges = Cells(own.sort().values, delta, dtype).edges
    near = [edges, edges.nextafter(edges + 1e30), edges.nextafter(edges - 1e30), torch.tensor(others, dtype=dtype)]
    logits = torch.cat([own.to(dtype), *near])
    targets = (torch.arange(len(logits)) < len(own)).float()
    (_, gradients), (_, found) = both(from_targets(logits, targets)[0], delta, False)
    # Of cells with lines of their own.
    torch.testing.assert_close(found, gradients, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("ties", [False, True], ids=["random", "ties"])
@pytest.mark.parametrize("positives", [1, 2, 300, 3000])
def test_sorting_is_that_of_torch(positives: int, ties: bool, delta: float) -> None:
    generator = torch.Generator().manual_seed(positives)
    logits, quality = torch.randn(2, positives, generator=generator, dtype=torch.float64)
    logits, quality = (2 * logits).sort().values, quality.sigmoid()
    if ties:
        logits, quality = (8 * logits).round() / 8, (5 * quality).ceil() / 5
    found, expected = kernels.NumbaWindow(logits, delta).sorting(quality), Window(logits, delta).sorting(quality)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
        assert torch.equal(mine == 0, theirs == 0)


NUMBERS = [0.0, -0.0, 1e-320, -1e-320, 1.5, -1.5, 2.0**-149, 3e38, -3e38, torch.inf, -torch.inf, torch.nan, -torch.nan]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(NUMBERS) | st.floats(width=32) | st.floats(), st.integers(0, 5)), max_size=40),
    st.booleans(),
)
def test_order_is_that_of_torch(drawn: list[tuple[float, int]], has_pools: bool) -> None:
    """Also among equal numbers, of which the first stays first."""
    values = torch.tensor([value for value, _ in drawn], dtype=torch.float64)
    pools = torch.tensor([pool for _, pool in drawn], dtype=torch.int64) if has_pools and drawn else None
    ascending, order = kernels.sort_in_pools(values, pools)
    assert torch.equal(order, sort_in_pools(values, pools)[1])
    torch.testing.assert_close(ascending, values[order], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["contiguous", "strided", "int32"])
def test_positives_among_labels_are_those_that_torch_finds(kind: str) -> None:
    labels = torch.randint(-2, 7, (3000,), generator=torch.Generator().manual_seed(2))
    labels = labels[::2] if kind == "strided" else labels.int() if kind == "int32" else labels
    for found, expected in zip(kernels.special_labels(labels, 4), special_labels(labels, 4), strict=True):
        assert torch.equal(found, expected)


@by_dtype
def test_logits_of_positives_are_those_that_torch_fetches(dtype: torch.dtype) -> None:
    """Whether they are finite or not."""
    logits, targets = draw(4, 50, 300, dtype)
    logits[targets > 0.8], logits[targets > 0.9] = torch.inf, torch.nan
    for parts in ([350], [200, 150]):
        candidates, _ = from_targets(logits.split(parts), targets.split(parts))
        for found, expected in zip(kernels.positive_logits(candidates), positive_logits(candidates), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("positives", [20, 3000])
def test_the_number_of_threads_changes_no_bit(positives: int) -> None:
    """In double precision the sums of logits are rounded, so that another order of them would show."""
    threads = torch.get_num_threads()
    logits, targets = draw(3, positives, 500_000, torch.float64)
    logits = logits + torch.rand(len(logits), dtype=torch.float64)
    found = []
    try:
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            leaf = logits.clone().requires_grad_()
            values = rank_sort_loss(leaf, targets, implementation="numba")
            sum(values).backward()
            found.append((*values, leaf.grad))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(torch.equal, others, found[0]))


def test_a_process_that_was_forked_off_has_threads_of_its_own() -> None:
    """Only its own: what torch holds of OpenMP does not survive a fork."""
    code = """
import os, sys, torch
from rankdet.losses.kernels.cpu.threads import run
torch.set_num_threads(2)
tasks = [lambda: 1] * 10
assert sum(run(tasks)) == 10
child = os.fork()
if child == 0:
    os._exit(sum(run(tasks)))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - 10)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_numba_is_what_a_cpu_gets_where_it_is_installed() -> None:
    candidates, _ = from_targets(torch.zeros(3), torch.ones(3))
    passes = {"auto": kernels.NumbaNegatives, "numba": kernels.NumbaNegatives, "torch": TorchNegatives}
    for implementation, expected in passes.items():
        assert chosen(implementation, candidates.logits) == implementation
        assert backend(implementation, "cpu").negatives is expected
    with pytest.raises(ValueError, match="'numba' needs tensors on CPU, these are on meta"):
        chosen("numba", [torch.zeros(3, device="meta")])


def test_where_nothing_can_be_written_the_kernels_compile_all_the_same(tmp_path: Path) -> None:
    """As in an installation of root's, without a home: numba refuses to keep what it has compiled."""
    shutil.copytree(Path(rankdet.__file__).parent, tmp_path / "rankdet", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "rankdet" / "losses" / "kernels" / "cpu" / "__pycache__").touch()
    code = "import torch, rankdet.losses as l; print(l.ap_loss(torch.ones(2), torch.eye(2)[0], implementation='numba'))"
    nowhere = {"XDG_CACHE_HOME": os.devnull, "HOME": os.devnull, "PYTHONPATH": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | nowhere
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "tensor(0.3333)"
