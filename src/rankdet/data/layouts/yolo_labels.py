"""The label files of YOLO, line by line, as a COCO document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankdet.coco.segmentations import flat
from rankdet.data.files import is_file
from rankdet.data.layouts.draft import Draft, box_around
from rankdet.data.layouts.files import is_image_name, read_lines, upright_size
from rankdet.data.layouts.source import Reading
from rankdet.data.layouts.yolo_settings import LIST_NAMES, Settings
from rankdet.data.progress import with_bar
from rankdet.structures import InputError

IDS = "class numbers go beyond the names: they look like category ids, as sahi writes them, and all names may be wrong"
SLACK = 0.01
"""How far a fraction may lie outside of 0…1, as ultralytics allows: more are pixels, or broken."""


def read_yolo(settings: Settings, images: Sequence[Path], folder: Path) -> Reading:
    """Read the labels of images as a COCO document.

    The labels of ``images/a.jpg`` are in ``labels/a.txt``, the last ``images`` of the path counts, or beside the image.
    A line of 5 numbers is a box: class, center and size. A line with 3 pairs of numbers or more behind the class is a
    polygon, 4 corners of an oriented box among them. A number more is a confidence and not used. Images without
    a label file have no objects.

    Parameters
    ----------
    settings
        The classes.
    images
        The image files.
    folder
        The folder that the file names of the document are relative to.

    Returns
    -------
    Reading
        The document, with sizes of upright images, and what was left out of it.
    """
    labels = {number: label for label, number in enumerate(sorted(settings.names))}
    draft = Draft(str(settings.file), [settings.names[number] for number in labels])
    reader = _Lines(draft, labels, settings.keypoint_values)
    for split, problem, detail in settings.remarks:
        draft.report("warning", split, problem, detail)
    num_unlabeled = 0
    label_folders = {}
    for image in with_bar(images, "Labels"):
        name = image.relative_to(folder).as_posix()
        size = upright_size(image)
        if isinstance(size, str):
            draft.report("warning", f"image {name}", f"{size}: left out")
            continue
        image_id = draft.add_image(name, size)
        file = label_file(image)
        if file is None:
            num_unlabeled += 1
        else:
            label_folders[file.parent] = image.parent
            reader.read(file, image_id, size)
    for label_folder, image_folder in label_folders.items():
        for file in _without_image(label_folder, image_folder):
            draft.report("warning", "/".join(file.parts[-2:]), "has labels of an image that is missing: left out")
    largest = max(reader.numbers, default=0)
    if largest > max(labels):
        zero = "0 is one of them" if 0 in reader.numbers else "0 never occurs"
        detail = f"the largest is {largest:g}, and {zero}; names go from {min(labels)} to {max(labels)}"
        draft.report("warning", "", IDS, detail, "compare some objects with their names: rankdet look")
    if num_unlabeled and num_unlabeled == len(draft.images):
        looked = ", ".join(str(path) for path in label_candidates(images[0]))
        draft.report("warning", "", "no image has a label file", f"looked for {looked}")
    return draft.document(), draft.findings


def label_candidates(image: Path) -> list[Path]:
    """Where the labels of an image may be.

    Examples
    --------
    >>> [path.as_posix() for path in label_candidates(Path("set/images/train/a.jpg"))]
    ['set/labels/train/a.txt', 'set/images/train/a.txt']
    """
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part.lower() == "images"]
    found = [image.with_suffix(".txt")]
    if places:
        parts[places[-1]] = "labels"
        found.insert(0, Path(*parts).with_suffix(".txt"))
    return found


def label_file(image: Path) -> Path | None:
    """The label file of an image, or None where it has none."""
    return next((path for path in label_candidates(image) if is_file(path)), None)


def _without_image(label_folder: Path, image_folder: Path) -> Iterator[Path]:
    """The label files that no image belongs to, in a folder that has nothing but labels."""
    if label_folder != image_folder:
        stems = {path.stem for path in image_folder.iterdir() if is_image_name(path.name)}
        others = {*LIST_NAMES, "train.txt", "val.txt", "test.txt"}
        files = sorted(label_folder.glob("*.txt"))
        yield from (path for path in files if path.stem not in stems and path.name not in others)


@dataclass(frozen=True)
class _Lines:
    """Reads label files into a draft; ``numbers`` are those of the classes in them."""

    draft: Draft
    labels: Mapping[int, int]
    keypoint_values: int
    numbers: set[float] = field(default_factory=set)

    def read(self, file: Path, image_id: int, size: tuple[int, int]) -> None:
        shown = "/".join(file.parts[-2:])
        try:
            lines = read_lines(file)
        except InputError:
            self.draft.report("warning", shown, "is no text file that can be read: left out")
            return
        seen = set()
        for place, line in enumerate(lines):
            row = tuple(line.split())
            if not row:
                continue
            record = f"{shown} line {place + 1}"
            if row in seen:
                self.draft.report("warning", record, "is there twice: left out once")
                continue
            seen.add(row)
            self.add(row, record, image_id, size)

    def add(self, row: Sequence[str], record: str, image_id: int, size: tuple[int, int]) -> None:
        shown = " ".join(row[:6]) + (" …" if len(row) > 6 else "")
        try:
            number, *values = map(float, row)
        except ValueError:
            self.draft.report("warning", record, "has words in place of numbers: left out", shown)
            return
        if number.is_integer():
            self.numbers.add(number)
        if number not in self.labels:
            known = f"class {row[0]}; the classes are {min(self.labels)} to {max(self.labels)}"
            self.draft.report("warning", record, "has a class that has no name: left out", known, "names in data.yaml")
            return
        values = self.without_extras(values, record)
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            self.draft.report("warning", record, "is neither a box nor a polygon: left out", f"{len(row)} numbers")
            return
        if not all(-SLACK <= value <= 1 + SLACK for value in values):
            problem = "has coordinates outside of 0…1: left out (pixels in place of fractions?)"
            self.draft.report("warning", record, problem, shown)
            return
        height, width = size
        label = self.labels[int(number)]
        if len(values) == 4:
            x, y, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
            self.draft.add(image_id, label, [x - w / 2, y - h / 2, w, h])
        else:
            points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
            self.draft.add(image_id, label, box_around(points), [flat(points)])

    def without_extras(self, values: list[float], record: str) -> list[float]:
        """The numbers of a line without keypoints and confidence, and a note on each form that is read in its way."""
        if self.keypoint_values and len(values) == 4 + self.keypoint_values:
            self.draft.report("note", record, "has keypoints, which are not used")
            return values[:4]
        if len(values) == 5 or (len(values) > 6 and len(values) % 2):
            self.draft.report("note", record, "has a number too many, read as a confidence and not used")
            return values[:-1]
        if len(values) == 8:
            self.draft.report(
                "note", record, "has four corners: read as a polygon, also where an oriented box is meant"
            )
        return values
