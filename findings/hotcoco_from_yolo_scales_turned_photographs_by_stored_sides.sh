#!/usr/bin/env bash
# hotcoco: COCO.from_yolo with images_dir on a photograph that EXIF turns by 90 degrees, as telephones write it.
#
# A good guess: fractions of YOLO belong to the image as labeling tools and ultralytics show it, so the sides to multiply
# with are those after the rotation; ultralytics exchanges width and height for such files.
# What happens: width and height are those of the stored pixels, and boxes are multiplied with them.
# Why it matters: the record says 100 × 50 where every viewer shows 50 × 100. The box of an object in the upper left is
# in another place and of another shape, whichever way the image is decoded. Upright photographs of telephones are stored so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq hotcoco==1.3.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import os

from hotcoco import COCO, __version__
from PIL import Image

os.makedirs("labels")
os.makedirs("images")
exif = Image.Exif()
exif[0x0112] = 6  # to be turned by 90 degrees clockwise
Image.new("RGB", (100, 50)).save("images/a.jpg", exif=exif)
open("labels/data.yaml", "w").write("nc: 1\nnames: [cat]\n")
open("labels/a.txt", "w").write("0 0.2 0.1 0.4 0.2\n")  # left and top 0, 20 × 20 pixels of the upright 50 × 100
data = COCO.from_yolo("labels", "images").dataset
size = (data["images"][0]["width"], data["images"][0]["height"])
box = [round(value, 3) for value in data["annotations"][0]["bbox"]]
print("hotcoco", __version__, "| size", size, "box", box, "| upright: (50, 100) and [0, 0, 20, 20]")
assert size == (100, 50), size
assert box == [0, 0, 40, 10], box
PY
