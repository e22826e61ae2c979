#!/usr/bin/env bash
# sahi: COCO → YOLO, with category ids from 1, as COCO has them.
#
# A good guess: the class of a line is the place of its category in `names` of the data.yml that is written beside it.
# What happens: the class is the category id itself, while `names` counts from 0. With the ids 1, 2, 3 each object has the
# name of the next class, and the last class has no name; with sparse ids most have none.
# Why it matters: the detector learns dogs as birds, without an error as long as no object of the last class is there,
# and reports its AP under wrong names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq sahi==0.12.8 pyyaml
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import os
from importlib.metadata import version
from pathlib import Path

import yaml
from PIL import Image
from sahi.utils.coco import Coco, export_coco_as_yolo

os.makedirs("images")
Image.new("RGB", (100, 100)).save("images/a.png")
names = ["cat", "dog", "bird"]
row = {"image_id": 1, "area": 400, "iscrowd": 0, "segmentation": []}
document = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
    "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    "annotations": [row | {"id": n, "category_id": n, "bbox": [20 * n, 10, 20, 20]} for n in (1, 2, 3)],
}
json.dump(document, open("in.json", "w"))
coco = Coco.from_coco_dict_or_path("in.json", image_dir="images")
export_coco_as_yolo("out", train_coco=coco, val_coco=coco, disable_symlink=True)
written = yaml.safe_load(Path("out/data.yml").read_text())["names"]
lines = next(Path("out/train").rglob("*.txt")).read_text().splitlines()
classes = [int(line.split()[0]) for line in lines if line]
read = [written[each] if each < len(written) else "no name" for each in classes]
print("sahi", version("sahi"), "| names:", written, "| classes of a cat, a dog, a bird:", classes, "=", read)
assert written == names, written
assert classes == [1, 2, 3], classes
PY
