"""The best checkpoint beside the newest, and trainings that end where no better one comes."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import rankdet
from rankdet import InputError, Recipe, TrainedRun
from rankdet.metrics import Metrics
from rankdet.recipes.schema.recipe import Evaluation
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run, find_checkpoint, read_log
from rankdet.structures import Batch, Candidates, Detection, Images, LossOutput
from rankdet.training.best import Best

Load = Callable[..., Recipe]
PEAK = 4
CHANGES = (
    "data.folder=null", "optimizer={type: sgd, lr: 1.0, momentum: 0.0, weight_decay: 0.0}", "runtime.scale_lr=false",
    "schedule={type: step, milestones: [], warmup_iterations: 0, iterations: 10}", "evaluation.every=2",
    "evaluation.at_end=true", "runtime.checkpoint_interval=1",
)  # fmt: skip


class Square:
    """Black images with one object that is always at the same place."""

    classes = ("square",)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        target = {"boxes": torch.tensor([[16.0, 16.0, 48.0, 48.0]]), "labels": torch.tensor([0])}
        return torch.zeros(3, 64, 64, dtype=torch.uint8), target


class Drift(nn.Module):
    """Counts its iterations in its only weight; finds the square exactly after `PEAK`, and worse before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(1, 1))

    def forward(self, batch: Batch) -> list[Candidates]:
        return [Candidates("dense", self.steps, torch.ones(1, dtype=torch.int64), 1)]

    def detect(self, images: Images) -> list[Detection]:
        shift = 3 * (self.steps.detach().view(()) - PEAK).abs()
        boxes = torch.tensor([[16.0, 16.0, 48.0, 48.0]]) + shift
        return [Detection(boxes, torch.tensor([0.9]), torch.tensor([0])) for _ in images.sizes]


class Upwards(nn.Module):
    """Has the gradient −1, so that a step of SGD with a learning rate of 1 adds 1."""

    def forward(self, candidates: Candidates) -> LossOutput:
        number = torch.tensor(1.0)
        return LossOutput({"drift": -candidates.logits.sum()}, {"positives": number, "negatives": number})


def drift(place: dict[str, Any], *changes: str, recipe: Recipe | None = None) -> tuple[TrainedRun, str]:
    console = Console(file=io.StringIO(), width=300)
    run = rankdet.train(
        recipe, **place, changes=changes, network=Drift(), losses={"dense": Upwards()}, datasets=(Square(), Square()),
        console=console,
    )  # fmt: skip
    return run, console.file.getvalue()


def start(tiny: Load, folder: Path, *changes: str) -> tuple[TrainedRun, str]:
    return drift({"out": folder}, recipe=tiny(*CHANGES, *changes))


def resume(folder: Path, *changes: str) -> tuple[TrainedRun, str]:
    return drift({"resume": folder}, *changes)


def names(folder: Path) -> list[str]:
    return [path.name.removeprefix("iteration_000000") for path in sorted((folder / "checkpoints").iterdir())]


def test_the_best_checkpoint_is_kept_beside_the_newest_and_is_what_a_run_folder_means(tiny: Load, tmp_path: Path):
    run, text = start(tiny, tmp_path / "run")
    assert names(tmp_path / "run") == ["best.pt", "09.pt", "10.pt"]
    assert "iteration 4: AP 1.000  AP50 1.000  oLRP 0.000  (best)\n" in text
    assert text.count("(best)") == 2
    best = Run(tmp_path / "run").best_checkpoint
    assert find_checkpoint(tmp_path / "run") == best
    assert load_checkpoint(best)["iteration"] == PEAK
    for model in (run.model, rankdet.load(tmp_path / "run", network=Drift())):
        assert model.network.steps.item() == PEAK
        assert model.origin.path == best
        assert model.thresholds == load_checkpoint(best)["thresholds"]
    assert run.metrics["AP"] == rankdet.evaluate(run.model, Square())["AP"] == 1
    assert rankdet.load(Run(tmp_path / "run").latest_checkpoint(), network=Drift()).network.steps.item() == 10


