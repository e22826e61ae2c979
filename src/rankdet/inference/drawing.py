"""Images in, annotated images and COCO JSON out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hotcoco import mask as rle

from rankdet.data.pixels import to_pixels
from rankdet.inference.files import check_images, find_images
from rankdet.inference.loading import load
from rankdet.inference.model import NO_THRESHOLD
from rankdet.runs.folder import output_folder, write_json
from rankdet.structures import InputError


def detect_and_draw(
    checkpoint: Path,
    inputs: Sequence[Path],
    out: Path,
    threshold: float | None,
    device: torch.device,
    report: Callable[[str], None],
    trust: bool = False,
) -> Path:
    """Write annotated images and ``detections.json`` into ``out``; nothing is written where any input is bad.

    ``inputs`` are images and folders of images. ``detections.json`` holds images, categories and all detections with
    their scores, and as run lengths their masks where the detector finds them. Detections are drawn from the score
    ``threshold`` on, or from the LRP-optimal threshold of their class. ``report`` is called with a line of text for
    each image. With ``trust`` the checkpoint may import what its recipe names by import path.

    Raises
    ------
    InputError
        When the checkpoint or an image cannot be read (all broken images are named at once), when a drawing would
        take the place of an image, and when ``out`` cannot be written into.
    """
    model = load(checkpoint, device, trust=trust)
    paths = find_images(inputs)
    drawings = _names_of_drawings(paths)
    _check_places([out / name for name in (*drawings, "detections.json")], paths)
    check_images(paths)
    if threshold is None and model.thresholds is None:
        report(f"no evaluation has stored thresholds in {checkpoint}; drawing from score {NO_THRESHOLD:g} on")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with output_folder(out), tempfile.TemporaryDirectory(dir=out) as beside:
        for number, path in enumerate(paths, start=1):
            pixels = to_pixels(path)
            found = model.detect(pixels)
            height, width = found.size
            images.append({"id": number, "file_name": str(path), "height": height, "width": width})
            for record in found.to_coco(number):
                area = record["bbox"][2] * record["bbox"][3]
                if "segmentation" in record:
                    area = int(rle.area(record["segmentation"]))
                annotations.append({"id": len(annotations) + 1, **record, "area": area, "iscrowd": 0})
            found.draw(pixels, threshold).save(Path(beside) / drawings[number - 1])
            report(f"{path}: {len(found.above(threshold))} drawn of {len(found)}")
        categories = [{"id": category, "name": name} for category, name in model.categories]
        document = {"images": images, "categories": categories, "annotations": annotations}
        write_json(Path(beside) / "detections.json", document)
        for file in sorted(Path(beside).iterdir()):
            file.replace(out / file.name)
    return out


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
