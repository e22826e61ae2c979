#!/usr/bin/env bash
# supervision → labelme → labelme2coco: an object in two parts, and the order of classes.
#
# A good guess: shapes of labelme that share a `group_id` are parts of one object, which is what the field is for and how
# supervision writes an object of two parts; the converter makes one annotation with two polygons of them.
# What happens: labelme2coco does not read `group_id`: each part becomes an annotation. And it numbers classes in the
# order in which it meets them, so that train and val, converted one after the other, have the same ids for other names.
# Why it matters: a detector learns halves of objects, and tools that match classes by id measure dogs against cats.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq supervision==0.31.2 labelme2coco==0.2.6 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import logging
import os
from importlib.metadata import version

logging.disable(logging.CRITICAL)
import labelme2coco
import numpy as np
import supervision
from PIL import Image

names = {}
for split, labels in (("train", [0, 1]), ("val", [1, 0])):
    os.makedirs(split)
    path = f"{split}/a.png"
    Image.new("RGB", (100, 60)).save(path)
    masks = np.zeros((2, 60, 100), dtype=bool)
    masks[0, 10:50, 10:20] = masks[0, 10:50, 30:40] = True
    masks[1, 10:50, 60:90] = True
    objects = supervision.Detections(supervision.mask_to_xyxy(masks).astype(float), masks, class_id=np.array(labels))
    supervision.DetectionDataset(["cat", "dog"], [path], {path: objects}).as_labelme(annotations_directory_path=split)
    shapes = json.load(open(f"{split}/a.json"))["shapes"]
    labelme2coco.convert(split, f"out_{split}")
    document = json.load(open(f"out_{split}/dataset.json"))
    names[split] = {each["id"]: each["name"] for each in document["categories"]}
groups = [(shape["label"], shape["group_id"]) for shape in shapes]
print("supervision", version("supervision"), "| shapes and their groups of 2 objects:", groups)
boxes = [each["bbox"] for each in document["annotations"]]
print("labelme2coco", version("labelme2coco"), "| annotations:", len(boxes), boxes, "| classes:", names)
assert groups[0][1] is not None, groups
assert groups[0][1] == groups[1][1], groups
assert len(boxes) == 3, boxes
assert names == {"train": {0: "cat", 1: "dog"}, "val": {0: "dog", 1: "cat"}}, names
PY
