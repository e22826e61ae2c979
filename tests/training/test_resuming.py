"""A run goes on with what has changed: its length, the place of its data, images per iteration, processes."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from rankdet import cli
from rankdet.recipes import Recipe
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.folder import Run, read_log
from rankdet.structures import InputError
from rankdet.training.running import train

Load = Callable[..., Recipe]


def start(recipe: Recipe, folder: Path) -> None:
    train(recipe, out=folder, console=Console(quiet=True))


def resume(folder: Path, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=300)
    train(resume=folder, console=console, **options)
    return console.file.getvalue()


def rates(folder: Path) -> dict[int, float]:
    return {row["iteration"]: row["lr"] for row in read_log(Run(folder).log) if row["kind"] == "train"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(Run(folder).latest_checkpoint())["detector"]


SCHEDULES = {
    "step": "schedule={type: step, iterations: 3, milestones: [0.5], warmup_iterations: 1}",
    "cosine": "schedule={type: cosine, iterations: 3, warmup_iterations: 1}",
    "warm-up": "schedule={type: step, iterations: 3, milestones: [0.9], warmup_iterations: 5}",
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("length", [5, 6])
def test_a_finished_run_is_extended_as_if_it_had_been_as_long_from_the_start(
    schedule: str, length: int, tiny: Load, tmp_path: Path
):
    each = ("runtime.log_interval=1", "runtime.keep_checkpoints=9")
    start(tiny(SCHEDULES[schedule], *each), tmp_path / "run")
    text = resume(tmp_path / "run", changes={"schedule.iterations": length})
    assert f"changed: schedule.iterations 3 → {length}\n" in text
    start(tiny(SCHEDULES[schedule], f"schedule.iterations={length}", *each), tmp_path / "whole")
    expected, found = rates(tmp_path / "whole"), rates(tmp_path / "run")
    assert list(found) == list(range(1, length + 1))
    assert {k: found[k] for k in range(4, length + 1)} == {k: expected[k] for k in range(4, length + 1)}
    assert yaml.safe_load(Run(tmp_path / "run").recipe.read_text())["schedule"]["iterations"] == length
    assert "changed" not in resume(tmp_path / "run")


def test_a_run_is_extended_bit_for_bit_where_the_learning_rate_does_not_depend_on_its_length(
    tiny: Load, tmp_path: Path
):
    constant = "schedule={type: step, milestones: [], warmup_iterations: 0, iterations: 2}"
    start(tiny(constant), tmp_path / "run")
    resume(tmp_path / "run", changes=["schedule.iterations=5"])
    start(tiny(constant, "schedule.iterations=5"), tmp_path / "whole")
    first, second = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_epochs_are_extended_and_an_edited_recipe_counts(tiny: Load, tmp_path: Path):
    start(tiny("schedule.iterations=null", "schedule.epochs=0.25"), tmp_path / "run")
    recipe = Run(tmp_path / "run").recipe
    recipe.write_text(recipe.read_text().replace("epochs: 0.25", "epochs: 0.5"))
    assert "changed: schedule.epochs 0.25 → 0.5" in resume(tmp_path / "run")
    state = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    images = state["data"]["samples"]
    assert state["iteration"] == math.ceil(0.5 * math.ceil(images / 2))


def test_a_length_in_iterations_becomes_one_in_epochs(tiny: Load, tmp_path: Path):
    start(tiny("schedule.iterations=3"), tmp_path / "run")
    resume(tmp_path / "run", changes={"schedule.iterations": None, "schedule.epochs": 0.5})
    state = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    assert state["iteration"] == math.ceil(0.5 * math.ceil(state["data"]["samples"] / 2))
    assert state["shift"] == 0


@pytest.mark.parametrize("asked", [{"schedule.iterations": 2}, {"schedule.iterations": None, "schedule.epochs": 0.01}])
def test_less_than_is_done_is_refused(asked: dict[str, Any], tiny: Load, tmp_path: Path):
    start(tiny("schedule.iterations=4"), tmp_path / "run")
    with pytest.raises(InputError, match=r"is at iteration 4, and the run is to have \d: ask for more"):
        resume(tmp_path / "run", changes=asked)
    assert "all 4 iterations are done; schedule.iterations=N" in resume(tmp_path / "run")


@pytest.mark.parametrize("name", ["other", "with spaces/and [brackets]", "ünï/00"])
def test_data_that_have_moved_are_named_and_go_on_bit_for_bit(
    name: str, tiny: Load, shapes_folder: Path, tmp_path: Path
):
    first, second = tmp_path / "first", tmp_path / name
    shutil.copytree(shapes_folder, first)
    start(tiny(f"data.folder={first}", "schedule.iterations=2"), tmp_path / "run")
    second.parent.mkdir(exist_ok=True)
    first.rename(second)
    with pytest.raises(
        InputError, match=r"first: there is no such place; where the data .* have moved, .* --data FOLDER"
    ):
        resume(tmp_path / "run")
    text = resume(tmp_path / "run", data=second, changes={"schedule.iterations": 4})
    assert f"data.folder {first} → {second}" in text
    assert "warning" not in text
    start(tiny("schedule.iterations=2"), tmp_path / "whole")
    resume(tmp_path / "whole", changes={"schedule.iterations": 4})
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(value, expected[key]) for key, value in weights(tmp_path / "run").items())


def changed_box(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"][2] -= 1


def fewer_images(content: dict[str, Any]) -> None:
    gone = content["images"].pop()["id"]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != gone]


def other_class(content: dict[str, Any]) -> None:
    ids = [category["id"] for category in content["categories"]]
    content["annotations"][0]["category_id"] = next(i for i in ids if i != content["annotations"][0]["category_id"])


@pytest.mark.parametrize("change", [changed_box, fewer_images, other_class])
def test_other_data_are_told_and_the_run_goes_on(
    change: Callable[[dict[str, Any]], None], tiny: Load, shapes_folder: Path, tmp_path: Path
):
    start(tiny("schedule.iterations=2"), tmp_path / "run")
    folder = tmp_path / "data"
    shutil.copytree(shapes_folder, folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    text = resume(tmp_path / "run", data=folder, changes={"schedule.iterations": 4})
    assert "warning: the training data are not those of the checkpoint: " in text
    assert ("images" in text.partition("of the checkpoint")[2].partition(";")[0]) is True
    assert "warning" not in resume(tmp_path / "run")


@pytest.mark.parametrize("batch", [("data.batch_size=1",), ("data.batch_size=4",), ("runtime.accumulation=3",)])
def test_other_images_per_iteration_go_on_where_the_stream_was(batch: tuple[str, ...], tiny: Load, tmp_path: Path):
    start(tiny("schedule.iterations=3"), tmp_path / "run")
    text = resume(tmp_path / "run", changes=["schedule.iterations=5", *batch])
    field, _, value = batch[0].partition("=")
    assert f"{field} {2 if 'batch' in field else 1} → {value}" in text
    assert "the stream of images goes on after 6 images, in other batches: the result is not bit for bit" in text
    images = {"data.batch_size=1": 1, "data.batch_size=4": 4, "runtime.accumulation=3": 6}[batch[0]]
    state = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    assert (state["iteration"], state["samples"], state["shift"]) == (5, 6 + 2 * images, 0)


def test_accumulation_in_place_of_a_larger_batch_draws_the_same_images(tiny: Load, tmp_path: Path):
    """Two images, or twice one of the same stream: after as many images both are at the same place."""
    start(tiny("schedule.iterations=2", "runtime.accumulation=2"), tmp_path / "run")
    resume(tmp_path / "run", changes=["schedule.iterations=4", "runtime.accumulation=1"])
    assert load_checkpoint(Run(tmp_path / "run").latest_checkpoint())["samples"] == 2 * 4 + 2 * 2


def test_epochs_go_on_at_the_epoch_that_was_reached(tiny: Load, tmp_path: Path):
    start(tiny("schedule.iterations=null", "schedule.epochs=1", "runtime.checkpoint_interval=1"), tmp_path / "run")
    whole = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    Run(tmp_path / "run").latest_checkpoint().unlink()
    before = whole["iteration"] - 1
    resume(tmp_path / "run", changes={"data.batch_size": 1, "schedule.epochs": 1.25})
    state = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    place = 2 * before  # twice as many iterations of half as many images
    assert state["shift"] == before - place
    assert state["iteration"] - state["shift"] == math.ceil(1.25 * state["data"]["samples"])
    assert [row["iteration"] for row in read_log(Run(tmp_path / "run").log)][-1] == state["iteration"]
    resume(tmp_path / "run", changes={"schedule.epochs": 1.5})
    again = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    assert again["iteration"] - again["shift"] == math.ceil(1.5 * again["data"]["samples"])


def test_what_makes_it_another_training_is_refused_all_at_once(tiny: Load, tmp_path: Path):
    start(tiny("schedule.iterations=1"), tmp_path / "run")
    message = r"optimizer\.lr=0\.5, and it was trained with 0\.003; .*seed=3|seed=3, .*optimizer\.lr=0\.5"
    with pytest.raises(InputError, match=message):
        resume(tmp_path / "run", changes={"optimizer.lr": 0.5, "seed": 3})


def test_a_checkpoint_that_knows_nothing_of_its_data_goes_on(tiny: Load, tmp_path: Path):
    start(tiny("schedule.iterations=2"), tmp_path / "run")
    path = Run(tmp_path / "run").latest_checkpoint()
    state = load_checkpoint(path)
    for name in ("samples", "shift", "data"):
        del state[name]
    save_checkpoint(path, state)
    assert "warning" not in resume(tmp_path / "run", changes={"schedule.iterations": 3})
    assert load_checkpoint(Run(tmp_path / "run").latest_checkpoint())["samples"] == 6


STAGES = """
import json, os, socket, sys
from pathlib import Path
from rich.console import Console
from torch import nn
import rankdet.losses, hotcoco
from rankdet.detectors import FasterRCNN
from rankdet.training.running import train

