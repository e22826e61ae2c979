#!/usr/bin/env bash
# supervision: COCO → YOLO and Pascal VOC of an object in two parts.
#
# A good guess: a bus behind a pole is one annotation with two polygons in COCO and stays one object: its box goes to VOC
# as it is, and YOLO gets one line, with one joined polygon or with the box.
# What happens: both exports write one object per part, each with a box of its own. The box of the whole object, which
# the COCO file names, is in neither.
# Why it matters: a detector learns halves of objects, and one that finds the whole is wrong. It happens in exports for
# pure box detection too, and only to objects that something covers, which no glance at a few images shows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq supervision==0.31.2 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import os
from importlib.metadata import version
from xml.etree import ElementTree

import supervision
from PIL import Image

os.makedirs("in")
Image.new("RGB", (100, 100)).save("in/a.png")
parts = [[10, 10, 30, 10, 30, 50, 10, 50], [40, 10, 90, 10, 90, 50, 40, 50]]
row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 80, 40], "area": 2800, "iscrowd": 0}
document = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "bus"}],
    "annotations": [row | {"segmentation": parts}],
}
json.dump(document, open("in.json", "w"))
dataset = supervision.DetectionDataset.from_coco("in", "in.json")
print("supervision", version("supervision"), "| objects read:", len(dataset[0][2]), "| box:", dataset[0][2].xyxy.tolist())
dataset.as_yolo(annotations_directory_path="yolo", data_yaml_path="data.yaml")
dataset.as_pascal_voc(annotations_directory_path="voc")
lines = open("yolo/a.txt").read().split("\n")
boxes = [[int(box.find(key).text) for key in ("xmin", "ymin", "xmax", "ymax")]
         for box in ElementTree.parse("voc/a.xml").iter("bndbox")]
print("lines of YOLO:", lines, "| boxes of VOC:", boxes)
assert len(dataset[0][2]) == 1
assert len([line for line in lines if line]) == 2, lines
assert len(boxes) == 2, boxes
assert all(box[2] - box[0] < 60 for box in boxes), boxes
PY
