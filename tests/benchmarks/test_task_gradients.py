"""The benchmark of task gradients: it changes no training, and its norms are those of known gradients."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rankdet.runs.folder import Run
from rankdet.structures import LossOutput
from rankdet.training.running import train

CLIPPED = ["runtime.clip_gradient_norm=0.5"]
UNLOGGED = ["runtime.log_interval=1"]


@pytest.mark.parametrize("changes", [[], CLIPPED])
def test_measuring_every_iteration_changes_nothing_of_a_training(
    module, tiny, tmp_path: Path, changes: list[str]
) -> None:
    records = module("task_gradients").measured_training(tiny(*changes), every=1)
    run = train(tiny(*changes, *UNLOGGED), out=tmp_path / "run")
    logged = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [record["loss"] for record in records] == [record["loss"] for record in logged]
    assert all(record["gradient"] * record["clipped_by"] <= 0.5001 for record in records if changes)


def test_a_term_has_its_error_and_balance_and_the_norms_of_its_gradient(module) -> None:
    maps, weights = [torch.zeros(2, requires_grad=True)], [torch.zeros(1, requires_grad=True)]
    terms = {"localization": 3 * maps[0].sum() + 2, "ranking": maps[0][0] - 5 * weights[0].sum()}
    stats = {"localization_error": torch.tensor(0.5), "balance": torch.tensor(4.0)}
    found = module("task_gradients").measured_terms("rcnn", LossOutput(terms, stats), 0.5, maps, weights)
    boxes = {"value": 1.0, "error": 0.5, "balance": 4.0, "pyramid": 1.5 * math.sqrt(2), "shared": 0.0}
    assert found["rcnn/localization"] == pytest.approx(boxes)
    assert found["rcnn/ranking"] == {"value": 0.0, "error": 0.0, "balance": 1.0, "pyramid": 0.5, "shared": 2.5}


def test_gradients_that_shrink_are_small_beside_what_adam_remembers(module) -> None:
    network = nn.ModuleDict({"backbone": nn.Linear(1, 1, bias=False)})
    optimizer = torch.optim.AdamW(network.parameters(), betas=(0.5, 0.999))
    found = []
    for size in (1.0, 0.1):
        network["backbone"].weight.grad = torch.full((1, 1), size)
        optimizer.step()
        found.append(module("task_gradients").measured_steps(network, optimizer)["backbone"])
    remembered = math.sqrt((0.999 * 1 + 0.01) / 1.999)
    assert found[0] == pytest.approx({"step": 1.0, "scale": 1.0})
    assert found[1] == pytest.approx({"step": (0.25 + 0.05) / 0.75 / remembered, "scale": 0.1 / remembered}, rel=1e-5)


def test_steps_read_from_a_checkpoint_are_those_that_were_measured(module, tiny, tmp_path: Path) -> None:
    measured = module("task_gradients").measured_training(tiny(), every=1)[-1]["adam"]
    run = train(tiny(), out=tmp_path / "run")
    read = module("adam_steps").last_steps(Run(run.folder))
    assert read == pytest.approx({group: found["step"] for group, found in measured.items()})


def test_an_optimizer_without_squares_has_no_such_memory(module) -> None:
    network = nn.ModuleDict({"backbone": nn.Linear(1, 1, bias=False)})
    network["backbone"].weight.grad = torch.ones(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    optimizer.step()
    assert module("task_gradients").measured_steps(network, optimizer) == {"backbone": None}


def test_the_file_has_all_that_figures_draw(module, tiny_file: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    data = next(line for line in tiny_file.read_text().splitlines() if "folder:" in line).split(": ")[1]
    out = tmp_path / "form.json"
    arguments = [str(tiny_file), "schedule.iterations=3", "--data", data, "--out", str(out), "--every", "2"]
    module("task_gradients").main([*arguments, "--label", "RS"])
    assert "∥∂P∥ rcnn/localization" in capsys.readouterr().out
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    figures = module("gradient_figures")
    for name in figures.FIGURES:
        figures.main([name, str(out), "--out", str(tmp_path)])
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
