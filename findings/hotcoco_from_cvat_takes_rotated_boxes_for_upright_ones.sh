#!/usr/bin/env bash
# hotcoco: COCO.from_cvat on a box that was rotated in CVAT, <box … rotation="90.00">.
#
# A good guess: COCO has no rotation, so the box becomes the upright one around the rotated corners, or it is skipped with
# the warning that polylines and other shapes get which COCO cannot express.
# What happens: the attribute is not read. The box is that before the rotation: for an object 40 wide and 10 high that was
# turned by 90 degrees, [10, 25, 40, 10] in place of [25, 10, 10, 40]. Nothing is said.
# Why it matters: the IoU of both boxes is 0.14. Each rotated box is a wrong target in training and a miss in evaluation,
# and rotated boxes are one click in CVAT.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq hotcoco==1.3.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from hotcoco import COCO, __version__

box = '<box label="ship" occluded="0" xtl="10" ytl="25" xbr="50" ybr="35" rotation="90.00" z_order="0"></box>'
labels = "<meta><task><labels><label><name>ship</name></label></labels></task></meta>"
image = f'<image id="0" name="a.jpg" width="100" height="60">{box}</image>'
open("annotations.xml", "w").write(f"<annotations><version>1.1</version>{labels}{image}</annotations>")
found = COCO.from_cvat("annotations.xml").dataset["annotations"][0]["bbox"]
print("hotcoco", __version__, "| box", found, "| around the rotated corners: [25, 10, 10, 40]")
assert found == [10, 25, 40, 10], found
PY
