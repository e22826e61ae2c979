"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from typing_extensions import Self

from rankdet import __version__
from rankdet.runs.folder import Run, make_last, written_whole
from rankdet.structures import DamagedError, InputError, check_archive

FORMAT = "rankdet checkpoint 1"
FOR_DETECTION: dict[str, type | tuple[type, ...]] = {
    "recipe": dict,
    "categories": list,
    "thresholds": (list, type(None)),
    "calibration": (dict, type(None)),
    "operating_point": (dict, type(None)),
    "detector": dict,
    "parts": dict,
}
"""What detection needs of a checkpoint."""


@dataclass
class TrainState:
    """How far a training is, as its checkpoints keep it beside recipe, categories and weights.

    Parameters
    ----------
    iteration
        Steps of the optimizer that are done.
    is_evaluated
        Whether an evaluation that was due at this iteration is done.
    thresholds
        C LRP-optimal score thresholds of the last evaluation; None before any.
    seconds, processor_seconds
        What the training took so far.
    world_size
        Number of processes.
    samples
        Images that all processes together have drawn.
    shift
        Iterations that are done beyond the place in the schedule; 0 unless images per iteration have changed in a run
        whose length is in epochs.
    stream
        Pairs [images, steps]: steps of so many images of all processes together that were drawn before an iteration had
        as many as it has now.
    data
        Numbers by which other training data are recognized.
    parts
        Import paths of the parts that the caller brought, by their names.
    best
        The best evaluation so far (`rankdet.training.best.Best`).
    weights
        Weights and buffers as they are trained, where those of the checkpoint are their average; empty otherwise.
    scaler
        The state of the gradient scaler of float16; empty in other precisions.
    optimizer
        Its state.
    random_states, statistics
        For each process, its random numbers, and its statistics since the last record of the log with the states of
        its losses.
    """

    iteration: int = 0
    is_evaluated: bool = True
    thresholds: list[float] | None = None
    seconds: float = 0.0
    processor_seconds: float = 0.0
    world_size: int = 1
    samples: int = 0
    shift: int = 0
    stream: list[list[int]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    random_states: list[dict[str, Any]] = field(default_factory=list)
    statistics: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_checkpoint(cls, state: Mapping[str, Any]) -> Self:
        """The state in the entries of a checkpoint."""
        return cls(**{entry.name: state[entry.name] for entry in fields(cls)})


def _kinds(hint: Any) -> tuple[type, ...]:
    """The types that values of an annotation have: an int also serves as a float."""
    if isinstance(hint, UnionType):
        return tuple(kind for member in get_args(hint) for kind in _kinds(member))
    return (int, float) if hint is float else (get_origin(hint) or hint,)


FOR_TRAINING = FOR_DETECTION | {name: _kinds(hint) for name, hint in get_type_hints(TrainState).items()}
"""What resuming needs."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` in one step: a reader finds the old file or the new one, never a part.

    Raises
    ------
    InputError
        When it cannot be written (a full disk, say). What was at ``path`` before is untouched.
    """
    try:
        with written_whole(path) as part, part.open("wb") as file:
            torch.save({"format": FORMAT, "version": __version__, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        # On POSIX it is the folder that holds the names, so this makes the new name last.
        make_last(path.parent)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as RuntimeError, in words about its own insides.
        reason = error.strerror if isinstance(error, OSError) else "the disk may be full"
        raise InputError(f"cannot write checkpoint {path}: {reason}; earlier checkpoints are intact") from error


def load_checkpoint(path: Path, needed: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """Read a checkpoint to the CPU; only tensors and plain values are accepted, no code runs.

    Parameters
    ----------
    path
        The file.
    needed
        Names and types of the entries that it must have: `FOR_DETECTION` or `FOR_TRAINING`; None asks for nothing.
        Where they are asked for, the categories are pairs (id, name).

    Raises
    ------
    DamagedError
        When the file is not as it was written: cut off, or a part of it has not its checksum.
    InputError
        When it is missing, incomplete, or no checkpoint of rankdet.
    """
    try:
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles of other programs
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read checkpoint {path}: {error.strerror}") from error
    except DamagedError:
        raise
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError) as error:
        raise DamagedError(f"{path} is damaged or no checkpoint of rankdet") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this version of rankdet")
    # Version 0.1.0 does not write these.
    for name in ("parts", "data", "best", "weights", "scaler"):
        state.setdefault(name, {})
    for name in ("samples", "shift"):
        state.setdefault(name, 0)
    state.setdefault("stream", [])
    for name in ("calibration", "operating_point"):  # which no training writes: they are added when it is done
        state.setdefault(name, None)
    if needed is not None:
        _check_entries(state, needed, path)
    return state


def newest_sound(run: Run) -> tuple[Path | None, dict[str, Any] | None, dict[Path, DamagedError]]:
    """The newest checkpoint of a run that is not damaged, its entries, and the damaged ones that are newer.

    The first two are None where the run has no checkpoint. Raises InputError when all are damaged, or that one does not
    fit.
    """
    damaged: dict[Path, DamagedError] = {}
    for path in reversed(run.checkpoints(with_best=True)):
        try:
            return path, load_checkpoint(path, FOR_TRAINING), damaged
        except DamagedError as error:
            damaged[path] = error
    if damaged:
        raise InputError(f"{next(iter(damaged.values()))}; {run.folder} holds no other to go on from")
    return None, None, damaged


def _check_entries(state: dict[str, Any], needed: Mapping[str, type | tuple[type, ...]], path: Path) -> None:
    """Raise InputError where an entry is missing or odd; the categories become pairs (id, name)."""
    for name, kind in needed.items():
        if name not in state:
            raise InputError(f"checkpoint {path} does not fit: it has no {name}")
        if not isinstance(state[name], kind):
            raise InputError(f"checkpoint {path} does not fit: {name} is of type {type(state[name]).__name__}")
    with fitting(path):
        state["categories"] = categories = [(int(number), str(name)) for number, name in state["categories"]]
        thresholds = [float(value) for value in state["thresholds"] or [0.0] * len(categories)]
    if len(thresholds) != len(categories):
        raise InputError(
            f"checkpoint {path} does not fit: {len(thresholds)} thresholds for {len(categories)} categories"
        )


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside, taking over the values of a checkpoint, is InputError that names ``path``."""
    try:
        yield
    except torch.OutOfMemoryError:  # which no value of it is to blame for
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")[:200]  # torch shows tensors and signatures behind it
        raise InputError(f"checkpoint {path} does not fit: {type(error).__name__}: {reason}") from error


def check_shapes(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise InputError that names the first weight of the checkpoint ``path`` which the network has otherwise."""
    expected = network.state_dict()
    for name in [*expected, *weights]:
        if name not in weights:
            raise InputError(f"checkpoint {path} does not fit: it has no weight {name}")
        if name not in expected:
            raise InputError(f"checkpoint {path} does not fit: the network has no weight {name}")
        own, other = tuple(expected[name].shape), tuple(getattr(weights[name], "shape", ()))
        if own != other or not isinstance(weights[name], Tensor):
            raise InputError(f"checkpoint {path} does not fit: weight {name} is {other}, not {own}")


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Give a network the weights of the checkpoint ``path``; raises InputError that names the first misfit."""
    check_shapes(network, weights, path)
    check_finite(weights, path)
    network.load_state_dict(weights)


def check_finite(weights: Mapping[str, Any], path: Path) -> None:
    """Raise InputError that names the first weight of the checkpoint ``path`` with a value that is not finite."""
    for name, value in weights.items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            raise InputError(f"checkpoint {path} is of no use: its weight {name} is not finite")


def seed_random_numbers(seed: int) -> None:
    """Start all random numbers of this process from ``seed``."""
    torch.manual_seed(seed)
    random.seed(seed)


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of all random numbers of this process."""
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": (version, numbers, gauss),
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the random numbers of `random_state`."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    random.setstate(state["python"])
