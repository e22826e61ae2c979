#!/usr/bin/env bash
# torchvision: boxes of masks, then `SanitizeBoundingBoxes`, as its own finetuning tutorial has them.
#
# A good guess: the box around a mask contains its pixels, so a line of 1 × 8 pixels has a box of 1 × 8, as
# `pycocotools.mask.toBbox` gives it.
# What happens: `masks_to_boxes` returns the first and the last pixel as corners: 10 × 10 pixels become 9 × 9, a line has
# width 0, and `SanitizeBoundingBoxes`, which is there for boxes that a crop has emptied, drops the line.
# Why it matters: thin objects (cracks, wires, fibers) leave the training without a word, and small ones are learned a
# pixel short of the boxes that COCO's evaluation compares with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.14.1 torchvision==0.29.1 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import pycocotools.mask as rle
import torch
import torchvision
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

masks = torch.zeros(3, 20, 20, dtype=torch.uint8)
masks[0, 2:10, 5:6] = masks[1, 15:16, 2:18] = masks[2, 1:11, 8:18] = 1
boxes = masks_to_boxes(masks)
right = [rle.toBbox(rle.encode(np.asfortranarray(mask.numpy()))).tolist() for mask in masks]
sides = (boxes[:, 2:] - boxes[:, :2]).tolist()
target = {
    "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(20, 20)),
    "masks": tv_tensors.Mask(masks),
    "labels": torch.arange(3),
}
left = v2.SanitizeBoundingBoxes()(target)["labels"].tolist()
print("torchvision", torchvision.__version__, "| width, height of boxes:", sides, "| pycocotools:", [b[2:] for b in right])
print("of the objects 0, 1, 2 are left:", left)
assert sides == [[0, 7], [15, 0], [9, 9]], sides
assert [box[2:] for box in right] == [[1, 8], [16, 1], [10, 10]], right
assert left == [2], left
PY
