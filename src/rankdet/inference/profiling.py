"""How much of an iteration the losses take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from rankdet.inference.model import Model
from rankdet.structures import Batch, Candidates, Matched


def loss_seconds(model: Model, losses: Mapping[str, nn.Module], batches: Iterable[Batch]) -> float:
    """Median seconds per batch of the losses of all heads, forward and backward.

    For each batch the network runs once, outside of the clock. Its logits, boxes and deltas are then cut from the
    network; timed are the losses on them and the way back to them, and nothing of the network itself. Decoding boxes
    counts as network. The first batch warms up and is not counted where there are more.
    """
    seconds = []
    for batch in batches:
        with torch.no_grad():
            heads = model.forward(batch)
        cut = [_cut(candidates) for candidates in heads]
        _wait(model.device)
        start = time.perf_counter()
        for candidates in cut:
            torch.stack(list(losses[candidates.head](candidates).terms.values())).sum().backward()
        _wait(model.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:] or seconds)


def _cut(candidates: Candidates) -> Candidates:
    return replace(
        candidates,
        logits=_leaf(candidates.logits),
        boxes=_leaf_pairs(candidates.boxes),
        deltas=_leaf_pairs(candidates.deltas),
        masks=_leaf_pairs(candidates.masks),
        auxiliary={
            name: pairs._replace(predicted=_leaf(pairs.predicted))
            for name, pairs in (candidates.auxiliary or {}).items()
        },
    )


def _leaf_pairs(pairs: Matched | None) -> Matched | None:
    return None if pairs is None else pairs._replace(predicted=_leaf(pairs.predicted))


def _leaf(values: Tensor) -> Tensor:
    return values.detach().clone().requires_grad_()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
