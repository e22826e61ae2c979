#!/usr/bin/env bash
# datumaro: COCO → Pascal VOC and CVAT when train and val both have a 000001.png.
#
# A good guess: a COCO set keeps each split's images in a folder of its own, so the same file name in two splits is fine;
# an export to a format with one folder for all renames one of them, or refuses.
# What happens: the later split overwrites the earlier one. The VOC set lists 000001 in train and in val, with the image
# and the objects of val for both; the CVAT export has the boxes of both beside the image of val alone.
# Why it matters: part of the training set is gone and replaced by validation images, so the AP of the detector is too
# good (VOC), or boxes are learned on images they do not belong to (CVAT). Nothing is printed, and numbers of images in
# the lists are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq datumaro==1.13.12 pycocotools==2.0.11 numpy==2.4.6 pillow==12.3.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import os
from importlib.metadata import version

import datumaro
from PIL import Image

os.makedirs("in/annotations")
for split, label, color, box in (("train", 1, "red", [10, 10, 20, 20]), ("val", 2, "blue", [50, 40, 30, 20])):
    os.makedirs(f"in/images/{split}")
    Image.new("RGB", (100, 80), color).save(f"in/images/{split}/000001.png")
    row = {"id": 1, "image_id": 1, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
    document = {
        "images": [{"id": 1, "file_name": "000001.png", "width": 100, "height": 80}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [row | {"segmentation": []}],
    }
    json.dump(document, open(f"in/annotations/instances_{split}.json", "w"))
for form in ("voc_detection", "cvat"):
    datumaro.Dataset.import_from("in", "coco_instances").export(form, form, save_media=True)
back = datumaro.Dataset.import_from("voc_detection", "voc_detection")
names = back.categories()[datumaro.AnnotationType.label].items
seen = {item.subset: [names[each.label].name for each in item.annotations] for item in back}
colors = {form: Image.open(f"{form}/{place}/000001.png").getpixel((0, 0)) for form, place in
          (("voc_detection", "JPEGImages"), ("cvat", "images"))}
print("datumaro", version("datumaro"), "| VOC, objects by split (train had a cat):", seen)
print("color of the only 000001.png (train was red, val is blue):", colors)
assert seen == {"train": ["dog"], "val": ["dog"]}, seen
assert set(colors.values()) == {(0, 0, 255)}, colors
assert all(os.path.exists(f"cvat/{split}.xml") for split in ("train", "val"))
PY
