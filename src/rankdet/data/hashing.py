"""A small integer hash that every random choice of the data comes from: no global state, the same everywhere."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mix(*values: ArrayLike) -> NDArray[np.uint64]:
    """Hash integers to well spread 64-bit integers; arrays are broadcast.

    Values are not negative, and their order matters.

    Notes
    -----
    The finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), applied
    to each value in turn.

    Examples
    --------
    >>> int(mix(0)) == int(mix(0)), int(mix(0, 1)) == int(mix(1, 0))
    (True, False)
    """
    state = np.zeros((), dtype=np.uint64)
    # Wrapping around at 2^64 is the arithmetic of the hash, not an accident.
    with np.errstate(over="ignore"):
        for value in values:
            state = (state ^ np.asarray(value).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state
