"""A data set that tests of the page fill as they need it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rankdet.look import write_look
from rankdet.look.page import Overview


class Scene:
    """A data set of noise images that tests fill with objects."""

    def __init__(
        self, root: Path, splits: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = ("cat", "dog")
    ):
        self.root = root
        (root / "annotations").mkdir(parents=True)
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(classes)]
        self.documents: dict[str, dict[str, Any]] = {
            split: {"images": [], "annotations": [], "categories": categories} for split in splits
        }
        self.random = np.random.default_rng(0)

    def image(self, split: str = "train", width: int = 80, height: int = 60, name: str = "", pixels: Any = None) -> int:
        images = self.documents[split]["images"]
        image_id = len(images) + 1
        name = name or f"{image_id:03}.png"
        path = self.root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            small = self.random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            pixels = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        elif isinstance(pixels, np.ndarray):
            pixels = Image.fromarray(pixels)
        if pixels is not False:
            pixels.save(path)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        return image_id

    def object(self, image: int, box: list[Any], split: str = "train", category: int = 1, **fields: Any) -> None:
        annotations = self.documents[split]["annotations"]
        row = {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
        annotations.append(row | fields)

    def look(self, **options: Any) -> tuple[Overview, str]:
        for split, document in self.documents.items():
            (self.root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
        out = self.root / "look.html"
        return write_look(self.root, out, **options), out.read_text(encoding="utf-8")


def fill(scene: Scene) -> None:
    """Three sound images with an object each in both splits."""
    for split in scene.documents:
        for _ in range(3):
            scene.object(scene.image(split), [10, 12, 30, 20], split)


def crowded(root: Path, images: int, objects: int, side: int, classes: int = 3) -> Scene:
    """Images of pure noise, which no codec makes small, with many objects of jagged outlines."""
    scene = Scene(root, classes=tuple(f"class {number}" for number in range(classes)))
    jagged = [[x, y + (x % 2) * 3] for x in range(40) for y in (5,)]
    for number in range(images):
        split = "val" if number % 3 == 0 else "train"
        image = scene.image(split, side, side, pixels=scene.random.integers(0, 255, (side, side, 3), dtype=np.uint8))
        for place in range(objects):
            x, y = scene.random.integers(0, side - 45, 2).tolist()
            outline = [value for px, py in [*jagged, [39, 40], [0, 40]] for value in (x + px, y + py)]
            scene.object(image, [x, y, 40, 40], split, place % classes + 1, segmentation=[outline])
    return scene
