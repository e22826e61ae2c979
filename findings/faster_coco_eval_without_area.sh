#!/usr/bin/env bash
# faster-coco-eval: ground truth whose annotations have no `area`.
#
# A good guess: the area is that of the box, or the missing key is an error, as it is in pycocotools.
# What happens: it counts as 0, so every object is "small": a box of 200 × 200 pixels is in AP of small objects, and AP of
# large ones is −1.
# Why it matters: files for boxes alone often have no `area`. The overall AP is right, and the numbers by size, by which
# resolutions and anchors are chosen, say that there are only small objects.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq faster-coco-eval==1.8.0 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import contextlib
import io
from importlib.metadata import version

from faster_coco_eval import COCO, COCOeval_faster

document = {
    "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 400}],
    "categories": [{"id": 1, "name": "cell"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 200, 200], "iscrowd": 0}],
}
found = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 200, 200], "score": 0.9}]
values = {}
for name, area in (("without", {}), ("with", {"area": 40000})):
    document["annotations"][0] |= area
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(document)
        evaluation = COCOeval_faster(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values[name] = [round(float(value), 3) for value in (*evaluation.stats[:1], *evaluation.stats[3:6])]
print("faster-coco-eval", version("faster-coco-eval"), "| AP, APs, APm, APl without and with area:", values)
assert values["without"] == [1, 1, -1, -1], values
assert values["with"] == [1, -1, -1, 1], values
PY
