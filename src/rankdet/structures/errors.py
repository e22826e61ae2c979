"""Errors that a user can do something about."""

from __future__ import annotations


class InputError(ValueError):
    """Mistake in what a user has given: one clear message that names the file, record or field."""


class DivergenceError(InputError):
    """A loss or weight is no longer finite: the recipe asks for more than its training can bear."""


class DamagedError(InputError):
    """A file is not as it was written: cut off, or changed by a disk or a transfer."""
