"""The benchmark of the losses: its oracle, its published algorithms, and that it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rankdet.losses import alrp_loss, ap_loss, rank_sort_loss


@pytest.fixture(params=["random", "ties", "equal", "offset"])
def values(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(M,) float64 logits and targets, (P,) qualities and localization errors."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(300, generator=generator, dtype=torch.float64) * 2
    targets = torch.zeros_like(logits)
    targets[::11] = torch.randint(1, 9, (28,), generator=generator).double() / 8
    logits = {
        "random": logits,
        "ties": (logits * 2).round() / 2,
        "equal": torch.full_like(logits, 0.3),
        "offset": (logits.float() + 1e4).double(),
    }[request.param]
    return logits, targets, targets[targets > 0], torch.rand(28, generator=generator, dtype=torch.float64)


def gradients(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits and of localization errors."""
    logits, errors = logits.clone().requires_grad_(), errors.clone().requires_grad_()
    loss(logits, errors).backward()
    assert logits.grad is not None
    return logits.grad, torch.zeros_like(errors) if errors.grad is None else errors.grad


@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0, 2.0])
def test_the_oracle_from_sorted_negatives_is_that_over_all_pairs(module, values, delta: float) -> None:
    oracle = module("oracle")
    logits, targets, quality, errors = values
    parts = logits[targets > 0], logits[targets == 0], quality, errors
    over_pairs = oracle.Pool(*parts, oracle.AllPairs).true_gradients(delta)
    from_sorted = oracle.Pool(*parts, oracle.Sorted).true_gradients(delta)
    for name, gradient in over_pairs.items():
        for part, other in zip(gradient, from_sorted[name], strict=True):
            torch.testing.assert_close(other, part, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("delta", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(
    ("name", "reference", "loop"),
    [
        (
            "RS",
            lambda s, y, _, delta: sum(rank_sort_loss(s, y, delta, implementation="reference")),
            lambda published, s, y, _, delta: published.loop_rank_sort_loss(s, y, delta),
        ),
        (
            "AP",
            lambda s, y, _, delta: ap_loss(s, y, delta, implementation="reference"),
            lambda published, s, y, _, delta: published.loop_ap_loss(s, y, delta),
        ),
        (
            "aLRP",
            lambda s, y, e, delta: sum(alrp_loss(s, y, e, delta, implementation="reference")),
            lambda published, s, y, e, delta: published.loop_alrp_loss(s, y, e, delta),
        ),
    ],
)
def test_oracle_and_loop_are_the_reference_of_the_package(module, values, delta, name, reference, loop) -> None:
    logits, targets, quality, errors = values
    truth, truth_of_errors = gradients(lambda s, e: reference(s, targets, e, delta), logits, errors)
    found, of_errors = gradients(lambda s, e: loop(module("published"), s, targets, e, delta), logits, errors)
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(of_errors, truth_of_errors, rtol=1e-10, atol=1e-13)
    losses = loop(module("published"), logits, targets, errors, delta), reference(logits, targets, errors, delta)
    torch.testing.assert_close(*losses)

    parts = logits[targets > 0], logits[targets == 0], quality, errors
    gradient = module("oracle").Pool(*parts).true_gradients(delta)[name]
    torch.testing.assert_close(gradient.positives, truth[targets > 0], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradient.negatives, truth[targets == 0], rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(gradient.errors, truth_of_errors, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("pruned", [0.0, 0.5, 0.9])
def test_as_many_negatives_as_asked_for_lie_below_all_positives_whatever_the_step(module, pruned: float) -> None:
    losses = module("losses")
    inputs = losses.make(losses.Size(40_000, 20, 4), pruned)
    lowest = inputs.logits.view(-1)[inputs.own].min()
    for delta in (0.5, 1.0):
        assert (inputs.logits < lowest - delta).double().mean().item() == pytest.approx(pruned, abs=0.01)
    assert inputs.logits.isfinite().all()


def test_the_benchmark_runs_and_finds_the_exact_losses_exact(module, monkeypatch, capsys, tmp_path) -> None:
    written = tmp_path / "tables.md"
    arguments = ["losses.py", "--only", "time", "error", "growth", "--quick", "--scale", "2e-4"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--markdown", str(written)])
    losses = module("losses")
    losses.main()
    text = written.read_text()
    assert text == capsys.readouterr().out
    assert "nan" not in text
    for name in losses.EXACT:
        (line,) = (line for line in text.splitlines() if line.startswith(f"* worst of {name}:"))
        assert float(line.split()[4]) < 1e-6


def test_memory_is_measured_in_a_process_of_its_own(module) -> None:
    script = module("losses").__file__
    arguments = [sys.executable, script, "--memory-of", "focal", "1000000", "10", "1", "0.5", "1"]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert 3 < float(done.stdout) < 30  # a dozen tensors of the size of the logits
