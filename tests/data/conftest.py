"""A tiny COCO folder that tests bend as they need."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rankdet.data import CocoDataset


class Folder:
    """Four images with a gradient, three objects; category ids 7 and 2, out of order."""

    def __init__(self, root: Path) -> None:
        self.root, self.images, self.annotations = root, root / "images", root / "annotations" / "instances_train.json"
        self.images.mkdir()
        self.annotations.parent.mkdir()
        self.document: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        for place, (width, height) in enumerate(((64, 48), (48, 64), (80, 40), (64, 48))):
            self.add_image(10 + place, width, height)
        self.document["categories"] = [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}]
        self.add(10, 7, [4, 6, 20, 10])
        self.add(10, 2, [30, 8, 16, 32])
        self.add(11, 2, [1, 2, 3, 4])
        self.write()

    def add_image(self, image_id: int, width: int, height: int) -> None:
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[..., 0] = np.arange(width)
        pixels[..., 1] = np.arange(height)[:, None]
        pixels[..., 2] = image_id
        Image.fromarray(pixels).save(self.images / f"{image_id}.png")
        self.document["images"].append(
            {"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height}
        )

    def add(self, image_id: int, category_id: int, box: list[float], **fields: Any) -> dict[str, Any]:
        x, y, w, h = box
        annotation = {
            "id": 100 + len(self.document["annotations"]),
            "image_id": image_id,
            "category_id": category_id,
            "bbox": box,
            "area": w * h,
            "iscrowd": 0,
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        } | fields
        self.document["annotations"].append(annotation)
        return annotation

    def write(self) -> None:
        self.annotations.write_text(json.dumps(self.document))

    def dataset(self, *args: Any, **fields: Any) -> CocoDataset:
        self.write()
        return CocoDataset(self.annotations, self.images, *args, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def save_image(tmp_path: Path) -> Callable[..., Path]:
    """Write pixels or a Pillow image to a file with Pillow's options."""

    def save(name: str, image: Any, **options: Any) -> Path:
        if not isinstance(image, Image.Image):
            image = Image.fromarray(image)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save
