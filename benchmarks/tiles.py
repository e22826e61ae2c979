"""AP of a mosaic of validation images by detection in tiles, beside that of the images one by one.

    python benchmarks/tiles.py CHECKPOINT DATA [--cell 256] [--side 2048] [--gap 0] [--tile 256] [--overlap 0.25]

Of the data's split `val`, images of ``cell`` × ``cell`` pixels are laid out in rows, ``gap`` gray pixels apart, on one
square image of ``side`` pixels. Their objects are those of the mosaic. Borders of tiles do not follow those of images,
so that most tiles show parts of several. Detections in tiles are compared with those of the model in each image
alone, by AP of boxes and masks, and with those in the mosaic as a whole. All detections of the mosaic count, and as
many of each image as the model finds. The memory is what tiles need beyond that of the images alone, which are in
batches of eight, too.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hotcoco import mask as rle
from PIL import Image

import rankdet
from rankdet import Tiles
from rankdet.data import find_layout
from rankdet.data.pixels import to_pixels
from rankdet.inference.detections import Detections
from rankdet.inference.model import Model
from rankdet.metrics import evaluate

GRAY = 127
ALL = 10_000


def moved(code: dict[str, Any], top: int, left: int, side: int) -> dict[str, Any]:
    """The run lengths of a mask in the mosaic."""
    canvas = np.zeros((side, side), dtype=np.uint8, order="F")
    height, width = code["size"]
    canvas[top : top + height, left : left + width] = rle.decode(code)
    return rle.encode(canvas)


def mosaic(folder: Path, cell: int, side: int, gap: int) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """The mosaic, its annotations, and those of the images in it."""
    source = find_layout(folder).source("val")
    document = json.loads(Path(source.annotations).read_text())
    rows = [row for row in document["images"] if (row["height"], row["width"]) == (cell, cell)]
    steps = range(0, side - cell + 1, cell + gap)
    places = dict(zip((row["id"] for row in rows), ((top, left) for top in steps for left in steps), strict=False))
    rows = [row | {"file_name": str(source.images / row["file_name"])} for row in rows if row["id"] in places]
    canvas = np.full((side, side, 3), GRAY, dtype=np.uint8)
    for row in rows:
        top, left = places[row["id"]]
        canvas[top : top + cell, left : left + cell] = to_pixels(row["file_name"]).permute(1, 2, 0).numpy()
    objects = [row for row in document["annotations"] if row["image_id"] in places]
    large = []
    for row in objects:
        top, left = places[row["image_id"]]
        x, y, width, height = row["bbox"]
        code = moved(row["segmentation"], top, left, side)
        large.append(row | {"image_id": 1, "bbox": [x + left, y + top, width, height], "segmentation": code})
    image = {"id": 1, "file_name": "mosaic.png", "height": side, "width": side}
    return (
        canvas,
        document | {"images": [image], "annotations": large},
        document | {"images": rows, "annotations": objects},
    )


def measured(truth: dict[str, Any], records: list[dict[str, Any]], has_masks: bool, cap: int) -> str:
    """AP of boxes, and of masks where there are any."""
    kinds = ("bbox", "segm") if has_masks else ("bbox",)
    values = [f"{evaluate(truth, records, kind, max_detections=cap)['AP']:.4f}" for kind in kinds]
    return f"AP {' of boxes, '.join(values)}{' of masks' if has_masks else ' of boxes'}, {len(records)} detections"


def timed(model: Model, pixels: np.ndarray, tiles: Tiles | None) -> tuple[Detections, float]:
    start = time.perf_counter()
    return model.detect(pixels, tiles=tiles), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cell", type=int, default=256)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--gap", type=int, default=0)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--out", type=Path, help="Write the mosaic here.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = rankdet.load(arguments.checkpoint)
    pixels, truth, single = mosaic(arguments.data, arguments.cell, arguments.side, arguments.gap)
    if arguments.out is not None:
        Image.fromarray(pixels).save(arguments.out)
    print(f"{len(single['images'])} images, {len(single['annotations'])} objects, {arguments.side} pixels")
    alone = model.detect([row["file_name"] for row in single["images"]])
    has_masks = alone[0].mask_scores is not None
    rows = zip(single["images"], alone, strict=True)
    records = [record for row, found in rows for record in found.to_coco(row["id"])]
    print(f"images alone: {measured(single, records, has_masks, model.max_detections)}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, seconds = timed(model, pixels, Tiles(arguments.tile, arguments.overlap))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cut = int(found.is_cut.sum())
    result = measured(truth, found.to_coco(1), has_masks, ALL)
    print(f"tiles:        {result}, {cut} cut by borders; {seconds:.0f} s, {(after - before) / 1024:.0f} MB more")
    found, seconds = timed(model, pixels, None)
    print(f"as a whole:   {measured(truth, found.to_coco(1), has_masks, ALL)}; {seconds:.0f} s")


if __name__ == "__main__":
    main()
