#!/usr/bin/env bash
# globox: COCO → COCO of a file with a crowd region.
#
# A good guess: a reader and writer of COCO keeps `iscrowd`, or leaves crowds out, as its own evaluation needs it.
# What happens: the region returns as an ordinary object (`iscrowd: 0`), and all segmentations are empty.
# Why it matters: detections inside the region turn from "not counted" into errors, and the region itself is an object
# that no detector finds. Annotations are numbered from 0 on top, and pycocotools takes a match with id 0 for none. A
# perfect detector has AP 1.0 before and 0.0 after, on the same images.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq globox==2.9.0 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import globox
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

row = {"image_id": 1, "category_id": 1}
square = {"id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
square["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30]]
counts = [100 * 40 + 40, *[50] * 99, 100 * 100 - 4040 - 50 * 99]
region = {"id": 2, "bbox": [40, 40, 50, 50], "area": 2500, "iscrowd": 1}
region["segmentation"] = {"size": [100, 100], "counts": counts}
document = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [row | square, row | region],
}
Path("before.json").write_text(json.dumps(document))
globox.AnnotationSet.from_coco(Path("before.json")).save_coco(Path("after.json"), auto_ids=True)
found = [row | {"bbox": [10, 10, 20, 20], "score": 0.8}, row | {"bbox": [50, 50, 10, 10], "score": 0.9}]
values = {}
for name in ("before", "after"):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(f"{name}.json")
        results = [each | {"image_id": truth.getImgIds()[0], "category_id": truth.getCatIds()[0]} for each in found]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values[name] = round(float(evaluation.stats[0]), 3)
rows = json.loads(Path("after.json").read_text())["annotations"]
print("globox", version("globox"), "| after:", [(each["bbox"], each["iscrowd"], each["segmentation"]) for each in rows])
print("AP of the same detections:", values)
assert [each["iscrowd"] for each in rows] == [0, 0], rows
assert [each["segmentation"] for each in rows] == [[], []], rows
assert values["before"] == 1, values
assert values["after"] == 0, values
assert [each["id"] for each in rows] == [0, 1], rows
PY
