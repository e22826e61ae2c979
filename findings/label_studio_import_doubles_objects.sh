#!/usr/bin/env bash
# label-studio-sdk: COCO → Label Studio → COCO of one object with a box and a polygon.
#
# A good guess: a COCO annotation is one object that has a box and an outline; it becomes one region of Label Studio, and
# the round trip returns one annotation.
# What happens: the importer makes a rectangle and a polygon of it, and one more polygon for each further part. The
# exporter makes an annotation of each: a bus of two parts returns as three objects, and the box of none is right twice.
# Why it matters: whoever brings a COCO set to Label Studio for corrections gets every object twice. A perfect detector
# has half of the recall, and one without duplicates is punished for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq label-studio-sdk==2.1.2
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import logging
import os
from importlib.metadata import version

logging.disable(logging.CRITICAL)
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.imports.coco import convert_coco_to_ls
from PIL import Image

os.makedirs("images")
Image.new("RGB", (100, 100)).save("images/a.png")
parts = [[10, 10, 30, 10, 30, 50, 10, 50], [40, 10, 90, 10, 90, 50, 40, 50]]
row = {"image_id": 1, "category_id": 1, "iscrowd": 0}
document = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "bus"}],
    "annotations": [
        row | {"id": 1, "bbox": [10, 10, 80, 40], "area": 2800, "segmentation": parts},
        row | {"id": 2, "bbox": [10, 60, 20, 20], "area": 400, "segmentation": [[10, 60, 30, 60, 30, 80, 10, 80]]},
    ],
}
json.dump(document, open("in.json", "w"))
convert_coco_to_ls("in.json", "tasks.json", image_root_url=os.path.abspath("images"))
tasks = json.load(open("tasks.json"))
for number, task in enumerate(tasks):
    task["id"] = task["annotations"][0]["id"] = number + 1  # a server numbers them
json.dump(tasks, open("tasks.json", "w"))
Converter("tasks.label_config.xml", ".", download_resources=False).convert("tasks.json", "out", "COCO", is_dir=False)
back = json.load(open("out/result.json"))["annotations"]
print("label-studio-sdk", version("label-studio-sdk"), "| 2 annotations in, out:", len(back))
for each in back:
    print("  box", each["bbox"], "polygons", len(each["segmentation"]))
assert len(back) == 5, len(back)
assert sum(bool(each["segmentation"]) for each in back) == 3, back
PY
