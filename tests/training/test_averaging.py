"""Averaged weights: what they are, that they are evaluated and saved, and that they resume bit for bit."""

from __future__ import annotations

import copy
import io
import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rankdet
from rankdet import InputError, Recipe
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run
from rankdet.training.averaging import WeightAverage

Load = Callable[..., Recipe]
NORMALIZED = "detector.backbone={type: timm, name: test_efficientnet, weights: null, out_indices: [2, 3], " \
    "frozen_batch_norm: false}"  # fmt: skip
"""A backbone whose running statistics move."""
EMA = (NORMALIZED, "ema={decay: 0.9, warmup_iterations: 3}")


def train(recipe: Recipe, folder: Path) -> tuple[rankdet.TrainedRun, str]:
    console = Console(file=io.StringIO(), width=300)
    return rankdet.train(recipe, out=folder, console=console), console.file.getvalue()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def moved(network: nn.Module, step: int) -> None:
    """Another forward pass and other weights."""
    torch.manual_seed(step)
    network(torch.randn(4, 3) + step)
    for parameter in network.parameters():
        parameter.data += torch.randn_like(parameter)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_averages_are_those_of_torch_where_there_is_no_warm_up():
    network = make_network()
    expected = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    expected.update_parameters(network)  # its first call copies
    average = WeightAverage(network, 0.9, 0)
    for step in range(1, 5):
        moved(network, step)
        average.update(step)
        expected.update_parameters(network)
    own = average.state_dict()
    for name, value in expected.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(own[name], value)
    assert own["1.num_batches_tracked"] == 4


def test_decay_grows_during_the_warm_up():
    weight = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(weight.weight)
    average = WeightAverage(weight, 0.99, 10)
    expected = 0.0
    for step in range(1, 30):
        nn.init.constant_(weight.weight, float(step))
        average.update(step)
        decay = 0.99 * (1 - math.exp(-step / 10))
        expected = decay * expected + (1 - decay) * step
    assert average.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_applying_gives_the_network_back_bit_for_bit_also_after_an_error():
    network = make_network()
    average = WeightAverage(network, 0.9, 5)
    moved(network, 1)
    average.update(1)
    before = [copy.deepcopy(each.state_dict()) for each in (network, average)]
    with average.applied():
        assert same(network.state_dict(), before[1])
    with pytest.raises(ValueError, match="inside"), average.applied():
        raise ValueError("inside")
    assert same(network.state_dict(), before[0])
    assert same(average.state_dict(), before[1])


def test_weights_that_do_not_move_stay_as_they_are():
    network = make_network()
    average = WeightAverage(network, 0.9, 7)
    for step in range(1, 20):
        average.update(step)
    assert same(network.state_dict(), average.state_dict())


def test_weights_that_are_tied_stay_tied():
    network = make_network()
    network[2].weight = nn.Parameter(torch.zeros(4, 4))
    network.append(nn.Linear(4, 4, bias=False))
    network[3].weight = network[2].weight
    average = WeightAverage(network, 0.5, 0)
    nn.init.constant_(network[2].weight, 1.0)
    average.update(1)
    with average.applied():
        assert network[3].weight is network[2].weight
        assert network[2].weight.unique().tolist() == [0.5]
    assert network[2].weight.unique().tolist() == [1.0]


class Centered(nn.Module):
    """Assigns its buffer anew in each pass, as some networks do, in place of writing into it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("center", torch.zeros(1))

    def forward(self, values: Tensor) -> Tensor:
        self.center = 0.5 * self.center + values.mean()
        return self.weight * values


def test_a_buffer_that_the_network_assigns_anew_is_averaged_too():
    network = nn.Sequential(Centered())
    average = WeightAverage(network, 0.5, 0)
    for step, expected in enumerate((1.0, 2.0), start=1):  # the network has 2 and 3
        network(torch.full((4,), 2.0))
        average.update(step)
        assert average.state_dict()["0.center"].item() == expected
    with average.applied():
        assert network[0].center.item() == 2
        network[0].center = network[0].center.clone()
    assert (network[0].center.item(), average.state_dict()["0.center"].item()) == (3, 2)


@pytest.fixture(scope="module")
def whole(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six iterations with averages and two evaluations."""
    torch.set_num_threads(1)
    changes = ("schedule.iterations=6", "evaluation.every=3", "runtime.checkpoint_interval=1",
               "runtime.keep_checkpoints=9")  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "whole"
    _, text = train(rankdet.load_recipe(tiny_file, (*EMA, *changes)), folder)
    assert "averaged weights (decay 0.9)" in text
    return folder