folder = Path(sys.argv[1])


def see(stage, rank):
    def note(module, arguments):
        if isinstance(module, FasterRCNN):
            with open(folder / f"images{stage}_{rank}", "a") as file:
                file.writelines(f"{Path(source.path).name}\\n" for source in arguments[0].sources)

    nn.modules.module.register_module_forward_pre_hook(note)


for stage, (processes, moved, arguments) in enumerate(json.loads(sys.argv[2])):
    for old, new in moved.items():
        Path(old).rename(new)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        children.append(os.fork())  # nothing but imports has happened here
        if children[-1] == 0:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank))
            os.environ["WORLD_SIZE"] = str(processes)
            see(stage, rank)
            with open(folder / f"said{stage}_{rank}", "w") as file:
                train(console=Console(file=file, width=300), **arguments)
            os._exit(0)
    assert not any(os.waitpid(child, 0)[1] for child in children)
"""


def test_two_processes_become_one_and_three_and_an_epoch_has_every_image_once(
    tiny_file: Path, shapes_folder: Path, tmp_path: Path
):
    """Each time with other workers, and at last the data have moved."""
    folder, data, moved = (str(tmp_path / name) for name in ("run", "data", "moved"))
    shutil.copytree(shapes_folder, data)
    first = {"data.folder": data, "schedule.iterations": 2, "runtime.log_interval": 1}
    stages = [
        (2, {}, {"recipe": str(tiny_file), "out": folder, "changes": first}),
        (1, {}, {"resume": folder, "changes": {"schedule.iterations": 4, "data.workers": 1}}),
        (3, {data: moved}, {"resume": folder, "data": moved, "changes": {"schedule.iterations": 6, "data.workers": 0}}),
    ]
    script = tmp_path / "stages.py"
    script.write_text(STAGES)
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path), json.dumps(stages)], capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    second, third = (tmp_path.joinpath(f"said{stage}_0").read_text() for stage in (1, 2))
    assert "2 → 1 processes" in second
    assert "goes on after 8 images" in second
    assert "1 → 3 processes" in third
    assert "goes on after 12 images" in third
    seen = {path.name: path.read_text().split() for path in tmp_path.glob("images*")}
    expected = {"0_0": 4, "0_1": 4, "1_0": 4, "2_0": 4, "2_1": 4, "2_2": 4}
    assert {name: len(images) for name, images in seen.items()} == {f"images{k}": n for k, n in expected.items()}
    state = load_checkpoint(Run(Path(folder)).latest_checkpoint())
    different = {name for images in seen.values() for name in images}
    assert state["samples"] == state["data"]["samples"] == len(different) == 24
    assert state["world_size"] == len(state["random_states"]) == len(state["statistics"]) == 3
    assert state["stream"] == [[4, 2], [2, 2]]
    assert [row["iteration"] for row in read_log(Run(Path(folder)).log)] == list(range(1, 7))


def test_the_same_command_begins_a_run_goes_on_with_it_and_ends_where_it_has_ended(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"

    def again(*changes: str) -> str:
        command = ["rankdet", "train", str(tiny_file), "--out", str(folder), "--resume-if-exists", *changes]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return said.err if caught.value.code else said.out

    assert "going on" not in again("runtime.keep_checkpoints=9")
    expected = weights(folder)
    Run(folder).checkpoint(4).unlink()
    assert "going on at iteration 2" in again("runtime.keep_checkpoints=9")
    assert all(torch.equal(value, expected[name]) for name, value in weights(folder).items())
    assert "all 4 iterations are done" in again("runtime.keep_checkpoints=9")
    assert "optimizer.lr=0.5, and it was trained with 0.003" in again("optimizer.lr=0.5")
    with pytest.raises(InputError, match="nor resume_if_exists"):
        train(resume=folder, resume_if_exists=True)


def test_the_command_line_takes_fields_and_the_folder(
    tiny_file: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    folder, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(shapes_folder, moved)
    train(tiny_file, out=folder, console=Console(quiet=True))
    for arguments in (["schedule.iterations=5"], ["--data", str(moved), "schedule.iterations=6", "data.workers=1"]):
        monkeypatch.setattr(sys, "argv", ["rankdet", "train", "--resume", str(folder), *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code
        assert "changed: " in capsys.readouterr().out
    assert Run(folder).latest_checkpoint().name == "iteration_00000006.pt"
