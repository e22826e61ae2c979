"""A bar with the time that is left, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")


def track(items: Iterable[T], description: str, is_shown: bool = True) -> Iterator[T]:
    """The items, and on a terminal a bar that says how many are done and when the rest will be.

    The items have a length. Where the output is no terminal, or ``is_shown`` is false, nothing is shown.
    """
    console = Console()
    yield from rich_track(
        items, description, console=console, transient=True, disable=not is_shown or not console.is_terminal
    )
