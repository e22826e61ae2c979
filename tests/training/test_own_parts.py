"""Training from Python with the caller's own parts: data sets, networks, losses, optimizers, callbacks."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

import rankdet
from rankdet import InputError, Recipe
from rankdet.data import CocoDataset, SampleKey, find_layout
from rankdet.data.own import from_map_dataset
from rankdet.losses import RankSortLoss
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run
from rankdet.structures import Batch, Candidates, Detection, Images, LossOutput, Matched

from .comparing import clean, equal

Load = Callable[..., Recipe]
QUIET = Console(quiet=True)


class Squares:
    """Black images of 64 pixels with one white square each, of class 0, and one larger gray one, of class 1."""

    classes = ("small", "large")

    def __init__(self, length: int = 8, as_tensor: bool = False, with_masks: bool = False) -> None:
        self.length, self.as_tensor, self.with_masks = length, as_tensor, with_masks

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        pixels = np.zeros((64, 64, 3), dtype=np.uint8)
        boxes = [[4 + index, 4, 16 + index, 16], [30, 30, 54, 54 + index % 3]]
        masks = np.zeros((2, 64, 64), dtype=bool)
        for (x1, y1, x2, y2), value, mask in zip(boxes, (255, 150), masks, strict=True):
            pixels[y1:y2, x1:x2] = value
            mask[y1:y2, x1:x2] = True
        image = torch.from_numpy(pixels).permute(2, 0, 1) if self.as_tensor else Image.fromarray(pixels)
        target = {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor([0, 1])}
        return image, target | ({"masks": torch.from_numpy(masks)} if self.with_masks else {})


class SmallNetwork(nn.Module):
    """One box for each cell of 8 pixels, around its center: a network that is written in a test."""

    def __init__(self, num_classes: int = 2, head: str = "cells") -> None:
        super().__init__()
        self.head, self.num_classes = head, num_classes
        self.body = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Conv2d(8, num_classes, 1))

    def read(self, images: Images) -> tuple[Tensor, Tensor]:
        logits = self.body(images.pixels.float() / 255)
        rows, columns = logits.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows) * 8 + 4.0, torch.arange(columns) * 8 + 4.0, indexing="ij")
        centers = torch.stack([x, y, x, y], dim=-1).view(-1, 4)
        return logits.flatten(2).transpose(1, 2), centers + torch.tensor([-8.0, -8.0, 8.0, 8.0])

    def forward(self, batch: Batch) -> list[Candidates]:
        logits, boxes = self.read(batch.images)
        labels, objects, predicted = [], [], []
        for target in batch.targets:
            inside = (boxes[:, None, :2] + 8 > target.boxes[:, :2]) & (boxes[:, None, :2] + 8 < target.boxes[:, 2:])
            is_hit, which = inside.all(2).max(1) if len(target.boxes) else (torch.zeros(len(boxes)).bool(), None)
            labels.append(torch.full((len(boxes),), self.num_classes))
            if is_hit.any():
                labels[-1][is_hit] = target.labels[which[is_hit]]
                objects.append(target.boxes[which[is_hit]])
                predicted.append(boxes[is_hit])
        pairs = Matched(torch.cat([*predicted, boxes[:0]]), torch.cat([*objects, boxes[:0]]))
        return [Candidates(self.head, logits.flatten(0, 1), torch.cat(labels), self.num_classes, boxes=pairs)]

    def detect(self, images: Images) -> list[Detection]:
        logits, boxes = self.read(images)
        found = []
        for scores in logits.sigmoid():
            best, labels = scores.max(1)
            order = best.argsort(descending=True)[:20]
            found.append(Detection(boxes[order], best[order], labels[order]))
        return found


class SumLoss(nn.Module):
    """A loss that remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, candidates: Candidates) -> LossOutput:
        self.calls += 1
        is_positive = candidates.is_positive
        return LossOutput(
            {"ranking": (candidates.logits.square() * (1 + is_positive[:, None])).mean()},
            {"positives": is_positive.sum(), "negatives": (~is_positive).sum()},
        )


@pytest.fixture
def short(tiny: Load) -> Recipe:
    """Four iterations and an evaluation, without a data folder."""
    return tiny("data.folder=null", "evaluation.at_end=true", "optimizer.lr=0.01")


