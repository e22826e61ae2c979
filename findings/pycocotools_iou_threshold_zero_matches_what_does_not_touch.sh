#!/usr/bin/env bash
# pycocotools and hotcoco: an IoU threshold of 0, as localization-aware calibration errors (LaECE₀, LaACE₀) ask for.
#
# A good guess: a detection is matched where it overlaps an object at all, however little.
# What happens: one that touches nothing is matched as well, for its IoU of 0 reaches the threshold. It takes the object
# away from a detection with a lower score that fits it exactly, and that becomes a false positive.
# Why it matters: recall and precision at this threshold say nothing, and the authors' code of LaECE₀ (arXiv:2405.20459)
# matches in this way. The IoU that a score is calibrated to is 0 for the detection that hits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq pycocotools==2.0.11 hotcoco==1.3.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import contextlib
import io
import json
from importlib.metadata import version

import hotcoco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

truth = {
    "images": [{"id": 1, "width": 100, "height": 100}],
    "categories": [{"id": 1, "name": "cell"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}],
}
found = [
    {"image_id": 1, "category_id": 1, "bbox": [50, 50, 10, 10], "score": 0.9},
    {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5},
]
with open("truth.json", "w") as file:
    json.dump(truth, file)
matches = {}
for threshold in (0.0, 1e-9):
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO("truth.json")
        evaluation = COCOeval(objects, objects.loadRes(found), "bbox")
    evaluation.params.iouThrs = [threshold]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    objects = hotcoco.COCO(truth)
    other = hotcoco.COCOeval(objects, objects.load_res(found), "bbox")
    other.params.iou_thrs = [threshold]
    other.evaluate()
    own = next(entry for entry in other.eval_imgs if entry)
    matches[threshold] = [evaluation.evalImgs[0]["dtMatches"][0].tolist(), list(own["dtMatches"][0])]
print("pycocotools", version("pycocotools"), "and hotcoco", version("hotcoco"), "| object of the detection that touches")
print("nothing, and of the one that fits exactly, by IoU threshold:", matches)
assert matches == {0.0: [[1, 0], [1, 0]], 1e-9: [[0, 1], [0, 1]]}, matches
PY
