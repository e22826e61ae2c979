#!/usr/bin/env bash
# hotcoco: COCO.to_cvat of a crowd region.
#
# A good guess: to_yolo skips crowds and counts them, to_voc writes them as difficult and counts them; to_cvat does one or
# the other, or writes the attribute is_crowd, which is how CVAT keeps what it reads from COCO.
# What happens: the region is an ordinary box or polygon, and no number of the summary tells of it. After from_cvat it is
# an object with iscrowd 0.
# Why it matters: a crowd region is neither learned from nor counted as missed. As an object it is a target of training
# that covers many objects, and a miss in every evaluation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq hotcoco==1.3.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from hotcoco import COCO, __version__

row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 50, 20], "area": 1000, "iscrowd": 1}
document = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [row | {"segmentation": {"size": [50, 100], "counts": [500, 20, 4480]}}],
}
truth = COCO(document)
summaries = {"yolo": truth.to_yolo("yolo"), "voc": truth.to_voc("voc"), "cvat": truth.to_cvat("out.xml")}
back = [(row["bbox"], row["iscrowd"]) for row in COCO.from_cvat("out.xml").dataset["annotations"]]
print("hotcoco", __version__, "|", summaries, "| after the round trip through CVAT:", back)
assert summaries["yolo"]["skipped_crowd"] == 1 == summaries["voc"]["crowd_as_difficult"], summaries
assert not any("crowd" in key for key in summaries["cvat"]), summaries
assert back == [([10, 5, 50, 20], 0)], back
PY
