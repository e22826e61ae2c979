"""float16: gradients are scaled, and the scale resumes; on a CPU the arithmetic is float32."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import rankdet
from rankdet import InputError, Recipe
from rankdet.inference.model import Model
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run, read_log
from rankdet.structures import Images

Load = Callable[..., Recipe]
HALF = ("runtime.precision=float16", "runtime.log_interval=1", "runtime.checkpoint_interval=1",
        "runtime.keep_checkpoints=9")  # fmt: skip


class Overflowing(torch.optim.SGD):
    """SGD whose gradients overflow in given iterations before they reach it."""

    def __init__(self, groups: list[dict], bad: frozenset[int] = frozenset()) -> None:
        super().__init__(groups, lr=0.01, fused=True)
        self.bad, self.count = bad, 0
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.register_hook(self.overflow)

    def overflow(self, gradient: Tensor) -> Tensor:
        return gradient * float("inf") if self.count in self.bad else gradient

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.count += 1
        super().zero_grad(set_to_none)


def train(recipe: Recipe, folder: Path, bad: set[int] | None = None) -> str:
    console = Console(file=io.StringIO(), width=300)
    optimizer = None if bad is None else lambda groups: Overflowing(groups, frozenset(bad))
    rankdet.train(recipe, out=folder, optimizer=optimizer, console=console)
    return console.file.getvalue()


def states(folder: Path) -> list[dict]:
    return [load_checkpoint(path) for path in Run(folder).checkpoints()]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("clip", ["null", "1.0"])
def test_scaled_gradients_walk_as_others_do_and_the_log_has_their_scale(clip: str, tiny: Load, tmp_path: Path):
    changes = ("schedule.iterations=3", f"runtime.clip_gradient_norm={clip}", "runtime.accumulation=2")
    assert "cpu, float32 (float16 is for GPUs)" in train(tiny(*HALF, *changes), tmp_path / "scaled")
    train(tiny(*changes), tmp_path / "plain")
    scaled, plain = (load_checkpoint(Run(tmp_path / name).checkpoint(3)) for name in ("scaled", "plain"))
    for name, value in plain["detector"].items():
        torch.testing.assert_close(scaled["detector"][name], value, rtol=1e-4, atol=1e-5)
    assert (scaled["scaler"]["scale"], plain["scaler"]) == (65536, {})
    rows = [list(read_log(Run(tmp_path / name).log)) for name in ("scaled", "plain")]
    assert [row["loss_scale"] for row in rows[0]] == [65536] * 3
    assert not any("loss_scale" in row for row in rows[1])


@pytest.mark.parametrize("clip", ["null", "1.0"])
def test_an_iteration_whose_gradients_overflow_changes_no_weight_and_halves_the_scale(
    clip: str, tiny: Load, tmp_path: Path
):
    changes = ("schedule.iterations=3", f"runtime.clip_gradient_norm={clip}")
    train(tiny(*HALF, *changes), tmp_path / "run", bad={2})
    first, second, third = states(tmp_path / "run")
    assert same(first["detector"], second["detector"])
    assert not same(second["detector"], third["detector"])
    assert [state["scaler"]["scale"] for state in (first, second, third)] == [65536, 32768, 32768]


def test_the_scale_resumes_bit_for_bit(tiny: Load, tmp_path: Path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny(*HALF, "schedule.iterations=4", "optimizer.type=sgd", "optimizer.lr=0.01"), whole)
    shutil.copytree(whole, run)
    for path in Run(run).checkpoints()[2:]:
        path.unlink()
    rankdet.train(resume=run, console=Console(quiet=True))
    expected, found = states(whole)[-1], states(run)[-1]
    assert same(found["detector"], expected["detector"])
    assert found["scaler"] == expected["scaler"]
    assert found["scaler"]["_growth_tracker"] == 4


def test_gradients_that_overflow_at_every_scale_stop_the_run(tiny: Load, tmp_path: Path):
    recipe = tiny(*HALF, "schedule.iterations=60", "runtime.checkpoint_interval=100", "runtime.log_interval=31")
    with pytest.raises(InputError, match=r"not finite, however small .*take runtime\.precision=bfloat16 or float32"):
        train(recipe, tmp_path / "run", bad=set(range(1, 60)))


class Seeing(nn.Module):
    """Notes the type of what a convolution gives."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 1, 1)
        self.seen: list[torch.dtype] = []

    def detect(self, images: Images) -> list:
        self.seen.append(self.convolution(images.pixels.float()).dtype)
        return []


def test_float16_is_float32_on_a_cpu():
    network = Seeing()
    model = Model(network, [(1, "a")], precision="float16")
    with torch.no_grad(), model._arithmetic():
        network.detect(Images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ((4, 4),)))
    assert network.seen == [torch.float32]
