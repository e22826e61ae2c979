"""Damaged and edited checkpoints: what is loaded is what was written, detects, and goes on; or a message names it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from hypothesis import strategies as st
from rich.console import Console
from tests.coco.test_any_file import ODD as ODD_RECORDS
from tests.conftest import TINY

from rankdet.data import make_shapes
from rankdet.inference.loading import load
from rankdet.recipes import load_recipe
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.folder import Run
from rankdet.structures import InputError
from rankdet.training.running import train

from .fuzzing import Fuzz, Verdict, refused
from .mutations import EDITS, Edit, edited

Place = tuple[str | int, ...]
GONE = "gone"
ODD: list[Any] = [
    *(GONE, GONE, *(value for value in ODD_RECORDS if value != 10**400)),
    *(torch.zeros(3), torch.zeros(()), torch.tensor([torch.nan]), torch.zeros(2, dtype=torch.int64), "half", "turned"),
]
"""What may stand in the place of an entry: nothing, another value, or the same tensor in another form."""


class Case(NamedTuple):
    """What happens to the entries of a checkpoint, and then to its bytes, and whether the run is resumed by it."""

    changes: list[tuple[Place, Any]]
    edits: list[Edit]
    resumes: bool


def places_of(value: Any, place: Place = ()) -> Iterator[Place]:
    """The places of all entries, a few of each list."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:2] if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places_of(inner, (*place, key))


def changed(state: dict[str, Any], changes: list[tuple[Place, Any]]) -> dict[str, Any]:
    """The entries after the changes that still find their place."""
    state = copy.deepcopy(state)
    for place, value in changes:
        inner: Any = state
        try:
            for key in place[:-1]:
                inner = inner[key]
            old = inner[place[-1]]
        except (LookupError, TypeError):
            continue
        if isinstance(value, str) and value == GONE:
            del inner[place[-1]]
        elif isinstance(old, torch.Tensor) and isinstance(value, str) and value in ("half", "turned"):
            inner[place[-1]] = old.half() if value == "half" else old.flatten().flip(0)
        else:
            inner[place[-1]] = copy.deepcopy(value)
    return state


def same(one: Any, other: Any) -> bool:
    """Whether two checkpoints hold the same bits."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        are_alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return are_alike and bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)  # NaN differs from itself


def check(sound: Path, run: Path, state: dict[str, Any], case: Case) -> Verdict:
    """A model that detects, or a run that ends; of damaged bytes only what was written."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(sound, run)
    path = Run(run).latest_checkpoint()
    given = changed(state, case.changes)
    save_checkpoint(path, given)
    path.write_bytes(edited(path.read_bytes(), case.edits))
    try:
        if case.resumes:
            train(resume=run, console=Console(quiet=True))
            return Verdict.ACCEPTED
        found = load_checkpoint(path)
        assert all(same(value, found[name]) for name, value in given.items())
        load(path).detect(torch.zeros(3, 48, 48, dtype=torch.uint8))
    except InputError as error:
        return refused(error, *([] if case.resumes else [path]))
    return Verdict.ACCEPTED


def prepare(folder: Path) -> Fuzz:
    """The target, with a run of three iterations whose last checkpoint is gone."""
    data = make_shapes(folder / "shapes", train=4, val=1, size=48)
    path, sound = folder / "tiny.yaml", folder / "sound"
    path.write_text(yaml.safe_dump(TINY))
    overrides = [f"data.folder={data}", "schedule.iterations=3", "runtime.checkpoint_interval=1"]
    train(load_recipe(path, overrides), out=sound, console=Console(quiet=True))
    Run(sound).checkpoint(3).unlink()
    state = load_checkpoint(Run(sound).checkpoint(2))
    del state["format"], state["version"]
    places = [place for place in places_of(state) if place[0] != "random_states"]
    few = st.sampled_from(places) | st.sampled_from([place for place in places if len(place) == 1])
    cases = st.builds(
        Case,
        st.lists(st.tuples(few, st.sampled_from(ODD)), max_size=2),
        st.one_of(st.just([]), st.just([]), EDITS),
        st.sampled_from([False] * 23 + [True]),
    )
    return Fuzz(cases, partial(check, sound, folder / "run", state))