def test_a_finished_run_that_is_resumed_gives_the_same_model_and_numbers(tiny: Load, tmp_path: Path):
    first, _ = start(tiny, tmp_path / "run")
    second, _ = resume(tmp_path / "run")
    assert second.metrics["AP"] == first.metrics["AP"] == 1
    assert second.model.network.steps.item() == PEAK
    longer, _ = resume(tmp_path / "run", "schedule.iterations=12")
    assert longer.model.network.steps.item() == PEAK
    assert load_checkpoint(Run(tmp_path / "run").latest_checkpoint())["best"]["evaluations_since"] == 4


def test_numbers_of_a_resumed_run_are_nan_where_those_of_a_whole_one_are(tiny: Load, tmp_path: Path):
    whole, _ = start(tiny, tmp_path / "run")
    resumed, _ = resume(tmp_path / "run")
    assert math.isnan(whole.metrics["APl"])
    assert str(resumed.metrics) == str(whole.metrics)


def test_numbers_that_the_log_has_lost_are_not_those_of_another_evaluation(tiny: Load, tmp_path: Path):
    start(tiny, tmp_path / "run")
    log = Run(tmp_path / "run").log
    log.write_text("".join(json.dumps(row) + "\n" for row in read_log(log) if row["iteration"] != PEAK))
    resumed, _ = resume(tmp_path / "run")
    assert resumed.model.network.steps.item() == PEAK
    assert resumed.metrics is None


def test_a_metric_that_the_data_do_not_have_is_said_once(tiny: Load, tmp_path: Path):
    changes = ("schedule.iterations=6", "evaluation.patience=1")
    _, text = start(tiny, tmp_path / "run", "evaluation.metric=APl", *changes)
    said = "warning: APl is not measured on these data: no best checkpoint, and patience does not count"
    assert text.count(said) == 1
    assert names(tmp_path / "run") == ["05.pt", "06.pt"]
    _, text = start(tiny, tmp_path / "other", *changes)
    assert "is not measured" not in text


@pytest.mark.parametrize("metric", ["AP75", "oLRP"])
def test_the_metric_is_chosen_and_errors_are_better_where_they_are_lower(metric: str, tiny: Load, tmp_path: Path):
    run, _ = start(tiny, tmp_path / "run", f"evaluation.metric={metric}", "schedule.iterations=6")
    assert run.model.network.steps.item() == PEAK
    state = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())["best"]
    assert state == {"metric": metric, "value": float(metric != "oLRP"), "iteration": PEAK, "evaluations_since": 1}


@pytest.mark.parametrize(
    ("errors", "best", "waited"),
    [
        ({2: 0.8, 4: 0.0, 6: 0.5}, 4, 2),  # the same as by AP
        ({2: 0.8, 4: 0.5, 6: 0.3}, 6, 1),  # another one whose checkpoint is left
        ({2: 0.1, 4: 0.5, 6: 0.7}, 4, 2),  # its checkpoint is gone: the one that is named the best sets the bar
        ({2: 0.1, 4: 0.7, 6: 0.5}, 6, 1),
        ({}, 8, 0),  # a log that is lost
    ],
)
def test_the_best_by_another_metric_is_that_of_all_evaluations(
    errors: dict[int, float], best: int, waited: int, tiny: Load, tmp_path: Path
):
    run = Run(tmp_path / "run")
    start(tiny, run.folder, "schedule.iterations=6")
    rows = [row for row in read_log(run.log) if row["kind"] != "evaluation" or row["iteration"] in errors]
    for row in rows:
        if row["kind"] == "evaluation":
            row["metrics"]["oLRP"] = errors[row["iteration"]]
    run.log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    resumed, text = resume(run.folder, "evaluation.metric=oLRP", "schedule.iterations=8")
    assert "evaluation.metric AP → oLRP" in text
    assert load_checkpoint(run.best_checkpoint)["iteration"] == resumed.model.network.steps.item() == best
    state = load_checkpoint(run.latest_checkpoint())["best"]
    assert state == {
        "metric": "oLRP", "value": errors.get(best, 1.0), "iteration": best, "evaluations_since": waited
    }  # fmt: skip


