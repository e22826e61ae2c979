"""Threads of our own, as many as torch has, for functions that run without Python's lock."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def run(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the tasks return, in any order, by as many threads as torch has; this thread is one of them."""
    pending = list(tasks)

    def work() -> list[Any]:
        results: list[Any] = []
        while True:
            try:
                task = pending.pop()
            except IndexError:
                return results
            results.append(task())

    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1:
        return work()
    # A process that was forked off has none of the threads of its parent.
    threads = _threads(helpers, os.getpid())
    others = [threads.submit(work) for _ in range(helpers)]
    return work() + [result for other in others for result in other.result()]


@functools.cache
def _threads(number: int, _: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, "rankdet")
