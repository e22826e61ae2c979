"""Logs, statistics, optimizers and the step: the parts of the loop by themselves."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rankdet.recipes import load_recipe
from rankdet.recipes.schema.optimization import SGD
from rankdet.runs.folder import Run, read_log
from rankdet.structures import Candidates, InputError, LossOutput
from rankdet.training.logging import RunLog
from rankdet.training.optimization import build_optimizer, parameter_groups, scaled_lr
from rankdet.training.statistics import IntervalStatistics
from rankdet.training.step import training_step

CPU = torch.device("cpu")


def test_log_is_cut_to_the_checkpoint_that_a_run_goes_on_from(tmp_path: Path):
    run = Run(tmp_path)
    run.log.write_text('{"iteration": 1}\n{"iteration": 2}\n{"iteration": 3}\n{"iterat')
    log = RunLog(run, start=2, tensorboard=False)
    log.write({"iteration": 3, "loss": math.nan})
    log.close()
    assert list(read_log(run.log)) == [{"iteration": 1}, {"iteration": 2}, {"iteration": 3, "loss": None}]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"kind": "train"}'])
def test_broken_line_of_the_log_is_named(line: str, tmp_path: Path):
    run = Run(tmp_path)
    run.log.write_text('{"iteration": 1}\n' + line + '\n{"iteration": 3}\n')
    with pytest.raises(InputError, match=r"log\.jsonl: line 2 is no "):
        RunLog(run, start=3, tensorboard=False)


def test_tensorboard_gets_the_numbers_of_the_log(tmp_path: Path):
    pytest.importorskip("tensorboard")
    log = RunLog(Run(tmp_path), start=0, tensorboard=True)
    log.write({"iteration": 3, "loss": 0.5})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_statistics_leave_the_device_as_one_table():
    statistics = IntervalStatistics()
    for iteration in (1, 2):
        terms = {"rpn/ranking": torch.tensor(0.5), "rcnn/ranking": torch.tensor(float(iteration))}
        statistics.add(iteration, terms, {"rpn/positives": torch.tensor(7)}, ["a.png"])
    assert statistics.names == ("loss", "rpn/ranking", "rcnn/ranking", "rpn/positives")
    assert statistics.fetch().tolist() == [[1.5, 0.5, 1.0, 7.0], [2.5, 0.5, 2.0, 7.0]]
    other = IntervalStatistics()
    other.restore(statistics.state())
    other.add(
        3,
        {"rpn/ranking": torch.tensor(0.0), "rcnn/ranking": torch.tensor(0.0)},
        {"rpn/positives": torch.tensor(0)},
        ["b.png"],
    )
    assert len(other.fetch()) == 3


def test_interval_that_another_version_began_with_other_statistics_begins_anew():
    old, statistics = IntervalStatistics(), IntervalStatistics()
    old.add(1, {"rpn/ranking": torch.tensor(0.5)}, {}, ["a.png"])
    statistics.restore(old.state())
    for iteration in (2, 3):
        statistics.add(iteration, {"rpn/ranking": torch.tensor(0.25)}, {"rpn/balance": torch.tensor(1.0)}, ["b.png"])
    assert statistics.names == ("loss", "rpn/ranking", "rpn/balance")
    assert statistics.fetch().tolist() == [[0.25, 0.25, 1.0]] * 2
    with pytest.raises(RuntimeError, match="changed their names"):
        statistics.add(4, {"rpn/ranking": torch.tensor(0.25)}, {}, ["c.png"])


def test_loss_that_is_not_finite_is_named_with_iteration_terms_and_images():
    statistics = IntervalStatistics()
    statistics.add(4, {"rpn/ranking": torch.tensor(0.5)}, {}, ["good.png"])
    assert not statistics.has_failed(1)
    statistics.add(5, {"rpn/ranking": torch.tensor(math.inf)}, {}, ["one.png", "two.png"])
    assert statistics.has_failed(1)
    with pytest.raises(InputError, match=r"iteration 5: loss = inf, rpn/ranking = inf; images: one\.png, two\.png"):
        statistics.fetch()


def test_statistic_that_is_not_finite_is_no_failure():
    statistics = IntervalStatistics()
    statistics.add(1, {"rpn/ranking": torch.tensor(0.5)}, {"rpn/balance": torch.tensor(math.nan)}, [])
    assert not statistics.has_failed(1)
    assert len(statistics.fetch()) == 1


def test_learning_rate_is_linear_in_the_batch():
    config = SGD(lr=0.012, reference_batch=16)
    assert scaled_lr(config, 4, scale_lr=True) == pytest.approx(0.003)
    assert scaled_lr(config, 64, scale_lr=True) == pytest.approx(0.048)
    assert scaled_lr(config, 4, scale_lr=False) == 0.012


def test_frozen_weights_are_in_no_group_and_shared_ones_in_one():
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    network.append(network[2])
    groups = parameter_groups(network, 0.1, decay_norm_and_bias=False)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (3, 0.0)]


def test_optimizer_is_fused_and_has_few_groups():
    recipe = load_recipe("rs_faster_rcnn_shapes")
    optimizer = build_optimizer(recipe.optimizer, nn.Linear(2, 2), lr=0.25)
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["fused"]
    assert optimizer.param_groups[0]["lr"] == 0.25


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: object) -> list[Candidates]:
        logits = self.weight * torch.ones(3, 1)
        return [Candidates(head, logits, torch.zeros(3, dtype=torch.int64), 1) for head in ("rpn", "rcnn")]


class SumLoss(nn.Module):
    def forward(self, candidates: Candidates) -> LossOutput:
        return LossOutput({"ranking": candidates.logits.sum()}, {"positives": torch.tensor(3)})


def test_step_weights_the_terms_of_a_head_and_names_them():
    detector = TwoHeads()
    losses = {"rpn": SumLoss(), "rcnn": SumLoss()}
    total, terms, stats = training_step(detector, losses, None, {"rpn": 0.2})
    total.backward()
    assert total.item() == pytest.approx(0.2 * 6 + 6)
    assert {name: round(value.item(), 4) for name, value in terms.items()} == {"rpn/ranking": 1.2, "rcnn/ranking": 6.0}
    assert set(stats) == {"rpn/positives", "rcnn/positives"}
    assert detector.weight.grad.item() == pytest.approx(3.6)
    assert not any(value.requires_grad for value in (terms | stats).values())
