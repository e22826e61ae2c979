"""What the system does to processes, in words."""

from __future__ import annotations


def reason_of(error: BaseException) -> str | None:
    """Why the system ends a command: memory that is used up, a worker or a process that was killed; None otherwise."""
    import torch
    from torch import distributed

    from rankdet.data.loading import reason_of_workers

    said = f"{error} {error.__cause__}"
    workers = reason_of_workers(said)
    if workers is not None:
        return workers
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the memory of the GPU is used up: take a smaller data.batch_size (and runtime.accumulation for as many "
            "images), smaller images, or runtime.precision=bfloat16"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in said:
        return "memory is used up: take a smaller data.batch_size, smaller images, or fewer data.workers"
    is_lost = any(words in said for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe"))
    if isinstance(error, distributed.DistError) or (is_lost and "gloo" in said):
        return "another process was lost: it has ended, or was killed; --resume goes on from the newest checkpoint"
    return None
