"""Draws docs/images/blood_cells.jpg: photographs with their objects, and what two detectors find in them.

    python docs/photos.py RUN_STANDARD RUN_RS --data FOLDER [--split test] [--images 3] [--out FILE]

The images are the first ones of the split that have objects. For each detector the image shows as many detections as
there are objects: those of the highest scores. A score threshold would favor one form, because the scores of the two
losses have different meanings; an equal number of detections favors none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import resize

import rankdet
from rankdet.data.pixels import to_pixels
from rankdet.inference.detections import Detections
from rankdet.report import draw_detections, draw_grid, write_image
from rankdet.structures import Target

OUT = Path(__file__).parent / "images" / "blood_cells.jpg"
WIDTH = 1600
"""Pixels of the drawing."""


def read_objects(file: Path) -> dict[str, Target]:
    """Return the objects of each image of a COCO file, by the name of the image."""
    document = json.loads(file.read_text(encoding="utf-8"))
    labels = {each: label for label, each in enumerate(sorted(category["id"] for category in document["categories"]))}
    found = {}
    for image in document["images"]:
        objects = [each for each in document["annotations"] if each["image_id"] == image["id"]]
        boxes = torch.tensor([each["bbox"] for each in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[image["file_name"]] = Target(boxes, torch.tensor([labels[each["category_id"]] for each in objects]))
    return found


def count_matches(found: Detections, target: Target, iou: float = 0.5) -> int:
    """Return the number of objects that are found: by descending score, a detection takes its best free object.

    A detection and an object match if their classes are equal and their boxes overlap by at least ``iou``.
    """
    overlap = box_iou(found.boxes, target.boxes)
    overlap[found.labels[:, None] != target.labels] = 0
    count = 0
    for overlaps in overlap:  # the best score first
        j = int(overlaps.argmax())
        if overlaps[j] >= iou:
            overlap[:, j] = 0
            count += 1
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("standard", type=Path, help="run folder of the standard form")
    parser.add_argument("rank_sort", type=Path, help="run folder of the RS form")
    parser.add_argument("--data", type=Path, required=True, help="data folder in COCO format, its images in images/")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=3, help="number of images")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args(arguments)
    objects = read_objects(options.data / "annotations" / f"instances_{options.split}.json")
    chosen = dict(islice(((name, target) for name, target in objects.items() if len(target.boxes)), options.images))
    files = [options.data / "images" / name for name in chosen]
    models = {"standard": rankdet.load(options.standard), "RS": rankdet.load(options.rank_sort)}
    names = models["RS"].names
    cells = [
        [(draw_detections(to_pixels(file), None, names, target), f"{len(target.boxes)} objects")]
        for file, target in zip(files, chosen.values(), strict=True)
    ]
    for form, model in models.items():
        for row, file, target, found in zip(cells, files, chosen.values(), model.detect(files), strict=True):
            shown = found[: len(target.boxes)]
            caption = f"{form}: {count_matches(shown, target)} of {len(target.boxes)} found"
            row.append((draw_detections(to_pixels(file), shown.detection, names), caption))
    flat = [cell for row in cells for cell in row]
    grid = draw_grid([image for image, _ in flat], [text for _, text in flat], columns=3)
    height = round(grid.shape[1] * WIDTH / grid.shape[2])
    write_image(options.out, resize(grid, [height, WIDTH], antialias=True))


if __name__ == "__main__":
    main()
