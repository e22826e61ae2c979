"""What separate pieces of masks cost the boxes around them: of SOLOv2, whose boxes are those of its masks.

    python benchmarks/mask_pieces.py RESULTS.json … --truth ANNOTATIONS.json

Each object is paired with the detection whose mask overlaps it most, if their IoU is above 0.5. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask as rle
from numpy.typing import NDArray
from scipy import ndimage

from rankdet.coco.segmentations import decode_rle, encode_bitmap, outline_box, to_rle
from rankdet.report import markdown_table


def pieces(results: Sequence[dict[str, Any]], truth: dict[str, Any]) -> NDArray[np.float64]:
    """(pairs, 4): number of pieces of the mask, and IoUs of masks, of boxes, and of the largest piece's box."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in results:
        found[record["image_id"]].append(to_rle(record["segmentation"], sizes[record["image_id"]]))
    objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for record in truth["annotations"]:
        if not record.get("iscrowd", 0):
            objects[record["image_id"]].append(to_rle(record["segmentation"], sizes[record["image_id"]]))
    rows = []
    for image_id, targets in objects.items():
        if not found[image_id]:
            continue
        ious = np.asarray(rle.iou(found[image_id], targets, [0] * len(targets)))
        for target, column in zip(targets, ious.T, strict=True):
            best = int(column.argmax())
            if column[best] <= 0.5:
                continue
            predicted = found[image_id][best]
            parts, count = ndimage.label(decode_rle(predicted))
            largest = encode_bitmap(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
            rows.append((count, column[best], _box_iou(predicted, target), _box_iou(largest, target)))
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def _box_iou(first: dict[str, Any], second: dict[str, Any]) -> float:
    """IoU of the boxes around two masks."""
    return float(np.asarray(rle.iou([outline_box(first)], [outline_box(second)], [0]))[0, 0])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results of `rankdet train` or `rankdet evaluate`")
    parser.add_argument("--truth", type=Path, required=True, help="annotations of the same images")
    options = parser.parse_args(arguments)
    truth = json.loads(options.truth.read_text())
    rows = []
    for path in options.results:
        count, mask, box, largest = pieces(json.loads(path.read_text()), truth).T
        means = [f"{values.mean():.3f}" for values in (mask, box, largest)]
        shares = [f"{100 * values.mean():.0f} %" for values in (count > 1, box > 0.5, largest > 0.5)]
        rows.append([str(len(rows) + 1), str(len(count)), *means, *shares])
    columns = ["file", "pairs", "IoU of masks", "of boxes", "of the largest piece's", "masks of several pieces"]
    print(markdown_table([*columns, "boxes above 0.5", "largest piece's above 0.5"], rows))


if __name__ == "__main__":
    main()
