#!/usr/bin/env bash
# hotcoco: COCO.from_yolo with images_dir where some images have no label file.
#
# A good guess: as YOLO defines it, an image without objects needs no label file, so it becomes an image without
# annotations; the folder of images is an argument.
# What happens: images come from the label files alone. Those without one are not in the result, and nothing is said.
# Why it matters: detections in background images count as nothing, so that precision looks better than it is. Here a
# detector with a false positive of score 0.9 in the background has an AP of 1.0 in place of 0.5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq hotcoco==1.3.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import contextlib
import io
import os

from hotcoco import COCO, COCOeval, __version__
from PIL import Image

os.makedirs("labels")
os.makedirs("images")
open("labels/data.yaml", "w").write("nc: 1\nnames: [cat]\n")
open("labels/a.txt", "w").write("0 0.5 0.5 0.2 0.2\n")
for name in ("a", "background"):
    Image.new("RGB", (100, 50)).save(f"images/{name}.jpg")


def measured():
    truth = COCO.from_yolo("labels", "images")
    ids = {row["file_name"]: row["id"] for row in truth.dataset["images"]}
    scores = [("a", 0.8), ("background", 0.9)]
    rows = [{"image_id": ids[name], "category_id": 1, "bbox": [40, 20, 20, 10], "score": score}
            for name, score in scores if name in ids]
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, truth.load_res(rows), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return sorted(ids), round(run.stats[0], 3)


without = measured()
open("labels/background.txt", "w").close()
empty = measured()
print("hotcoco", __version__, "| without a label file:", without, "| with an empty one:", empty)
assert without == (["a"], 1.0), without
assert empty == (["a", "background"], 0.5), empty
PY
