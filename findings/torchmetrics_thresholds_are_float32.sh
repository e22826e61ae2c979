#!/usr/bin/env bash
# torchmetrics: a box whose IoU is exactly one of COCO's thresholds.
#
# A good guess: `MeanAveragePrecision` calls pycocotools, so both give the same number for the same boxes.
# What happens: its default thresholds are float32 numbers, which lie above 0.55, 0.6, 0.8 and 0.85. A box with exactly
# such an IoU misses its own threshold, so AP is 0.1 lower than that of pycocotools; thresholds given as a list of
# Python floats agree.
# Why it matters: boxes on whole pixels have such IoUs all the time (a 10-pixel object found with 8 pixels has 0.8), and
# two projects that both say "COCO mAP" differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torchmetrics==1.9.0 pycocotools==2.0.11 torch==2.14.1 torchvision==0.29.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from torchmetrics.detection import MeanAveragePrecision

listed = [number / 100 for number in range(50, 100, 5)]
seen = {}
for height in range(50, 100, 5):
    truth = [{"boxes": torch.tensor([[0.0, 0.0, 100.0, 100.0]]), "labels": torch.tensor([0])}]
    found = [{"boxes": torch.tensor([[0.0, 0.0, 100.0, height]]), "labels": torch.tensor([0]), "scores": torch.ones(1)}]
    values = []
    for thresholds in (None, listed):
        metric = MeanAveragePrecision(iou_thresholds=thresholds)
        metric.update(found, truth)
        values.append(round(float(metric.compute()["map"]), 3))
    seen[height] = values
print("torchmetrics", version("torchmetrics"), "| IoU in percent: map with default, with listed thresholds")
print(seen)
lower = [height for height, (default, given) in seen.items() if default < given]
assert lower == [55, 60, 80, 85], lower
assert all(round(given * 10) == (height - 50) // 5 + 1 for height, (_, given) in seen.items()), seen
PY
