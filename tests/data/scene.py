"""One scene, which tests write in every format: what readers return must always be the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rankdet.coco import Finding
from rankdet.coco.segmentations import to_rle
from rankdet.data.layouts import Source

NAMES = ("cat", "dog", "a: bird")


@dataclass(frozen=True)
class Object:
    """A class, and corners: two of a box, more of a polygon."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the box."""
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def is_box(self) -> bool:
        return len(self.points) == 2


@dataclass(frozen=True)
class Photo:
    """An upright size (width, height), how the file is to be turned, and objects."""

    name: str
    size: tuple[int, int]
    objects: tuple[Object, ...] = ()
    orientation: int = 1


CAT = Object("cat", ((10, 5), (30, 25)))
DOG = Object("dog", ((40, 20), (99, 59)))
BOXES = (
    Photo("a.jpg", (100, 60), (CAT, DOG)),
    Photo("b.png", (48, 64), (Object("a: bird", ((1, 2), (24, 32))),)),
    Photo("turned.jpg", (40, 80), (Object("dog", ((4, 50), (20, 78))),), orientation=6),
    Photo("empty.jpg", (50, 50)),
)
TRIANGLE = Object("cat", ((10, 5), (30, 5), (30, 25)))
PENTAGON = Object("dog", ((40, 20), (90, 22), (80, 50), (45, 45), (41, 30)))
POLYGONS = (
    Photo("a.jpg", (100, 60), (TRIANGLE, PENTAGON)),
    Photo("turned.jpg", (40, 80), (Object("dog", ((4, 50), (20, 60), (12, 78))),), orientation=8),
    Photo("empty.png", (50, 50)),
)


def save(photo: Photo, folder: Path) -> Path:
    """Write the image file of a photo; below ``folder`` its name may have folders of its own."""
    width, height = photo.size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for one in photo.objects:
        left, top, right, bottom = map(int, one.corners)
        pixels[top:bottom, left:right] = 80 * (1 + NAMES.index(one.name))
    image, exif = Image.fromarray(pixels), Image.Exif()
    if photo.orientation != 1:
        exif[0x0112] = photo.orientation
        image = image.rotate({3: 180, 6: 90, 8: 270}[photo.orientation], expand=True)
    path = folder / photo.name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)
    return path


def read_split(sources: Mapping[str, Source] | None, split: str = "train") -> tuple[dict[str, Any], list[Finding]]:
    """The document of a split that was found, whose images are all there, and what is said of it."""
    assert sources is not None
    source = sources[split]
    assert source.document is not None
    document, findings = source.document()
    assert all((source.images / image["file_name"]).is_file() for image in document["images"])
    return dict(document), findings


def contents(document: Mapping[str, Any]) -> dict[str, Any]:
    """Images by name: size and objects in order, each with class, corners and outline, so that two can be compared."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    found: dict[str, Any] = {}
    for image in document["images"]:
        rows = [row for row in document["annotations"] if row["image_id"] == image["id"]]
        objects = []
        for row in rows:
            x, y, w, h = row["bbox"]
            polygons = row["segmentation"] if isinstance(row["segmentation"], list) else None
            outline = np.round(polygons, 1).tolist() if polygons else polygons
            objects.append((names[row["category_id"]], np.round([x, y, x + w, y + h], 1).tolist(), outline))
        found[image["file_name"]] = ((image.get("width"), image.get("height")), sorted(objects, key=str))
    return found


def expected(photos: Iterable[Photo], name: Callable[[str], str] = str) -> dict[str, Any]:
    """What `contents` finds in the document of a scene."""
    found = {}
    for photo in photos:
        objects = []
        for one in photo.objects:
            outline = [] if one.is_box else [[float(value) for point in one.points for value in point]]
            objects.append((one.name, [float(value) for value in one.corners], outline))
        found[name(photo.name)] = (photo.size, sorted(objects, key=str))
    return found


def masks(document: Mapping[str, Any]) -> list[Any]:
    """The masks of the annotations of a document, in their order, as run lengths."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    return [to_rle(row["segmentation"], sizes[row["image_id"]]) for row in document["annotations"]]


def problems(findings: Iterable[Finding]) -> list[str]:
    """Severity and problem of each kind of finding, sorted."""
    return sorted({f"{finding.severity}: {finding.problem}" for finding in findings})