@pytest.mark.parametrize(("patience", "length"), [(1, 6), (2, 8), (9, 10)])
def test_a_training_ends_after_as_many_evaluations_as_its_patience(
    patience: int, length: int, tiny: Load, tmp_path: Path
):
    run, text = start(tiny, tmp_path / "run", f"evaluation.patience={patience}")
    assert load_checkpoint(Run(tmp_path / "run").latest_checkpoint())["iteration"] == length
    assert run.signal is None
    said = f"stopped at iteration {length}: {patience} evaluations in a row are not better than AP 1.000 at iteration 4"
    assert (said in text) == (length < 10)
    again, text = resume(tmp_path / "run")
    assert load_checkpoint(Run(tmp_path / "run").latest_checkpoint())["iteration"] == length
    assert (said in text) == (length < 10)
    assert again.model.network.steps.item() == PEAK


def test_more_patience_goes_on_where_less_had_stopped(tiny: Load, tmp_path: Path):
    start(tiny, tmp_path / "run", "evaluation.patience=1")
    start(tiny, tmp_path / "whole", "evaluation.patience=5")
    resume(tmp_path / "run", "evaluation.patience=5")
    states = [load_checkpoint(Run(tmp_path / name).checkpoint(10)) for name in ("run", "whole")]
    assert states[0]["best"] == states[1]["best"]
    assert states[0]["detector"]["steps"] == states[1]["detector"]["steps"] == 10


