"""Images in, annotated images and COCO JSON out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hotcoco import mask as rle
from typing_extensions import Self

from rankdet.coco import Finding, raise_errors
from rankdet.data.images import UnreadableImageError
from rankdet.data.pixels import to_pixels
from rankdet.data.progress import with_bar
from rankdet.inference.detections import Detections
from rankdet.inference.files import find_images
from rankdet.inference.loading import load
from rankdet.inference.model import NO_THRESHOLD
from rankdet.runs.folder import output_folder, write_json, written_whole
from rankdet.structures import InputError


class Detected(NamedTuple):
    """What `detect_and_draw` has done: the number of images, and a finding for each that could not be read."""

    images: int
    unreadable: list[Finding]


def detect_and_draw(
    checkpoint: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None,
    device: torch.device,
    report: Callable[[str], None],
    trust: bool = False,
) -> Detected:
    """Write annotated images and ``detections.json`` into ``out``; images that cannot be read are left out.

    ``inputs`` are images and folders of images. ``detections.json`` holds images, categories and all detections with
    their scores, and as run lengths their masks where the detector finds them. It is written too, with what there is,
    where something stops the command. Detections are drawn from the score ``threshold`` on, or from the LRP-optimal
    threshold of their class. ``report`` is called with a line of text for each image. With ``trust`` the checkpoint may
    import what its recipe names by import path.

    Raises
    ------
    InputError
        When the checkpoint or every image cannot be read, when a drawing would take the place of an image, and when
        ``out`` cannot be written into.
    """
    model = load(checkpoint, device, trust=trust)
    files = find_images(inputs)
    drawings = _names_of_drawings(files.paths)
    _check_places([out / name for name in (*drawings, "detections.json")], files.paths)
    if files.passed_over():
        report(files.passed_over())
    if threshold is None and model.thresholds is None:
        report(f"no evaluation has stored thresholds in {checkpoint}; drawing from score {NO_THRESHOLD:g} on")
    unreadable: list[Finding] = []
    with output_folder(out), _Document(model.categories, out / "detections.json") as document:
        for path, drawing in with_bar(list(zip(files.paths, drawings, strict=True)), "Detecting"):
            try:
                pixels = to_pixels(path, bits=model.transforms.significant_bits)
            except UnreadableImageError as error:
                reason = str(error).removeprefix(f"{path}: ")
                unreadable.append(Finding("error", str(path.parent), path.name, "cannot be read: left out", reason))
                continue
            found = model.detect(pixels)
            with written_whole(out / drawing) as part:
                found.draw(pixels, threshold).save(part, "png")
            document.add(path, found)
            report(f"{path}: {len(found.above(threshold))} drawn of {len(found)}")
    if not document.images:
        raise_errors(unreadable)
    return Detected(len(document.images), unreadable)


@dataclass(frozen=True)
class _Document:
    """The images and detections so far, as a COCO file with scores, which is written when the context ends."""

    categories: Sequence[tuple[int, str]]
    path: Path
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: Path, found: Detections) -> None:
        height, width = found.size
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": str(path), "height": height, "width": width})
        for record in found.to_coco(number):
            area = record["bbox"][2] * record["bbox"][3]
            if "segmentation" in record:
                area = int(rle.area(record["segmentation"]))
            self.annotations.append({"id": len(self.annotations) + 1, **record, "area": area, "iscrowd": 0})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.images:
            categories = [{"id": category, "name": name} for category, name in self.categories]
            write_json(self.path, {"images": self.images, "categories": categories, "annotations": self.annotations})


def _names_of_drawings(paths: Sequence[Path]) -> list[str]:
    """A file name for each image; a number keeps images of one name from different folders apart."""
    if len({path.stem for path in paths}) == len(paths):
        return [f"{path.stem}.png" for path in paths]
    return [f"{path.stem}_{number}.png" for number, path in enumerate(paths, start=1)]


def _check_places(files: Sequence[Path], images: Sequence[Path]) -> None:
    """Raise InputError where a file would replace an image, or the link that leads to it, or a folder."""
    kept = {path.resolve() for path in images} | {path.parent.resolve() / path.name for path in images}
    for file in files:
        if file.parent.resolve() / file.name in kept or file.resolve() in kept:
            raise InputError(f"{file} is one of the images and would be overwritten; give another --out")
        if file.is_dir():
            raise InputError(f"{file} is a folder, in the place of a file to write; give another --out")
