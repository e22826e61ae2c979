#!/usr/bin/env bash
# sahi and supervision: a COCO file that is read and saved, and detections made before.
#
# A good guess: reading a COCO file and saving it keeps the ids of images, which result files refer to; or new ids are
# such that old results are refused.
# What happens: both number images from 1 in the order of the file. Where the file is not sorted by id the same numbers
# stand for other images, so pycocotools accepts old results and scores them against the wrong images.
# Why it matters: perfect detections have AP 0.06 on a file of the same images and boxes, and nothing says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq sahi==0.12.8 supervision==0.31.2 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import contextlib
import io
import json
import os
from importlib.metadata import version

import supervision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.utils.coco import Coco

os.makedirs("images")
order = (3, 1, 2, 4)
for number in order:
    Image.new("RGB", (100, 100)).save(f"images/{number}.png")
row = {"category_id": 1, "area": 400, "iscrowd": 0, "segmentation": []}
document = {
    "images": [{"id": number, "file_name": f"{number}.png", "width": 100, "height": 100} for number in order],
    "categories": [{"id": 1, "name": "cell"}],
    "annotations": [row | {"id": n, "image_id": n, "bbox": [20 * n - 15, 20, 20, 20]} for n in (1, 2, 3, 4)],
}
json.dump(document, open("before.json", "w"))
json.dump(Coco.from_coco_dict_or_path("before.json").json, open("sahi.json", "w"))
supervision.DetectionDataset.from_coco("images", "before.json").as_coco(annotations_path="supervision.json")
keys = ("image_id", "category_id", "bbox")
results = [{key: each[key] for key in keys} | {"score": 0.9} for each in document["annotations"]]
found = {}
for name in ("before", "sahi", "supervision"):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(f"{name}.json")
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found[name] = round(float(evaluation.stats[0]), 3)
    print(name, [(each["id"], each["file_name"]) for each in truth.dataset["images"]], "AP", found[name])
print("sahi", version("sahi"), "| supervision", version("supervision"))
assert found["before"] == 1, found
assert found["sahi"] < 0.3, found
assert found["supervision"] < 0.3, found
PY