@pytest.mark.parametrize("iteration", [2, 3, 4, 7])
def test_best_and_patience_resume_as_if_nothing_had_been(iteration: int, tiny: Load, tmp_path: Path):
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    start(tiny, whole.folder, "evaluation.patience=2", "runtime.keep_checkpoints=9")
    shutil.copytree(whole.folder, run.folder)
    for path in run.checkpoints()[iteration:]:
        path.unlink()
    shutil.copy(run.checkpoint(min(iteration // 2 * 2, PEAK)), run.best_checkpoint)
    resumed, _ = resume(run.folder)
    assert resumed.model.network.steps.item() == PEAK
    assert names(run.folder) == names(whole.folder)
    for first, second in zip(sorted(run.checkpoints()), sorted(whole.checkpoints()), strict=True):
        states = [load_checkpoint(path) for path in (first, second)]
        assert states[0]["best"] == states[1]["best"]
        assert states[0]["detector"]["steps"] == states[1]["detector"]["steps"]
    logs = [[(row["kind"], row["iteration"]) for row in read_log(each.log)] for each in (run, whole)]
    assert logs[0] == logs[1]


def test_a_run_that_was_killed_before_its_best_had_a_second_name_gives_it_one(tiny: Load, tmp_path: Path):
    run = Run(tmp_path / "run")
    start(tiny, run.folder, "schedule.iterations=4")
    run.best_checkpoint.unlink()
    shutil.copy(run.checkpoint(3), run.best_checkpoint)
    resume(run.folder)
    assert load_checkpoint(run.best_checkpoint)["iteration"] == 4
    run.best_checkpoint.unlink()
    resume(run.folder)
    assert run.best_checkpoint.samefile(run.checkpoint(4))


def test_a_damaged_best_is_named_anew_where_its_other_name_is_left(tiny: Load, tmp_path: Path):
    run = Run(tmp_path / "run")
    start(tiny, run.folder, "schedule.iterations=4")
    run.best_checkpoint.unlink()
    run.best_checkpoint.write_bytes(run.checkpoint(4).read_bytes()[:1000])
    _, text = resume(run.folder, "schedule.iterations=5", "evaluation.at_end=false")
    assert load_checkpoint(run.best_checkpoint)["iteration"] == 4
    assert "damaged" not in text


def test_a_damaged_best_that_is_lost_leaves_the_newest_and_is_said(tiny: Load, tmp_path: Path):
    run = Run(tmp_path / "run")
    start(tiny, run.folder)
    run.best_checkpoint.write_bytes(run.best_checkpoint.read_bytes()[:1000])
    resumed, text = resume(run.folder, "schedule.iterations=12")
    said = f"warning: {run.best_checkpoint} is damaged or no checkpoint of rankdet; the model is that of "
    assert said + f"{run.checkpoint(12)}\n" in text
    assert resumed.model.network.steps.item() == 12
    assert resumed.model.origin.path == run.checkpoint(12)
    assert resumed.metrics["AP"] == 0


def test_thresholds_that_were_stored_in_the_best_survive_resuming(tiny: Load, tmp_path: Path):
    from rankdet.inference.evaluation import store_thresholds

    run, _ = start(tiny, tmp_path / "run", "schedule.iterations=4")
    store_thresholds(run.model, [0.123])
    assert rankdet.load(tmp_path / "run", network=Drift()).thresholds == [0.123]
    resume(tmp_path / "run")
    assert rankdet.load(tmp_path / "run", network=Drift()).thresholds == [0.123]


def test_a_run_of_which_the_best_alone_is_left_goes_on_from_it(tiny: Load, tmp_path: Path):
    folder = tmp_path / "run"
    start(tiny, folder)
    for path in folder.glob("checkpoints/iteration*"):
        path.unlink()
    _, text = resume(folder)
    assert "going on at iteration 4" in text
    assert names(folder) == ["best.pt", "09.pt", "10.pt"]
    with pytest.raises(InputError, match="already holds a run"):
        start(tiny, folder)


def test_where_files_cannot_be_linked_the_best_is_a_copy(tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    start(tiny, tmp_path / "run", "schedule.iterations=4")
    run = Run(tmp_path / "run")
    assert run.best_checkpoint.read_bytes() == run.checkpoint(4).read_bytes()
    assert not run.best_checkpoint.samefile(run.checkpoint(4))


def test_a_run_without_evaluations_means_its_newest_checkpoint(tiny: Load, tmp_path: Path):
    changes = ("evaluation.every=null", "evaluation.at_end=false", "schedule.iterations=3")
    run, _ = start(tiny, tmp_path / "run", *changes)
    assert run.metrics is None
    assert find_checkpoint(tmp_path / "run") == Run(tmp_path / "run").checkpoint(3)
    assert run.model.network.steps.item() == 3


def test_patience_without_evaluations_is_refused_at_the_start(tiny: Load, tmp_path: Path):
    with pytest.raises(InputError, match=r"evaluation\.patience counts evaluations .*; set evaluation\.every"):
        start(tiny, tmp_path / "run", "evaluation.patience=3", "evaluation.every=null")
    with pytest.raises(InputError, match=r"evaluation\.patience needs images to evaluate on"):
        rankdet.train(
            tiny(*CHANGES, "evaluation.patience=3"), out=tmp_path / "run", network=Drift(),
            losses={"dense": Upwards()}, datasets=(Square(), None),
        )  # fmt: skip
    with pytest.raises(InputError, match=r"is not of LVIS, on which evaluation\.metric=APr is measured"):
        start(tiny, tmp_path / "run", "evaluation.metric=APr")
    assert not (tmp_path / "run").exists()


def test_every_metric_that_can_be_chosen_is_measured():
    names = get_type_hints(Evaluation)["metric"].__args__
    assert set(names) <= set(get_type_hints(Metrics))


def test_an_evaluation_without_the_metric_changes_nothing():
    best = Best("AP", 0.5, 10, 1)
    assert best.after(20, {"findings": []}) == best
    assert best.after(20, {"AP": math.nan}) == best
