#!/usr/bin/env bash
# supervision: what a segmenter finds → COCO, to be corrected by hand and trained on.
#
# A good guess: every detection is one object of the file; a ring or an object behind a pole is written as run lengths or
# as several polygons, with `iscrowd: 0`.
# What happens: masks with a hole and masks of two parts are written with `iscrowd: 1`.
# Why it matters: pre-labeled sets are made this way. Rings, and whatever stands behind something, are then no objects
# for trainers and evaluators: pycocotools counts one object of three, and a detector that misses both others has AP 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq supervision==0.31.2 pycocotools==2.0.11 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import contextlib
import io
import json
from importlib.metadata import version

import numpy as np
import supervision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Image.new("RGB", (60, 60)).save("a.png")
masks = np.zeros((3, 60, 60), dtype=bool)
masks[0, 5:25, 5:25] = True
masks[1, 30:50, 5:25] = True
masks[1, 35:45, 10:20] = False  # a ring
masks[2, 5:25, 30:36] = masks[2, 5:25, 42:48] = True  # behind a pole
boxes = supervision.mask_to_xyxy(masks).astype(float)
objects = supervision.Detections(xyxy=boxes, mask=masks, class_id=np.zeros(3, dtype=int))
supervision.DetectionDataset(["part"], ["a.png"], {"a.png": objects}).as_coco(annotations_path="out.json")
rows = json.load(open("out.json"))["annotations"]
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO("out.json")
    found = [{"image_id": 1, "category_id": rows[0]["category_id"], "bbox": rows[0]["bbox"], "score": 0.9}]
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
crowds = [row["iscrowd"] for row in rows]
print("supervision", version("supervision"), "| iscrowd of a square, a ring, two parts:", crowds)
print("AP of a detector that finds the square alone:", evaluation.stats[0])
assert crowds == [0, 1, 1], crowds
assert abs(evaluation.stats[0] - 1) < 1e-9, evaluation.stats[0]
PY
