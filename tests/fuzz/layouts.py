"""Damaged folders of YOLO, VOC, CVAT, labelme and image folders: doctor and data set agree, and all is measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from tests.data import test_cvat
from tests.data.scene import BOXES, save
from tests.data.test_conversion import WRITERS
from tests.data.test_layouts_broken_files import TEXTS, write_image_folder

from rankdet.data.sampling import SampleKey
from rankdet.metrics import evaluate
from rankdet.recipes.doctor import diagnose
from rankdet.recipes.schema.data import Data
from rankdet.recipes.schema.recipe import Evaluation
from rankdet.structures import InputError

from .fuzzing import Fuzz, Verdict, refused
from .mutations import EDITS_OF_TEXT, Edits, edited


def write_cvat_masks(folder: Path) -> None:
    """A mask, which of these layouts CVAT's alone has as run lengths."""
    test_cvat.write_xml(folder, test_cvat.image(BOXES[0], test_cvat.mask_shape(np.eye(9, dtype=np.bool_), 3, 4)))
    save(BOXES[0], folder / "images")


ALL_WRITERS: dict[str, Callable[[Path], None]] = {
    write.__name__: write for write in (*WRITERS, write_image_folder, write_cvat_masks)
}


class Case(NamedTuple):
    """Who has written the folder, and edits of its files of texts by their place among them."""

    writer: str
    damages: list[tuple[int, Edits]]
    masks: bool


CASES = st.builds(
    Case,
    st.sampled_from(sorted(ALL_WRITERS)),
    st.lists(st.tuples(st.integers(0, 7), EDITS_OF_TEXT), min_size=1, max_size=2),
    st.booleans(),
)


def check(sound: dict[str, dict[Path, bytes]], root: Path, case: Case) -> Verdict:
    """A training begins where doctor has no error, and what it evaluates on is measured."""
    files = sound[case.writer]
    damaged = dict(files)
    for place, edits in case.damages:
        path = sorted(files)[place % len(files)]
        damaged[path] = edited(damaged[path], edits)
    for path, content in damaged.items():
        path.write_bytes(content)
    folder = root / case.writer
    data, evaluation = Data(folder=folder, batch_size=1, keep_empty=True), Evaluation()
    diagnosis = diagnose(data, case.masks, evaluation)
    has_error = any(finding.severity == "error" for finding in diagnosis.findings)
    try:
        train, validation = evaluation.checked(data.prepare(case.masks, evaluation.is_asked)).datasets()
        for place in range(len(train)):
            assert train[SampleKey(place, 1)].target.boxes.isfinite().all()
    except InputError as error:
        if not has_error:
            raise AssertionError("doctor has no error where a training stops") from error
        return refused(error, folder)
    assert not has_error, f"doctor has an error where a training goes on: {diagnosis.describe()}"
    if validation is not None:
        evaluate(validation.ground_truth, [], "segm" if case.masks else "bbox")
    return Verdict.ACCEPTED


def prepare(folder: Path) -> Fuzz:
    """The target, with a folder of each layout."""
    sound = {}
    for name, write in ALL_WRITERS.items():
        write(folder / name)
        texts = [path for path in (folder / name).rglob("*") if path.suffix in TEXTS]
        sound[name] = {path: path.read_bytes() for path in texts}
    return Fuzz(CASES, partial(check, sound, folder))
