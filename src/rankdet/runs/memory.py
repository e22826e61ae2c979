"""What the C library does with memory that is freed."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of the parameters of ``mallopt``, from <malloc.h>."""
_KEPT, _LARGEST = 2**31 - 1, 2**30
"""Bytes: freed memory that is kept, and the largest piece that is kept; a C library before 2.35 takes 32 MiB."""
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Have this process keep memory that it frees, for what it asks for next.

    An iteration on a CPU frees all its activations, and the next one asks for as many. glibc gives large pieces back to
    the system, which has to clear each page before it gives it out again: a tenth of the processor's time of an
    iteration. The most memory that a process has at a time rises by some, and it is kept until the end. So the command
    line asks for this, in processes of its own, and the Python functions do not. Nothing happens with another C
    library, or where the user has set one of its variables.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _VARIABLES):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    if not mallopt(_MMAP_THRESHOLD, _LARGEST):
        mallopt(_MMAP_THRESHOLD, 2**25)
