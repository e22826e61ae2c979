"""Damaged and edited files of other programs: what is imported is a checkpoint here, or a message names the file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from tests.importing import foreign
from tests.importing.foreign import R18
from tests.importing.test_checkpoint import config

from rankdet.importing import import_checkpoint
from rankdet.runs.checkpoint import FOR_DETECTION, load_checkpoint
from rankdet.structures import InputError

from .checkpoints import ODD, Place, changed, places_of, same
from .fuzzing import Fuzz, Verdict, refused
from .mutations import EDITS, Edit, edited

BACKBONE = foreign.resnet18()
NAMES = tuple(f"class {number}" for number in range(80))
FILES: dict[str, dict[str, Any]] = {
    "mmdetection 3, Faster R-CNN": {
        "meta": {"mmdet_version": "3.3.0", "dataset_meta": {"classes": NAMES}, "cfg": config()},
        "state_dict": foreign.numbered(BACKBONE | foreign.faster_rcnn(True, R18)),
    },
    "mmdetection 2, ATSS": {
        "meta": {"mmdet_version": "2.28.2", "CLASSES": NAMES, "config": config(kind="ATSS")},
        "state_dict": foreign.numbered(BACKBONE | foreign.dense(3, False, R18)),
    },
    "torchvision, Mask R-CNN": {
        "model": foreign.numbered(
            foreign.resnet18("backbone.body", False) | foreign.torchvision_mask_rcnn(False, foreign.R18)
        ),
        "epoch": 3,
    },
}
"""Of tensors that take no memory, nor space in a file."""


class Case(NamedTuple):
    """A file, and what happens to its entries and then to its bytes."""

    file: str
    changes: list[tuple[Place, Any]]
    edits: list[Edit]


def check(folder: Path, sound: dict[str, dict[str, Any]], case: Case) -> Verdict:
    """A checkpoint that can be read, of an undamaged file the same as ever; after a message there is none."""
    path, out = folder / "theirs.pth", folder / "ours.pt"
    out.unlink(missing_ok=True)
    given = changed(FILES[case.file], case.changes)
    torch.save(given, path)
    path.write_bytes(edited(path.read_bytes(), case.edits))
    try:
        import_checkpoint(path, out)
    except InputError as error:
        assert not out.exists()
        return refused(error, path)
    found = load_checkpoint(out, FOR_DETECTION)
    assert all(bool(weight.isfinite().all()) for weight in found["detector"].values())
    if not case.changes:
        assert same(found["detector"], sound[case.file]["detector"])
    return Verdict.ACCEPTED


def prepare(folder: Path) -> Fuzz:
    """The target, with what each file becomes when nothing happens to it."""
    sound: dict[str, dict[str, Any]] = {}
    for name, content in FILES.items():
        torch.save(content, folder / "theirs.pth")
        import_checkpoint(folder / "theirs.pth", folder / "ours.pt")
        sound[name] = load_checkpoint(folder / "ours.pt", FOR_DETECTION)
    cases = st.one_of(
        st.builds(
            Case,
            st.just(name),
            st.lists(st.tuples(few_of(list(places_of(content))), st.sampled_from(ODD)), max_size=2),
            st.one_of(st.just([]), st.just([]), EDITS),
        )
        for name, content in FILES.items()
    )
    return Fuzz(cases, partial(check, folder, sound))


def few_of(places: list[Place]) -> st.SearchStrategy[Place]:
    """Places of tensors and of all else alike often, since tensors are many."""
    outer = [place for place in places if len(place) == 1 or place[0] == "meta"]
    return st.sampled_from(outer) | st.sampled_from(places)
