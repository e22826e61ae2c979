#!/usr/bin/env bash
# supervision: masks → COCO, with the area of the mask and a box that is a pixel short.
#
# A good guess: a mask of 10 × 10 pixels is written with a box of 10 × 10, as `pycocotools.mask.toBbox` gives it, and its
# outline covers 100 pixels.
# What happens: the box is 9 × 9 (from the first to the last pixel, instead of to its far edge), the outline covers 81
# pixels, and `area` is 100. A line one pixel wide has a box of width 0.
# Why it matters: a detector that is right to the pixel has IoU 0.81 with a 10-pixel object of such a file, so its AP on
# this size is at most 0.7. Trainers leave objects of width 0 out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq supervision==0.31.2 pycocotools==2.0.11 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
from importlib.metadata import version

import numpy as np
import pycocotools.mask as rle
import supervision
from PIL import Image

Image.new("RGB", (40, 40)).save("a.png")
masks = np.zeros((2, 40, 40), dtype=bool)
masks[0, 5:15, 5:15] = True
masks[1, 20:35, 30:31] = True
boxes = supervision.mask_to_xyxy(masks).astype(float)
objects = supervision.Detections(xyxy=boxes, mask=masks, class_id=np.zeros(2, dtype=int))
supervision.DetectionDataset(["cell"], ["a.png"], {"a.png": objects}).as_coco(annotations_path="out.json")
rows = json.load(open("out.json"))["annotations"]
right = [rle.toBbox(rle.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist() for mask in masks]
outline = rle.merge(rle.frPyObjects(rows[0]["segmentation"], 40, 40))
truth = rle.encode(np.asfortranarray(masks[0].astype(np.uint8)))
overlap = rle.iou([right[0]], [rows[0]["bbox"]], [0])[0, 0], rle.iou([truth], [outline], [0])[0, 0]
print("supervision", version("supervision"), "| boxes:", [row["bbox"] for row in rows], "| pycocotools:", right)
print("area in the file:", rows[0]["area"], "| area of the outline:", rle.area(outline), "| IoU of boxes, masks:", overlap)
assert [row["bbox"] for row in rows] == [[5, 5, 9, 9], [30, 20, 0, 14]], rows
assert right == [[5, 5, 10, 10], [30, 20, 1, 15]], right
assert rows[0]["area"] == 100, rows[0]["area"]
assert rle.area(outline) == 81, rle.area(outline)
assert all(abs(value - 0.81) < 1e-6 for value in overlap), overlap
PY
