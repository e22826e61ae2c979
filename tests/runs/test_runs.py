"""Checkpoints, run folders and signals: what lies on disk, and who writes."""

import errno
import json
import math
import os
import pickle
import random
import resource
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from rankdet.runs.checkpoint import (
    load_checkpoint,
    load_weights,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from rankdet.runs.folder import Run, output_folder, write_json
from rankdet.runs.signals import StopRequest, WaitEnded
from rankdet.structures import InputError
from rankdet.training.logging import RunLog

CPU = torch.device("cpu")


def test_checkpoint_comes_back_as_it_was(tmp_path: Path):
    path = tmp_path / "a.pt"
    state = {"iteration": 3, "detector": {"w": torch.randn(3)}, "random": random_state(CPU), "categories": [[1, "a"]]}
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["detector"]["w"], state["detector"]["w"])
    assert loaded["categories"] == [[1, "a"]]
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can become larger than ``size`` bytes, as on a disk that becomes full in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_failed_write_leaves_the_old_checkpoint_and_no_part(tmp_path: Path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"iteration": 1})
    before = path.read_bytes()
    message = r"cannot write checkpoint .*a\.pt: the disk may be full; earlier checkpoints are intact"
    with full_disk(100_000), pytest.raises(InputError, match=message):
        save_checkpoint(path, {"iteration": 2, "weights": torch.zeros(1_000_000)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert load_checkpoint(path)["iteration"] == 1


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_damaged_checkpoint_is_named(content: bytes, tmp_path: Path):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt is damaged or no checkpoint"):
        load_checkpoint(path)


def test_file_of_another_program_and_missing_file_are_named(tmp_path: Path):
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt is no checkpoint"):
        load_checkpoint(tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"none\.pt: No such file"):
        load_checkpoint(tmp_path / "none.pt")


def test_pickle_of_another_program_is_refused_without_a_warning(tmp_path: Path):
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"model": [1, 2]}))
    with pytest.raises(InputError, match=r"other\.pkl is "):
        load_checkpoint(tmp_path / "other.pkl")


def test_weights_of_another_network_are_named(tmp_path: Path):
    path = tmp_path / "a.pt"
    for weights, message in (
        ({"weight": torch.zeros(2, 2)}, "a.pt does not fit: it has no weight bias"),
        (nn.Linear(3, 2).state_dict(), r"weight weight is \(2, 3\), not \(2, 2\)"),
        (nn.Linear(2, 2).state_dict() | {"more": torch.zeros(1)}, "has no weight more"),
    ):
        with pytest.raises(InputError, match=message):
            load_weights(nn.Linear(2, 2), weights, path)


def test_random_numbers_go_on_where_they_were():
    state = random_state(CPU)
    expected = (torch.rand(3), random.random())
    restore_random_state(state, CPU)
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path):
    run = Run(tmp_path)
    run.create()
    for iteration in (5, 10, 100):
        save_checkpoint(run.checkpoint(iteration), {})
    run.delete_old_checkpoints(keep=2)
    assert [path.name for path in run.checkpoints()] == ["iteration_00000010.pt", "iteration_00000100.pt"]
    assert run.latest_checkpoint() == run.checkpoint(100)


def test_text_that_cannot_be_written_is_named(tmp_path: Path):
    log = RunLog(Run(tmp_path), start=0, tensorboard=False)
    with full_disk(1000):
        with pytest.raises(InputError, match=r"cannot write .*log\.jsonl: File too large"):
            log.write({"iteration": 1, "text": "x" * 2000})
        log.close()
        with pytest.raises(InputError, match=r"cannot write .*a\.json: File too large"):
            write_json(tmp_path / "a.json", "x" * 2000)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    with pytest.raises(InputError, match=r"cannot write .*a\.json: Not a directory"):
        write_json(tmp_path / "log.jsonl" / "a.json", {})


def test_output_folder_is_made_and_an_empty_one_goes_again(tmp_path: Path):
    out = tmp_path / "a" / "b"
    with output_folder(out):
        (out / "kept").touch()
    with pytest.raises(InputError, match=r"cannot write into .*: .*No space"), output_folder(tmp_path / "c"):
        raise OSError(errno.ENOSPC, "No space")
    assert out.is_dir()
    assert not (tmp_path / "c").exists()
    with pytest.raises(InputError, match=r"cannot make folder .*: Not a directory"), output_folder(out / "kept" / "d"):
        pass


def test_written_json_is_standard(tmp_path: Path):
    write_json(tmp_path / "a.json", {"AP": math.nan, "rows": [math.inf, 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"AP": None, "rows": [None, 1.0]}


@pytest.fixture
def default_interrupt() -> Iterator[None]:
    """SIGINT as Python has it in the foreground: a shell ignores it for what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_interrupt")
def test_signal_is_remembered_and_the_next_one_has_its_usual_effect():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.usefixtures("default_interrupt")
def test_under_torchrun_which_repeats_signals_the_next_one_has_no_effect(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with StopRequest() as stop:
        with pytest.raises(WaitEnded), stop.ending_waits():
            os.kill(os.getpid(), signal.SIGUSR1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert stop.signal == signal.SIGUSR1
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


class Signalling:
    """Something at whose end a signal comes."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_signal_in_a_finalizer_is_remembered_and_says_nothing(capfd: pytest.CaptureFixture[str]):
    """Python ignores what is raised there, and would print it."""
    with StopRequest() as stop:
        with stop.ending_waits():
            Signalling()
        assert stop.signal == signal.SIGTERM
        with pytest.raises(WaitEnded), stop.ending_waits():
            pytest.fail("the next wait does not begin")
    assert capfd.readouterr().err == ""


def test_other_errors_that_python_ignores_are_printed_as_before(monkeypatch: pytest.MonkeyPatch):
    """But for what torch raises, wherever it may be, of a worker that was killed: the next wait for it tells."""
    heard: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: heard.append(str(ignored.exc_value)))
    hook = sys.unraisablehook

    class Failing:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __del__(self) -> None:
            raise self.error

    with StopRequest():
        Failing(OSError("cannot close"))
        Failing(RuntimeError("DataLoader worker (pid 8) is killed by signal: Killed. "))
    assert heard == ["cannot close"]
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("has_links", [True, False])
def test_a_best_checkpoint_outlasts_a_loss_of_power(has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its copy is on the disk before it takes its name, and the folder that has the name afterwards."""
    run = Run(tmp_path)
    run.create()
    save_checkpoint(run.checkpoint(5), {"iteration": 5})
    synced: list[tuple[bool, bool]] = []

    def remember(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append((is_folder, run.best_checkpoint.exists()))

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", remember)
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    run.keep_as_best(5)
    assert synced == ([] if has_links else [(False, False)]) + [(True, True)]


def test_what_a_killed_process_left_of_a_best_checkpoint_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The part is a second name of an older checkpoint; a copy into it would replace that one, too."""
    run = Run(tmp_path)
    run.create()
    for iteration in (5, 10):
        save_checkpoint(run.checkpoint(iteration), {"iteration": iteration})
    os.link(run.checkpoint(5), tmp_path / "checkpoints" / f".best.pt.{os.getpid()}.part")

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run.keep_as_best(10)
    found = [load_checkpoint(path)["iteration"] for path in (run.checkpoint(5), run.best_checkpoint)]
    assert found == [5, 10]