def test_own_data_sets_are_trained_and_measured_on(short: Recipe, tmp_path: Path):
    run = rankdet.train(short, out=tmp_path / "run", datasets=(Squares(), Squares(3)), console=QUIET)
    assert list(run.metrics["per_class"]) == ["small", "large"]
    assert run.metrics["per_class"]["large"]["ground_truths"] == 3
    assert run.model.names == ["small", "large"]
    assert len(run.model.detect(Squares()[0][0])) > 0
    loaded = rankdet.load(run.folder)  # the network is the recipe's, so nothing has to be passed
    assert loaded.detect(Squares()[0][0]).boxes.tolist() == run.model.detect(Squares()[0][0]).boxes.tolist()
    assert loaded.categories == [(1, "small"), (2, "large")]


def test_samples_of_an_own_data_set_are_augmented_as_those_of_a_file():
    from rankdet.data import FixedSize, Transforms

    dataset = from_map_dataset(
        Squares(with_masks=True), "set", transforms=Transforms(FixedSize(128, 128), 1.0), with_masks=True
    )
    sample = dataset[SampleKey(1, 3)]
    assert tuple(sample.image.shape) == (3, 128, 128)
    assert sample.target.boxes.tolist() == [[128 - 34, 8, 128 - 10, 32], [20, 60, 68, 110]]
    assert sample.target.labels.tolist() == [0, 1]
    inside = sample.target.masks[0, 10:30, 96:116]
    assert inside.all()
    assert (sample.image[0, 10:30, 96:116] > 250).all()
    assert sample.source.path == "set/1"


def test_own_masks_are_trained_and_measured_on(tmp_path: Path):
    torch.set_num_threads(1)
    changes = [
        "data.batch_size=2", "data.workers=0", "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]",
        "detector.rcnn.channels=16", "detector.mask={channels: 8, convolutions: 1, pooled_size: 7, budget: 20}",
        "schedule.iterations=2", "runtime.device=cpu",
    ]  # fmt: skip
    sets = (Squares(with_masks=True), Squares(3, with_masks=True))
    run = rankdet.train("rs_mask_rcnn_shapes", out=tmp_path, changes=changes, datasets=sets, console=QUIET)
    assert run.metrics["masks"]["per_class"]["small"]["ground_truths"] == 3
    with pytest.raises(InputError, match=r"train_set\[0\]: the target has no masks"):
        rankdet.train(
            "rs_mask_rcnn_shapes", out=tmp_path / "b", changes=changes, datasets=(Squares(), None), console=QUIET
        )


