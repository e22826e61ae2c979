"""What long work shows on a terminal while it goes on, on standard error; elsewhere nothing is shown."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

Row = TypeVar("Row")


def with_bar(rows: Iterable[Row], what: str, is_shown: bool = True, total: int | None = None) -> Iterable[Row]:
    """The rows one by one, while a bar says how many are done and when the rest will be.

    ``total`` is their number, where they have no length. Where ``is_shown`` is false there is no bar.
    """
    console = Console(stderr=True)
    is_hidden = not (is_shown and console.is_terminal)
    return track(rows, escape(what), total=total, console=console, transient=True, disable=is_hidden)


def with_spinner(what: str) -> AbstractContextManager[object]:
    """What goes on inside, named until it has ended."""
    console = Console(stderr=True)
    return console.status(escape(what)) if console.is_terminal else nullcontext()
