"""How the functions of this package are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

from rankdet.losses.pools import Runs

Array = np.ndarray[Any, Any]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """The function by numba, without Python's lock; from the disk where it was compiled before.

    It calls only functions of its own file: what is on the disk counts as old when that file changes.
    """
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder in which numba may write
        return njit(**options)(function)


def borders_of(runs: Runs) -> Array:
    """(K + 1,) places at which the runs begin and end."""
    return np.array([0, runs.size]) if runs.pools is None else runs.borders.numpy()
