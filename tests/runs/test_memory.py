"""Memory that is freed stays with the process."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
from rankdet.runs.memory import keep_freed_memory
{}
def ask():
    for _ in range(20):
        b"x" * 2**25
ask()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
ask()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(asked: str, **variables: str) -> int:
    """Pages that a process gets from the system for memory that it had before."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(asked)],
        env=environment | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_memory_that_is_freed_is_there_for_what_is_asked_for_next() -> None:
    given_back = faults("")
    assert faults("keep_freed_memory()") < given_back / 4
    assert faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072") > given_back / 4
