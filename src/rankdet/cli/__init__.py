"""The command line. torch is imported inside of the commands that need it, so that ``--help`` answers at once."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from contextlib import suppress
from threading import Event
from typing import Annotated, NoReturn

from rankdet.extras import require

require(__name__)

import typer

from rankdet import __version__
from rankdet.cli import data, deploying, experiments, models
from rankdet.cli.failures import reason_of
from rankdet.runs.memory import keep_freed_memory

SECONDS_TO_TELL = 30.0
"""How long a process of torchrun waits for the main process, which may be as much later at the same mistake."""
SECONDS_TO_END = 5.0
"""How long a process waits to be ended where no store of torchrun says what the main process has done."""

app = typer.Typer(
    help="Object detectors trained with ranking-based losses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(models.train)
app.command()(models.evaluate)
app.command()(models.report)
app.command()(models.detect)
app.command()(deploying.calibrate)
app.command()(deploying.sweep)
app.command()(deploying.export)
app.command()(deploying.explain)
app.command(name="import")(models.import_foreign)
app.command()(data.doctor)
app.command()(data.look)
app.command()(data.convert)
app.command()(experiments.reproduce)
app.command(name="list")(experiments.list_recipes)
app.command()(experiments.show)
app.command()(data.make_shapes)
app.command()(experiments.demo)


def main() -> None:
    """Run a command; bad input becomes a message on standard error and exit status 2, or 3 where training diverged."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every character of a file name
    keep_freed_memory()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as status:
        if isinstance(status.__context__, BrokenPipeError):
            _end_of_pipe()
        raise
    except BrokenPipeError:
        _end_of_pipe()
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        from rankdet.runs.processes import DIVERGED
        from rankdet.structures import DivergenceError, InputError

        reason = str(error) if isinstance(error, OSError | InputError) else reason_of(error)
        if reason is None:
            raise
        code = DIVERGED if isinstance(error, DivergenceError) else 2
        lines = [" ".join(line.split()) for line in reason.splitlines()]
        _tell_once(f"rankdet: error: {_process()}" + "\n".join(filter(None, lines)))
        if isinstance(error, OSError):
            _discard_output()
        sys.exit(code)


def _open_closed_streams() -> None:
    """Standard streams that the caller has closed lead nowhere; no file of ours gets their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # it stays open
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _end_of_pipe() -> NoReturn:
    """The reader of the output has gone, as ``head`` does: nothing to complain about."""
    _discard_output()
    sys.exit(141)


def _discard_output() -> None:
    """What is still buffered cannot be written: Python must not try once more at its end."""
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell_once(message: str) -> None:
    """Print the error of the main process; in others only an error of their own, which the main process does not tell.

    The main process notes in torchrun's store that it has told. Without it another error, or a signal, ended it.
    """
    from rankdet.runs.processes import store_of_launcher

    store, told = store_of_launcher(), "the main process has told its error"
    if models.is_main_process():
        print(message, file=sys.stderr, flush=True)
        if store is not None:
            with suppress(RuntimeError):  # torchrun has ended
                store.set(told, "")
        return

    def is_told() -> bool:
        try:
            return store is not None and store.check([told])
        except RuntimeError:
            return False

    is_ended = Event()
    signal.signal(signal.SIGTERM, lambda *_: is_ended.set())
    end = time.monotonic() + (SECONDS_TO_END if store is None else SECONDS_TO_TELL)
    while time.monotonic() < end and not is_ended.is_set() and not is_told():
        time.sleep(0.1)  # the store's own wait would not let the signal through
    if not (is_ended.is_set() if store is None else is_told()):
        print(message, file=sys.stderr)


def _process() -> str:
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
