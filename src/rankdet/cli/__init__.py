"""The command line. torch is imported inside of the commands that need it, so that ``--help`` answers at once."""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Annotated, NoReturn

from rankdet.extras import require

require(__name__)

import typer

from rankdet import __version__
from rankdet.cli import data, experiments, models

SECONDS_TO_TELL = 5.0
"""How long a process waits for the message of the main process: it may be as much later at the same mistake."""

app = typer.Typer(
    help="Object detectors trained with ranking-based losses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(models.train)
app.command()(models.evaluate)
app.command()(models.detect)
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every character of a file name
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
    except (OSError, ValueError) as error:
        from rankdet.runs.processes import DIVERGED
        from rankdet.structures import DivergenceError, InputError

        if not isinstance(error, OSError | InputError):
            raise
        code = DIVERGED if isinstance(error, DivergenceError) else 2
        _leave_to_main_process(code)
        lines = [" ".join(line.split()) for line in str(error).splitlines()]
        print(f"rankdet: error: {_process()}" + "\n".join(filter(None, lines)), file=sys.stderr)
        if isinstance(error, OSError):
            _discard_output()
        sys.exit(code)


def _end_of_pipe() -> NoReturn:
    """The reader of the output has gone, as ``head`` does: nothing to complain about."""
    _discard_output()
    sys.exit(141)


def _discard_output() -> None:
    """What is still buffered cannot be written: Python must not try once more at its end."""
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_to_main_process(status: int) -> None:
    """Wait, in the other processes of torchrun, while the main process says the same.

    When it has, torchrun ends all others. Who is still there has an error of its own, or nobody to end it.
    """
    if not models.is_main_process():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(status))
        time.sleep(SECONDS_TO_TELL)


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
