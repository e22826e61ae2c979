"""Images in, annotated images and COCO JSON out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from typing_extensions import Self

from rankdet.coco import Finding, raise_errors
from rankdet.coco.segmentations import mask_area
from rankdet.data.images import UnreadableImageError, header
from rankdet.data.loading import batches_of_one_shape
from rankdet.data.pixels import to_pixels
from rankdet.data.progress import with_bar
from rankdet.inference.detections import Detections
from rankdet.inference.files import ImageFiles
from rankdet.inference.model import NO_THRESHOLD, Model
from rankdet.inference.tiles import Tiles
from rankdet.runs.folder import one_per_line, output_folder, write_text, written_whole
from rankdet.runs.processes import World
from rankdet.structures import InputError


class Detected(NamedTuple):
    """What `detect_and_draw` has done.

    images
        How many have detections written.
    unreadable
        A finding for each image that could not be read.
    cut
        Detections from the threshold on that end at borders of tiles while no other tile holds them whole.
    """

    images: int
    unreadable: list[Finding]
    cut: int


def detect_and_draw(
    model: Model,
    files: ImageFiles,
    out: Path,
    threshold: float | None,
    report: Callable[[str], None],
    world: World | None = None,
    *,
    batch_size: int = 8,
    tiles: Tiles | None = None,
    class_agnostic: float | None = None,
    drawings: bool = True,
) -> Detected:
    """Write annotated images and ``detections.json`` into ``out``; images that cannot be read are left out.

    ``detections.json`` holds images, categories and all detections with their scores, and as run lengths their masks
    where the detector finds them. Of images in tiles each says by ``is_cut`` whether it is as in `Detections.is_cut`.
    The file is written too, with what there is, where something stops the command.

    Parameters
    ----------
    model
        Finds the objects.
    files
        The images.
    out
        The folder to write into.
    threshold
        Detections are drawn, and counted as cut, from this score on; None: from the LRP-optimal threshold of their
        class.
    report
        Is called with a line of text for each image.
    world
        The processes that share the images; the main one writes ``detections.json``. None: this one is alone.
    batch_size
        Images per pass through the network; only those of one size after resizing and padding share a batch.
    tiles
        Cut each image into these tiles; batches are then of tiles. None: see it as a whole.
    class_agnostic
        IoU of `Detections.without_overlaps`; None: no suppression over classes.
    drawings
        Whether annotated images are written.

    Returns
    -------
    Detected
        Of all processes.

    Raises
    ------
    InputError
        When every image cannot be read, when a drawing would take the place of an image, and when ``out`` cannot be
        written into. No process is left waiting.
    """
    world = world or World.alone(model.device)
    names = _names_of_drawings(files.paths) if drawings else []
    _check_places([out / name for name in (*names, "detections.json")], files.paths)
    if world.is_main:
        if files.passed_over():
            report(files.passed_over())
        if threshold is None and model.thresholds is None and drawings:
            path = None if model.origin is None else model.origin.path
            report(f"no evaluation has stored thresholds in {path}; drawing from score {NO_THRESHOLD:g} on")
    own = range(len(files.paths))[world.rank :: world.size]
    unreadable: dict[int, Finding] = {}
    cut = 0
    with ExitStack() as stack:
        with world.together():
            if world.is_main:
                stack.enter_context(output_folder(out))
        document = stack.enter_context(_Document(model.categories, out / "detections.json", world.is_main))
        with world.together():
            results = _each(model, {place: files.paths[place] for place in own}, batch_size, tiles)
            for place, result in with_bar(results, "Detecting", world.is_main, len(own)):
                if isinstance(result, Finding):
                    unreadable[place] = result
                    continue
                path, (pixels, found) = files.paths[place], result
                if class_agnostic is not None:
                    found = found.without_overlaps(class_agnostic)
                if drawings:
                    _draw(pixels, found, threshold, out / names[place])
                document.add(place, path, found)
                seen = found.above(threshold)
                cut += 0 if seen.is_cut is None else int(seen.is_cut.sum())
                counts = f"{len(seen)} drawn of {len(found)}" if drawings else f"{len(found)} found"
                report(f"{path}: {counts}")
        shares = world.gather((document.images, unreadable, cut))
        for images, broken, _ in shares:
            document.images.update(images)
            unreadable |= broken
    findings = [unreadable[place] for place in sorted(unreadable)]
    if not document.images:
        raise_errors(findings)
    return Detected(len(document.images), findings, sum(cut for *_, cut in shares))


def _each(
    model: Model, paths: Mapping[int, Path], batch_size: int, tiles: Tiles | None
) -> Iterator[tuple[int, tuple[Tensor, Detections] | Finding]]:
    """The place of each image, with its pixels and what is found in it, or why it cannot be read; batch by batch.

    Headers say which images share a batch, so that no pixels wait for others of their size.
    """

    def shape(place: int) -> tuple[int, int] | None:
        try:
            return model.padded_size(header(paths[place]).upright)
        except UnreadableImageError:
            return None

    for group in batches_of_one_shape(paths, shape, batch_size if tiles is None else 1):
        readable: dict[int, Tensor] = {}
        for place in group:
            path = paths[place]
            try:
                readable[place] = to_pixels(path, bits=model.transforms.significant_bits)
            except UnreadableImageError as error:
                reason = str(error).removeprefix(f"{path}: ")
                yield place, Finding("error", str(path.parent), path.name, "cannot be read: left out", reason)
        found = model.detect(list(readable.values()), batch_size, tiles)
        yield from zip(readable, zip(readable.values(), found, strict=True), strict=True)


def _draw(pixels: Tensor, found: Detections, threshold: float | None, path: Path) -> None:
    try:
        with written_whole(path) as part:
            found.draw(pixels, threshold).save(part, "png")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Document:
    """The images so far and what is found in them: a COCO file with scores, written when the context ends."""

    categories: Sequence[tuple[int, str]]
    path: Path
    is_written: bool
    images: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = field(default_factory=dict)
    """Place of an image → its record and those of its detections, without ids."""

    def add(self, place: int, path: Path, found: Detections) -> None:
        height, width = found.size
        records = found.to_coco()
        for record in records:
            box = record["bbox"]
            area = mask_area(record["segmentation"]) if "segmentation" in record else box[2] * box[3]
            record |= {"area": area, "iscrowd": 0}
        if found.is_cut is not None:
            for record, is_cut in zip(records, found.is_cut.tolist(), strict=True):
                record["is_cut"] = is_cut
        self.images[place] = {"file_name": str(path), "height": height, "width": width}, records

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.is_written or not self.images:
            return
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, place in enumerate(sorted(self.images), start=1):
            image, records = self.images[place]
            images.append({"id": number, **image})
            for record in records:
                annotations.append({"id": len(annotations) + 1, **record, "image_id": number})
        categories = [{"id": category, "name": name} for category, name in self.categories]
        sections = {"images": images, "categories": categories, "annotations": annotations}
        lists = [f"{json.dumps(name)}: {one_per_line(records)}" for name, records in sections.items()]
        write_text(self.path, "{\n" + ",\n".join(lists) + "\n}\n")


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