def test_a_checkpoint_has_the_averages_to_load_and_the_weights_to_go_on_with(whole: Path, tiny: Load, tmp_path: Path):
    """The averages of an iteration are those of the weights in the checkpoints up to it."""
    states = [load_checkpoint(path) for path in Run(whole).checkpoints()]
    for step, (before, after) in enumerate(itertools.pairwise(states), start=2):
        decay = 0.9 * (1 - math.exp(-step / 3))
        for name, value in after["weights"].items():
            if value.is_floating_point():
                expected = decay * before["detector"][name] + (1 - decay) * value
                torch.testing.assert_close(after["detector"][name], expected, rtol=1e-5, atol=1e-7)
            else:
                assert torch.equal(after["detector"][name], value)
    train(tiny(NORMALIZED, "schedule.iterations=6"), tmp_path / "plain")
    plain = load_checkpoint(Run(tmp_path / "plain").latest_checkpoint())
    assert plain["weights"] == {}
    assert same(plain["detector"], states[-1]["weights"])  # averaging changes nothing of the training
    assert not same(states[-1]["detector"], states[-1]["weights"])
    moving = "backbone.network.blocks.2.0.bn1.running_var"
    assert not torch.equal(states[-1]["detector"][moving], states[-1]["weights"][moving])


def test_what_is_evaluated_and_returned_is_the_average(whole: Path, tiny: Load, shapes_folder: Path, tmp_path: Path):
    run, _ = train(tiny(*EMA, "schedule.iterations=2", "evaluation.at_end=true"), tmp_path / "run")
    averaged = load_checkpoint(Run(run.folder).latest_checkpoint())["detector"]
    assert same(run.model.network.state_dict(), averaged)
    loaded = rankdet.load(run.folder, "cpu")
    assert same(loaded.network.state_dict(), averaged)
    again = rankdet.evaluate(loaded, shapes_folder, out=tmp_path / "again")
    assert str(again["per_class"]) == str(run.metrics["per_class"])
    written = [(folder / "detections.json").read_text() for folder in (run.folder, tmp_path / "again")]
    assert written[0] == written[1]


@pytest.mark.parametrize("iteration", [2, 3, 5])
def test_averages_resume_bit_for_bit(iteration: int, whole: Path, tmp_path: Path):
    run = Run(tmp_path / "run")
    shutil.copytree(whole, run.folder)
    for path in run.checkpoints()[iteration:]:
        path.unlink()
    run.best_checkpoint.unlink()
    resumed = rankdet.train(resume=run.folder, console=Console(quiet=True))
    expected, found = (load_checkpoint(each.checkpoint(6)) for each in (Run(whole), run))
    for entry in ("detector", "weights"):
        assert same(found[entry], expected[entry])
    assert found["best"] == expected["best"]
    best = load_checkpoint(Run(whole).best_checkpoint)
    if best["iteration"] > iteration:
        assert same(load_checkpoint(run.best_checkpoint)["detector"], best["detector"])
        assert same(resumed.model.network.state_dict(), best["detector"])


def test_a_run_cannot_begin_to_average_in_its_middle(tiny: Load, tmp_path: Path):
    train(tiny("schedule.iterations=1"), tmp_path / "run")
    with pytest.raises(InputError, match=r"recipe of the run says ema=\{.*\}, and it was trained with None"):
        rankdet.train(resume=tmp_path / "run", changes={"ema": {}, "schedule.iterations": 2})


def test_training_from_the_weights_of_a_run_takes_its_averages(whole: Path, tiny: Load, tmp_path: Path):
    zero = ("optimizer={type: sgd, lr: 1.0e-30}", "schedule.iterations=1", NORMALIZED)
    rankdet.train(tiny(*zero), out=tmp_path / "run", weights=whole, console=Console(quiet=True))
    started = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())["detector"]
    averaged = load_checkpoint(Run(whole).best_checkpoint)["detector"]
    name = "rpn.head.classifier.weight"
    assert name in started
    assert torch.equal(started[name], averaged[name])


def test_fields_of_the_average_are_checked(tiny: Load):
    assert (tiny("ema={}").ema.decay, tiny("ema.warmup_iterations=7").ema.warmup_iterations) == (0.9999, 7)
    with pytest.raises(InputError, match=r"ema\.decay: input should be less than 1"):
        tiny("ema.decay=1")
