#!/usr/bin/env bash
# hotcoco: COCO.to_cvat of an object whose segmentation has two polygons, and back by COCO.from_cvat.
#
# A good guess: CVAT keeps parts of an object together by group_id, and its own export to COCO joins them again; so the
# object is one object after the round trip, or the summary counts what could not be expressed.
# What happens: each polygon is a shape without a group. Read by hotcoco or by CVAT they are two objects with a box each.
# The summary that is returned shows nothing skipped.
# Why it matters: whatever another object covers in part has several polygons. It becomes several smaller objects: counts,
# boxes and AP change, and an exact detection of the object is a false positive beside two misses.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq hotcoco==1.3.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from hotcoco import COCO, __version__

parts = [[10, 5, 20, 5, 20, 15, 10, 15], [50, 15, 60, 15, 60, 25, 50, 25]]
row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 50, 20], "area": 200, "iscrowd": 0}
document = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [row | {"segmentation": parts}],
}
summary = COCO(document).to_cvat("out.xml")
boxes = [row["bbox"] for row in COCO.from_cvat("out.xml").dataset["annotations"]]
print("hotcoco", __version__, "|", summary, "| boxes after the round trip:", boxes)
assert "group_id" not in open("out.xml").read()
assert boxes == [[10, 5, 10, 10], [50, 15, 10, 10]], boxes
assert not summary["skipped_no_geometry"] + summary["skipped_degenerate"], summary
PY