class Changed(Squares):
    """Item 2 has another target."""

    def __init__(self, **target: Any) -> None:
        super().__init__()
        self.target = target

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        image, target = super().__getitem__(index)
        return image, target | (self.target if index == 2 else {})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"boxes": torch.zeros(2, 5)}, r"boxes of shape \(2, 5\) and labels of shape \(2,\), not \(G, 4\) and \(G,\)"),
        ({"labels": torch.tensor([0])}, r"labels of shape \(1,\)"),
        ({"labels": torch.tensor([1, 2])}, "labels from 1 to 2; those of 2 classes go from 0 to 1"),
        ({"labels": torch.tensor([0.0, 1.0])}, "labels of torch.float32, not of whole numbers"),
        ({"boxes": torch.tensor([[5.0, 5, 1, 9], [0, 0, 4, 4]])}, r"boxes must be \(x1, y1, x2, y2\)"),
        ({"boxes": torch.full((2, 4), torch.nan)}, "finite"),
    ],
)  # fmt: skip
def test_target_of_another_form_is_named_before_training(target: dict, message: str, short: Recipe, tmp_path: Path):
    with pytest.raises(InputError, match=rf"train_set\[2\]: .*{message}"):
        rankdet.train(short, out=tmp_path / "run", datasets=(Changed(**target), None), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_data_sets_without_class_names_or_of_another_form_are_refused(short: Recipe, tmp_path: Path):
    items = [Squares()[0]]
    with pytest.raises(InputError, match=r"train_set: give the names of the classes, .* classes=\[...\]"):
        rankdet.train(short, out=tmp_path, datasets=(items, None), console=QUIET)
    with pytest.raises(InputError, match=r"train_set\[0\]: is no pair of an image and a target"):
        rankdet.train(short, out=tmp_path, datasets=([7], None), classes=["a"], console=QUIET)
    with pytest.raises(InputError, match="datasets must be a pair"):
        rankdet.train(short, out=tmp_path, datasets=Squares(), console=QUIET)
    other = Squares()
    other.classes = ("small", "huge")
    with pytest.raises(InputError, match=r"val_set: .* no class of train_set: 'huge'"):
        rankdet.train(short, out=tmp_path, datasets=(Squares(), other), console=QUIET)


def test_data_sets_of_this_package_give_what_their_folder_gives(tiny: Load, shapes_folder: Path, tmp_path: Path):
    split = find_layout(shapes_folder).source("train")
    own = CocoDataset(split.annotations, split.images, keep_empty=False)
    rankdet.train(tiny(), out=tmp_path / "folder", console=QUIET)
    rankdet.train(tiny(), out=tmp_path / "own", datasets=(own, None), console=QUIET)
    first, second = (load_checkpoint(Run(tmp_path / name).latest_checkpoint()) for name in ("folder", "own"))
    assert all(torch.equal(value, second["detector"][name]) for name, value in first["detector"].items())


def test_own_network_and_losses_train_resume_and_load(short: Recipe, tmp_path: Path):
    def parts() -> dict[str, Any]:
        torch.manual_seed(0)
        sets = (Squares(as_tensor=True), Squares(3, as_tensor=True))
        return {"network": SmallNetwork(), "losses": {"cells": RankSortLoss()}, "datasets": sets, "console": QUIET}

    whole = rankdet.train(short, out=tmp_path / "whole", **parts())
    assert type(whole.model.network) is SmallNetwork
    halved = tmp_path / "halved"
    rankdet.train(short, out=halved, **parts())
    Run(halved).checkpoint(4).unlink()
    with pytest.raises(InputError, match=r"was started with network = .*SmallNetwork, pass it again \(given: none\)"):
        rankdet.train(resume=halved, datasets=parts()["datasets"], console=QUIET)
    resumed = rankdet.train(resume=halved, **parts())
    for name, value in whole.model.network.state_dict().items():
        assert torch.equal(value, resumed.model.network.state_dict()[name])
    with pytest.raises(
        InputError, match=r"SmallNetwork, which its caller built: pass .*rankdet\.load\(.*, network=...\)"
    ):
        rankdet.load(halved)
    loaded = rankdet.load(halved, network=SmallNetwork())
    image = Squares()[0][0]
    assert loaded.detect(image).scores.tolist() == whole.model.detect(image).scores.tolist()
    assert load_checkpoint(Run(halved).checkpoint(4))["parts"].keys() == {"network", "datasets", "losses['cells']"}


def test_head_without_a_loss_and_loss_without_a_head_are_named(short: Recipe, tmp_path: Path):
    sets = (Squares(), None)
    with pytest.raises(InputError, match=r"has a head 'cells' without a loss; pass losses=\{'cells': ...\}"):
        rankdet.train(short, out=tmp_path / "a", network=SmallNetwork(), datasets=sets, console=QUIET)
    losses = {"cells": SumLoss(), "other": SumLoss()}
    with pytest.raises(InputError, match=r"losses names the heads \['other'\], which the network does not have"):
        rankdet.train(short, out=tmp_path / "b", network=SmallNetwork(), losses=losses, datasets=sets, console=QUIET)
    with pytest.raises(
        InputError, match=r"losses names the heads \['rcn'\], but those of the recipe are \['rpn', 'rcnn'\]"
    ):
        rankdet.train(short, out=tmp_path / "c", losses={"rcn": SumLoss()}, datasets=sets, console=QUIET)
    with pytest.raises(InputError, match="head 'cells' of SmallNetwork has 3 classes, and the data have 2"):
        rankdet.train(
            short,
            out=tmp_path / "d",
            network=SmallNetwork(3),
            losses={"cells": SumLoss()},
            datasets=sets,
            console=QUIET,
        )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"network": nn.Linear(1, 1)}, r"network must be an nn\.Module with forward\(batch\) and detect\(images\)"),
        ({"losses": {"rcnn": SumLoss}}, "losses must be modules by the names of their heads"),
        ({"optimizer": 0.1}, "optimizer must be an optimizer, or a callable"),
        ({"optimizer": lambda groups: None}, "optimizer returned NoneType, which is no optimizer"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))])}, "parameters that are not of the network"),
    ],
)  # fmt: skip
def test_part_of_another_form_is_named(part: dict, message: str, tiny: Load, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        rankdet.train(tiny(), out=tmp_path / "run", console=QUIET, **part)


def test_loss_of_one_head_is_replaced_and_its_state_is_resumed(tiny: Load, tmp_path: Path):
    loss = SumLoss()
    rankdet.train(tiny(), out=tmp_path / "run", losses={"rcnn": loss}, console=QUIET)
    assert loss.calls == 4
    Run(tmp_path / "run").checkpoint(4).unlink()
    resumed = SumLoss()
    rankdet.train(resume=tmp_path / "run", losses={"rcnn": resumed}, console=QUIET)
    assert resumed.calls == 4
    statistics = json.loads(Run(tmp_path / "run").log.read_text().splitlines()[0])["statistics"]
    assert {"rpn/sorting", "rcnn/ranking"} <= set(statistics)
    assert "rcnn/sorting" not in statistics


def test_own_optimizer_keeps_its_learning_rates_under_the_schedule(tiny: Load, tmp_path: Path):
    made = []

    def adam(groups: list[dict]) -> torch.optim.Optimizer:
        made.append(torch.optim.AdamW(groups, lr=0.004))
        return made[0]

    recipe = tiny("schedule={type: step, iterations: 4, milestones: [0.5], gamma: 0.1, warmup_iterations: 0}")
    output = io.StringIO()
    rankdet.train(recipe, out=tmp_path / "run", optimizer=adam, console=Console(file=output, width=300))
    assert "learning rate 0.004 (of the given optimizer)" in output.getvalue()
    assert made[0].param_groups[0]["lr"] == pytest.approx(0.0004)
    half = functools.partial(torch.optim.SGD, lr=0.5)
    with pytest.raises(InputError, match=r"with optimizer = .*adam, pass it again \(given: .*partial\)"):
        rankdet.train(resume=tmp_path / "run", optimizer=half, console=QUIET)


class Noting:
    """Notes what it is told; sends a signal, or raises, at a record."""

    def __init__(self, at_log: Callable[[], object] = lambda: None) -> None:
        self.logged: list[int] = []
        self.evaluated: list[int] = []
        self.ended: list[rankdet.TrainedRun] = []
        self.at_log = at_log

    def on_log(self, record: Mapping[str, Any]) -> None:
        assert {"lr", "loss", "statistics", "timing"} <= set(record)
        self.logged.append(record["iteration"])
        self.at_log()

    def on_evaluation(self, record: Mapping[str, Any]) -> None:
        assert "AP" in record["metrics"]
        self.evaluated.append(record["iteration"])

    def on_end(self, run: rankdet.TrainedRun) -> None:
        self.ended.append(run)


def test_callbacks_get_records_evaluations_and_the_run(tiny: Load, tmp_path: Path):
    noting = Noting()
    changes = {"evaluation.every": 2, "runtime.log_interval": 1}
    run = rankdet.train(tiny(), out=tmp_path / "run", changes=changes, callbacks=[noting], console=QUIET)
    assert (noting.logged, noting.evaluated, noting.ended) == ([1, 2, 3, 4], [2, 4], [run])
    assert run.metrics["AP"] >= 0
    assert run.signal is None
    assert run.model.origin.path == Run(tmp_path / "run").best_checkpoint


def test_error_of_a_callback_leaves_a_checkpoint_and_is_raised(tiny: Load, tmp_path: Path):
    def fail() -> None:
        raise ConnectionError("the tracker is gone")

    noting = Noting(fail)
    with pytest.raises(ConnectionError, match="the tracker is gone"):
        rankdet.train(
            tiny("runtime.log_interval=1", "runtime.checkpoint_interval=100"),
            out=tmp_path / "run", callbacks=[noting], console=QUIET,
        )  # fmt: skip
    assert noting.ended == []
    assert [path.name for path in Run(tmp_path / "run").checkpoints()] == ["iteration_00000001.pt"]
    assert rankdet.train(resume=tmp_path / "run", console=QUIET).signal is None


@pytest.fixture
def default_interrupt() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_interrupt")
def test_interrupt_saves_and_returns_and_the_run_goes_on_to_the_same_bits(tiny: Load, tmp_path: Path):
    """As the interruption of a notebook's cell does; Python's own handler is back afterwards."""
    interrupting = Noting(lambda: os.kill(os.getpid(), signal.SIGINT))
    changes = {"runtime.log_interval": 2, "runtime.checkpoint_interval": 100}
    run = rankdet.train(tiny(), out=tmp_path / "run", changes=changes, callbacks=[interrupting], console=QUIET)
    assert run.signal == signal.SIGINT
    assert interrupting.ended == [run]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert Run(tmp_path / "run").latest_checkpoint().name == "iteration_00000002.pt"
    resumed = rankdet.train(resume=run.folder, console=QUIET)
    whole = rankdet.train(tiny(), out=tmp_path / "whole", changes=changes, console=QUIET)
    for name, value in whole.model.network.state_dict().items():
        assert torch.equal(value, resumed.model.network.state_dict()[name])


@pytest.mark.usefixtures("default_interrupt")
def test_interrupted_run_leaves_the_checkpoint_of_one_that_goes_on(tiny: Load, tmp_path: Path):
    """The learning rates of the next iteration, which never ran, are not in it."""
    changes = {"runtime.log_interval": 2, "runtime.checkpoint_interval": 2}
    recipe = tiny("schedule.warmup_iterations=4")
    interrupting = Noting(lambda: os.kill(os.getpid(), signal.SIGINT))
    rankdet.train(recipe, out=tmp_path / "run", changes=changes, callbacks=[interrupting], console=QUIET)
    rankdet.train(recipe, out=tmp_path / "whole", changes=changes, callbacks=[Noting()], console=QUIET)
    left, whole = (clean(Run(tmp_path / name).checkpoint(2)) for name in ("run", "whole"))
    assert equal(left, whole), [name for name in left if not equal(left[name], whole[name])]


@pytest.mark.usefixtures("default_interrupt")
def test_second_interrupt_stops_at_once(tiny: Load, tmp_path: Path):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        rankdet.train(tiny(), out=tmp_path / "run", callbacks=[Noting(twice)], console=QUIET)


def test_training_works_outside_of_the_main_thread(tiny: Load, tmp_path: Path):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(rankdet.train(tiny(), out=tmp_path / "run", console=QUIET)))
    thread.start()
    thread.join()
    assert runs[0].signal is None
    assert Run(tmp_path / "run").checkpoint(4).exists()


