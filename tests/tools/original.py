"""The data set that makes the round trips: an ordinary COCO folder with everything that tools lose."""

import json
from pathlib import Path
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rankdet.coco.segmentations import decode_rle, encode_bitmap, to_rle
from rankdet.data import make_shapes

OFFSET = 1 / 3
"""Pixels by which outlines are moved, so that their coordinates have digits to lose."""


def make_original(folder: Path, train: int = 16, val: int = 10) -> Path:
    """Make the set `shapes` with outlines and RLE, holes, parts, crowds, tiny masks, empty images and sparse ids.

    Returns
    -------
    Path
        ``folder``, with ``images/{train,val}`` and ``annotations/instances_{train,val}.json``.
    """
    make_shapes(folder, train=train, val=val, size=128, seed=3)
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}.json"
        document = json.loads(file.read_text())
        for row in document["images"]:  # several formats have all images in one folder
            renamed = f"{split}_{row['file_name']}"
            (folder / "images" / split / row["file_name"]).rename(folder / "images" / split / renamed)
            row["file_name"] = renamed
        for number in (901, 902):
            noise = np.random.default_rng(number).integers(0, 256, (128, 128, 3), dtype=np.uint8)
            name = f"{split}_{number:06d}.png"
            Image.fromarray(noise).save(folder / "images" / split / name)
            document["images"].append({"id": number, "file_name": name, "width": 128, "height": 128})
        file.write_text(json.dumps(changed(document)))
    return folder


def changed(document: dict[str, Any]) -> dict[str, Any]:
    """The document of a split with all that tools lose."""
    for row in document["images"]:
        row["id"] = image_id(row["id"])
    rows = document["annotations"]
    for row in rows:
        row["image_id"] = image_id(row["image_id"])
    simple = [row for row in rows if len(outlines(decode_rle(row["segmentation"]))) == 1]
    for row in simple[::2]:  # outlines; the others, and rings, stay RLE
        set_outlines(row)
    for place, row in enumerate([row for row in simple if row["bbox"][2] >= 20][:4]):
        mask = to_bitmap(row["segmentation"])
        middle = int(row["bbox"][0] + row["bbox"][2] / 2)
        mask[:, middle - 3 : middle + 3] = 0  # as if a pole stood before it
        set_mask(row, mask)
        if place % 2:
            set_outlines(row)
    occupied = {row["image_id"] for row in rows}
    first, second = sorted(occupied)[:2]
    tiny = np.zeros((128, 128), dtype=np.uint8)
    tiny[2, 3:8] = 1
    rows.append(record(document, first, document["categories"][0]["id"], tiny))
    crowd = np.zeros((128, 128), dtype=np.uint8)
    crowd[80:126, 4:124] = 1
    crowd[100:106, 30:90] = 0
    rows.append(record(document, second, document["categories"][1]["id"], crowd) | {"iscrowd": 1})
    for number, row in enumerate(rows):
        row["id"] = 11 + 4 * number
    return document


def image_id(number: int) -> int:
    """A sparse id."""
    return 10 * number + 7


def record(document: dict[str, Any], image: int, category: int, mask: NDArray[np.uint8]) -> dict[str, Any]:
    """A new annotation."""
    row = {"id": 0, "image_id": image, "category_id": category, "iscrowd": 0}
    set_mask(row, mask)
    return row


def set_mask(row: dict[str, Any], mask: NDArray[np.uint8]) -> None:
    """Give an annotation a mask as RLE, and its box and area."""
    down, across = np.nonzero(mask)
    left, top = int(across.min()), int(down.min())
    row["bbox"] = [left, top, int(across.max()) + 1 - left, int(down.max()) + 1 - top]
    row["segmentation"] = encode_bitmap(mask.astype(bool))
    row["area"] = int(mask.sum())


def set_outlines(row: dict[str, Any]) -> None:
    """Give an annotation outlines in place of its RLE, and the box and area of these."""
    polygons = outlines(to_bitmap(row["segmentation"]))
    corners = np.concatenate(polygons)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    row["segmentation"] = [polygon.ravel().tolist() for polygon in polygons]
    row["bbox"] = [left, top, right - left, bottom - top]
    row["area"] = int(to_bitmap(row["segmentation"]).sum())


def to_bitmap(segmentation: Any) -> NDArray[np.uint8]:
    """The mask of a segmentation in an image of the set."""
    return decode_rle(to_rle(segmentation, (128, 128)))


def outlines(mask: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """The outlines of a mask, (corners, 2) each, x and y in pixels; those of holes too."""
    padded = np.pad(mask.astype(np.float64), 1)
    found = contourpy.contour_generator(z=padded).lines(0.5)
    # Centers of pixels have whole numbers here, and those of COCO halves; the frame of zeros adds one.
    return [np.round(np.clip(line[:-1] - 0.5 + OFFSET, 0, 128), 6) for line in found]


if __name__ == "__main__":
    import sys

    make_original(Path(sys.argv[1]))
