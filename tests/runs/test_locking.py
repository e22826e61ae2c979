"""One training has a run folder, and a kill gives it back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Timer

import pytest
from rich.console import Console

from rankdet.recipes import Recipe
from rankdet.runs.folder import Run
from rankdet.runs.locking import locked, take_lock
from rankdet.structures import InputError
from rankdet.training.running import train

Load = Callable[..., Recipe]
HOLDER = """
import os, sys, time
from pathlib import Path
from rankdet.runs.folder import Run

with Run(Path(sys.argv[1])).locked():
    if os.fork() == 0:  # as a worker that reads images and does not yet know that its training is gone
        time.sleep(60)
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_that_of_one_process_until_it_is_killed_whatever_its_workers_do(tmp_path: Path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        message = rf"run is that of a training that goes on, by process {process.pid} on "
        with pytest.raises(InputError, match=message), Run(tmp_path / "run").locked():
            pass
        process.kill()
        process.wait()
        with Run(tmp_path / "run").locked():
            os.killpg(process.pid, signal.SIGKILL)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_is_no_other_threads_or_callers_either(tmp_path: Path):
    with locked(tmp_path / "a", "used by"):
        with (
            pytest.raises(InputError, match=f"used by process {os.getpid()}"),
            locked(tmp_path / "a", "used by"),
        ):
            pass
        with locked(tmp_path / "b", ""):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_waited_for_as_long_as_asked_and_it_is_said(tmp_path: Path):
    run, said, before = Run(tmp_path / "run"), [], ExitStack()
    before.enter_context(run.locked())
    with pytest.raises(InputError, match="goes on"), run.locked(0.1, said.append):
        pass
    end = Timer(0.5, before.close)  # which also removes the empty folder
    end.start()
    with run.locked(60.0, said.append):
        assert (tmp_path / "run" / ".training").exists()
    end.join()
    assert [line.partition("; ")[2] for line in said] == [f"waiting at most {most} s for its end" for most in (0, 60)]


def test_a_lock_of_a_file_that_is_deleted_meanwhile_is_one_of_the_new_file(tmp_path: Path, monkeypatch):
    path, files = tmp_path / "a", []
    opened = os.open

    def opening(*arguments: object) -> int:
        files.append(opened(*arguments))
        if len(files) == 1:
            path.unlink()
        return files[-1]

    monkeypatch.setattr(os, "open", opening)
    descriptor = take_lock(path)
    assert descriptor is not None
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    os.close(descriptor)


def test_a_folder_that_was_made_for_a_training_that_could_not_start_is_gone(tiny: Load, tmp_path: Path):
    with pytest.raises(InputError, match="nowhere"):
        train(tiny("data.folder=/nowhere"), out=tmp_path / "run", console=Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_a_second_training_is_refused_and_the_first_goes_on(tiny: Load, tmp_path: Path):
    refused = []

    class Intruding:
        def on_log(self, record: dict) -> None:
            for options in ({"recipe": tiny(), "out": tmp_path / "run"}, {"resume": tmp_path / "run"}):
                with pytest.raises(InputError, match="is that of a training that goes on") as error:
                    train(console=Console(quiet=True), **options)
                refused.append(str(error.value))

        def on_evaluation(self, record: dict) -> None: ...

        def on_end(self, run: object) -> None: ...

    run = train(tiny(), out=tmp_path / "run", console=Console(quiet=True), callbacks=[Intruding()])
    assert len(refused) == 4
    assert run.signal is None
    assert not (tmp_path / "run" / ".training").exists()


def test_images_that_never_come_do_not_keep_a_training_from_stopping(tiny_file: Path, tmp_path: Path):
    script = """
import sys, time
from rankdet.data import CocoDataset
from rankdet.training.running import train

CocoDataset.__getitem__ = lambda self, key: print("waiting", flush=True) or time.sleep(600)
run = train(sys.argv[1], out=sys.argv[2], changes=["data.workers=1"])
print("signal", run.signal)
"""
    command = [sys.executable, "-c", script, str(tiny_file), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "waiting\n":
            assert process.poll() is None
        start = time.monotonic()
        process.send_signal(signal.SIGUSR1)
        assert f"signal {signal.SIGUSR1.value}\n" in process.stdout.read()
        assert process.wait() == 0
        assert time.monotonic() - start < 60
    assert [path.name for path in Run(tmp_path / "run").checkpoints()] == ["iteration_00000000.pt"]