def test_random_numbers_and_threads_of_the_caller_are_as_before(tiny: Load, tmp_path: Path):
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    rankdet.train(tiny(), out=tmp_path / "run", console=QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_recipes_are_changed_by_mappings_texts_and_data(
    tiny: Load, tiny_file: Path, shapes_folder: Path, tmp_path: Path
):
    run = rankdet.train(
        str(tiny_file), data=str(shapes_folder), out=str(tmp_path / "a"),
        changes={"schedule.iterations": 1, "runtime.tensorboard": False}, console=QUIET,
    )  # fmt: skip
    assert run.model.origin.recipe.data.folder == shapes_folder.resolve()
    rankdet.train(tiny(), out=tmp_path / "b", changes=["schedule.iterations=1"], console=QUIET)
    assert Run(tmp_path / "b").checkpoint(1).exists()
    with pytest.raises(InputError, match=r"schedule\.iteration: unknown field; did you mean 'iterations'"):
        rankdet.train(tiny(), out=tmp_path / "c", changes={"schedule.iteration": 1})
    with pytest.raises(InputError, match=r"name a recipe .*, data for a small one, or a run to resume"):
        rankdet.train()
    with pytest.raises(InputError, match="give neither out nor weights"):
        rankdet.train(resume=tmp_path / "a", out=tmp_path / "d")
    with pytest.raises(InputError, match="a resumed run has its own recipe"):
        rankdet.train("rs_faster_rcnn_shapes", resume=tmp_path / "a")
    one = rankdet.train(tiny(), out=tmp_path / "e", changes="schedule.iterations=1", console=QUIET)
    assert one.model.origin.recipe.schedule.iterations == 1


class Renamed(Squares):
    classes = ("large", "small")


class Nowhere(Squares):
    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        image, target = super().__getitem__(index)
        return image, target | {"boxes": target["boxes"] + 100}


class Broken(Squares):
    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        if index == 2:
            raise KeyError("no such file")
        return super().__getitem__(index)


def test_a_model_is_not_measured_on_other_classes(short: Recipe, tmp_path: Path):
    model = rankdet.train(short, out=tmp_path / "run", datasets=(Squares(), None), console=QUIET).model
    with pytest.raises(InputError, match=r"the classes of the data are .*large.*small.*, those of the model"):
        rankdet.evaluate(model, Renamed())
    with pytest.raises(InputError, match="data has no images"):
        rankdet.evaluate(model, Squares(0))
    with pytest.raises(InputError, match="ranking is measured on a data folder"):
        rankdet.evaluate(model, Squares(), ranking=True)
    assert rankdet.evaluate(tmp_path / "run", Squares(3))["AP"] == rankdet.evaluate(model, Squares(3))["AP"]


def test_data_with_nothing_to_learn_from_are_refused(short: Recipe, tmp_path: Path):
    with pytest.raises(InputError, match="train_set: no image has an object to learn from"):
        rankdet.train(short, out=tmp_path / "run", datasets=(Nowhere(), None), console=QUIET)
    with pytest.raises(InputError, match="train_set has no images"):
        rankdet.train(short, out=tmp_path / "run", datasets=(Squares(0), None), console=QUIET)


def test_an_error_of_a_data_set_names_the_item(short: Recipe, tmp_path: Path):
    with pytest.raises(KeyError, match="no such file") as raised:
        rankdet.train(short, out=tmp_path / "run", datasets=(Broken(), None), console=QUIET)
    if sys.version_info >= (3, 11):  # Python 3.10 has no notes
        assert raised.value.__notes__ == ["raised by train_set[2]"]


def test_arguments_that_exclude_each_other_are_refused(short: Recipe, tmp_path: Path):
    with pytest.raises(InputError, match="give a data folder or datasets, not both"):
        rankdet.train(short, data=tmp_path, datasets=(Squares(), None))
    with pytest.raises(InputError, match="classes are those of datasets"):
        rankdet.train(short, data=tmp_path, classes=["a"])


def test_a_run_with_data_sets_is_resumed_with_them_alone(short: Recipe, tmp_path: Path):
    rankdet.train(short, out=tmp_path / "run", datasets=(Squares(), None), console=QUIET)
    with pytest.raises(InputError, match=r"was started with datasets = .*:Squares, pass it again"):
        rankdet.train(resume=tmp_path / "run", console=QUIET)


class ReturnedLoss(nn.Module):
    """A loss that returns what a test gives it."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, candidates: Candidates) -> Any:
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "LossOutput, not NoneType"),
        (torch.tensor(1.0), "LossOutput, not Tensor"),
        (LossOutput({}, {}), "LossOutput with at least one term"),
        (LossOutput({"a": torch.zeros(2)}, {}), r"LossOutput of scalar tensors; 'a' is of shape \(2,\)"),
        (LossOutput({"a": torch.tensor(0.0)}, {"b": 1.0}), "LossOutput of scalar tensors; 'b' is a float"),
    ],
)
def test_a_loss_that_returns_something_else_is_named(output: Any, message: str, short: Recipe, tmp_path: Path):
    losses = {"rcnn": ReturnedLoss(output)}
    with pytest.raises(InputError, match=rf"the loss of head 'rcnn' \(ReturnedLoss\) must return a {message}"):
        rankdet.train(short, out=tmp_path / "run", losses=losses, datasets=(Squares(), None), console=QUIET)


def test_a_loss_with_parameters_is_refused(short: Recipe, tmp_path: Path):
    loss = SumLoss()
    loss.factor = nn.Parameter(torch.ones(()))
    with pytest.raises(InputError, match=r"the loss of head 'rcnn' \(SumLoss\) has parameters"):
        rankdet.train(short, out=tmp_path / "run", losses={"rcnn": loss}, datasets=(Squares(), None), console=QUIET)


class Exiting:
    """Callbacks that leave Python in the first record of the log."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        raise SystemExit(7)

    def on_evaluation(self, record: Mapping[str, Any]) -> None: ...

    def on_end(self, run: rankdet.TrainedRun) -> None: ...


def test_callbacks_are_looked_at_before_training(tiny: Load, tmp_path: Path):
    with pytest.raises(InputError, match="callback object has no method on_log, on_evaluation, on_end"):
        rankdet.train(tiny(), out=tmp_path / "run", callbacks=[object()])
    with pytest.raises(InputError, match="callbacks must be a list"):
        rankdet.train(tiny(), out=tmp_path / "run", callbacks=Exiting())


def test_a_callback_that_exits_leaves_a_checkpoint(tiny: Load, tmp_path: Path):
    with pytest.raises(SystemExit):
        rankdet.train(tiny("runtime.log_interval=1"), out=tmp_path / "run", callbacks=[Exiting()], console=QUIET)
    assert Run(tmp_path / "run").checkpoints()
