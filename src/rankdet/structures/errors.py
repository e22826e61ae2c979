"""Errors that a user can do something about."""

from __future__ import annotations

from typing import ClassVar


class InputError(ValueError):
    """Mistake in what a user has given: one clear message that names the file, record or field."""

    exit_status: ClassVar[int] = 2
    """Exit status of a command that ends with this error."""


class DivergenceError(InputError):
    """A loss or weight is no longer finite: the recipe asks for more than its training can bear."""

    exit_status = 3
