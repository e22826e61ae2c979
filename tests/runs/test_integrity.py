"""A checkpoint is read as it was written, or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from rankdet.backbones.weights import read_tensors
from rankdet.importing.reading import read_foreign
from rankdet.inference.loading import load
from rankdet.recipes import Recipe
from rankdet.runs.checkpoint import load_checkpoint, load_weights, save_checkpoint
from rankdet.runs.folder import Run, written_whole
from rankdet.structures import DamagedError, InputError
from rankdet.training.running import train

Load = Callable[..., Recipe]
QUIET = Console(quiet=True)


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_whatever_bit_flips_what_is_read_is_what_was_written(tmp_path: Path):
    path, value = tmp_path / "a.pt", torch.arange(64.0)
    save_checkpoint(path, {"iteration": 7, "detector": {"weight": value}})
    sound = path.read_bytes()
    refused = 0
    for place in range(0, len(sound), 3):
        flip(path, place, place % 8)
        try:
            state = load_checkpoint(path)
        except InputError:
            refused += 1
        else:
            assert torch.equal(state["detector"]["weight"], value), place
            assert state["iteration"] == 7
        path.write_bytes(sound)
    assert refused > 200  # the rest is padding


@pytest.mark.parametrize("read", [load_checkpoint, read_foreign, read_tensors])
def test_every_reader_of_tensors_asks_for_the_checksums(read: Callable[[Path], object], tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.full((1000,), 0.5)}, path)
    flip(path, path.read_bytes().index(torch.full((1000,), 0.5).numpy().tobytes()) + 2000)
    with pytest.raises(DamagedError, match=r"a\.pt is damaged: .*data/0 in it does not have its checksum"):
        read(path)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(DamagedError, match=r"pipe\.pt is no regular file"):
        load_checkpoint(tmp_path / "pipe.pt")


def test_a_resumed_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_bits(tiny: Load, tmp_path: Path):
    recipe = tiny("schedule.iterations=4", "runtime.keep_checkpoints=3")
    train(recipe, out=tmp_path / "run", console=QUIET)
    whole = load_checkpoint(Run(tmp_path / "run").checkpoint(4))
    newest = Run(tmp_path / "run").checkpoint(4)
    flip(newest, newest.stat().st_size // 2)
    with pytest.raises(DamagedError):
        load(tmp_path / "run")
    console = Console(record=True, width=1000, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    train(resume=tmp_path / "run", console=console)
    text = console.export_text()
    console.file.close()
    assert "iteration_00000004.pt is damaged: " in text
    assert "it is set aside, and the run goes on from iteration_00000002.pt" in text
    assert newest.with_name("iteration_00000004.pt.damaged").exists()
    again = load_checkpoint(newest)["detector"]
    assert all(torch.equal(value, again[name]) for name, value in whole["detector"].items())


def test_where_all_checkpoints_are_damaged_the_run_folder_is_left_alone(tiny: Load, tmp_path: Path):
    train(tiny(), out=tmp_path / "run", console=QUIET)
    for path in Run(tmp_path / "run").checkpoints():
        path.write_bytes(path.read_bytes()[:-100])
    before = sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(InputError, match=r"00000004\.pt is damaged .*run holds no other to go on from"):
        train(resume=tmp_path / "run", console=QUIET)
    assert sorted((tmp_path / "run").rglob("*")) == before


def test_a_checkpoint_of_an_impossible_iteration_is_refused(tiny: Load, tmp_path: Path):
    train(tiny(), out=tmp_path / "run", console=QUIET)
    path = Run(tmp_path / "run").latest_checkpoint()
    save_checkpoint(path, load_checkpoint(path) | {"iteration": -3})
    with pytest.raises(InputError, match="does not fit: a run has no iteration -3"):
        train(resume=tmp_path / "run", console=QUIET)


@pytest.mark.parametrize("entry", ["exp_avg", "step"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_state_that_does_not_fit_to_the_optimizer_is_told_in_one_line(
    entry: str, is_gone: bool, tiny: Load, tmp_path: Path
):
    train(tiny("schedule.iterations=2"), out=tmp_path / "run", console=QUIET)
    path = Run(tmp_path / "run").latest_checkpoint()
    state = load_checkpoint(path)
    first = state["optimizer"]["state"][0]
    first[entry] = "x"
    if is_gone:
        del first[entry]
    save_checkpoint(path, state)
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("iterations: 2\n", "iterations: 3\n", 1))
    with pytest.raises(InputError, match=r"00000002\.pt does not fit: \w+: ") as raised:
        train(resume=tmp_path / "run", console=QUIET)
    assert "\n" not in str(raised.value)


def test_a_model_whose_parts_are_no_mapping_is_refused(tiny: Load, tmp_path: Path):
    train(tiny(), out=tmp_path / "run", console=QUIET)
    path = Run(tmp_path / "run").latest_checkpoint()
    save_checkpoint(path, load_checkpoint(path) | {"parts": None})
    with pytest.raises(InputError, match="does not fit: parts is of type NoneType"):
        load(path)


def test_weights_that_are_not_finite_are_named_and_not_used(tmp_path: Path):
    weights = nn.Linear(2, 2).state_dict()
    weights["bias"][1] = torch.nan
    with pytest.raises(InputError, match=r"a\.pt is of no use: its weight bias is not finite"):
        load_weights(nn.Linear(2, 2), weights, tmp_path / "a.pt")


def test_the_next_writer_deletes_what_a_killed_one_left_and_nothing_of_one_that_lives(tmp_path: Path):
    path = tmp_path / "a.pt"
    if (child := os.fork()) == 0:
        with written_whole(path) as part:
            part.write_text("a part")
            os._exit(0)  # as if killed: nothing is tidied up
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    alive = left.with_name(left.name.replace(str(child), str(os.getppid())))
    shutil.copy(left, alive)
    save_checkpoint(path, {})
    assert sorted(tmp_path.iterdir()) == sorted([alive, path])


@pytest.mark.parametrize("iteration", [2, 4])
def test_a_log_that_is_deleted_while_a_run_goes_on_is_written_again(iteration: int, tiny: Load, tmp_path: Path):
    class Deleting:
        def on_log(self, record: dict) -> None:
            if record["iteration"] == iteration:
                Run(tmp_path / "run").log.unlink()

        def on_evaluation(self, record: dict) -> None: ...

        def on_end(self, run: object) -> None: ...

    train(tiny("runtime.log_interval=1"), out=tmp_path / "run", console=QUIET, callbacks=[Deleting()])
    lines = Run(tmp_path / "run").log.read_text().splitlines()
    assert [line.count('"iteration": ') for line in lines] == [1, 1, 1, 1]
