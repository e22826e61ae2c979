#!/usr/bin/env bash
# torchmetrics: mAP of images with more than 100 objects.
#
# A good guess: `max_detection_thresholds=[1, 10, 300]` raises the limit, and `map` is AP with up to 300 detections.
# What happens: `map` is −1, which means "no object", while `map_50`, `map_75` and `mar_300` are right. With the other
# backend, faster_coco_eval, the same call returns 1.
# Why it matters: crowded images (cells, shelves, aerial images) need the higher limit, and checkpoints are chosen by
# `map`: with −1 in each epoch the first one is the best.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torchmetrics==1.9.0 pycocotools==2.0.11 faster-coco-eval==1.8.0 torch==2.14.1 torchvision==0.29.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.detection import MeanAveragePrecision

corner = torch.arange(150, dtype=torch.float32)
left, top = corner % 15 * 20, corner // 15 * 20
boxes = torch.stack([left, top, left + 16, top + 16], 1)
truth = [{"boxes": boxes, "labels": torch.zeros(150, dtype=torch.long)}]
found = [truth[0] | {"scores": torch.linspace(0.9, 0.5, 150)}]
seen = {}
for backend in ("pycocotools", "faster_coco_eval"):
    for limit in (100, 300):
        metric = MeanAveragePrecision(max_detection_thresholds=[1, 10, limit], backend=backend)
        metric.update(found, truth)
        result = metric.compute()
        seen[backend, limit] = [round(float(result[key]), 3) for key in ("map", "map_50", f"mar_{limit}")]
print("torchmetrics", version("torchmetrics"), "| map, map_50, mar of perfect detections of 150 objects:")
for key, values in seen.items():
    print(" ", *key, values)
assert seen["pycocotools", 300] == [-1, 1, 1], seen
assert seen["faster_coco_eval", 300] == [1, 1, 1], seen
assert 0.6 < seen["pycocotools", 100][0] < 0.7, seen
PY
