#!/usr/bin/env bash
# datumaro: a mask without attributes is written to COCO as a crowd region.
#
# A good guess: `Mask(image, label=0)` is one object, as `Bbox` and `Polygon` are, and COCO says `iscrowd: 0`.
# What happens: boxes and polygons are written with `iscrowd: 0`, masks with `iscrowd: 1`, run lengths and all.
# Why it matters: trainers leave crowds out and evaluators do not count them. A set of masks made this way has no object
# to learn from, and every metric on it is undefined, while counts of annotations look right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq datumaro==1.13.12 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
from importlib.metadata import version

import datumaro
import numpy as np
from datumaro.components.annotation import Bbox, Mask, Polygon

mask = np.zeros((50, 50), dtype=bool)
mask[10:30, 10:30] = True
objects = [Mask(mask, label=0, id=1), Bbox(10, 10, 20, 20, label=0, id=2, group=2)]
objects.append(Polygon([10, 10, 30, 10, 30, 30, 10, 30], label=0, id=3, group=3))
item = datumaro.DatasetItem("a", subset="train", annotations=objects, media=datumaro.Image.from_numpy(np.zeros((50, 50, 3))))
datumaro.Dataset.from_iterable([item], categories=["cell"]).export("out", "coco_instances")
rows = json.load(open("out/annotations/instances_train.json"))["annotations"]
found = {row["id"]: row["iscrowd"] for row in rows}
print("datumaro", version("datumaro"), "| iscrowd of a mask, a box, a polygon:", [found[key] for key in (1, 2, 3)])
assert found == {1: 1, 2: 0, 3: 0}, found
PY
