#!/usr/bin/env bash
# Label Studio's COCO export → ultralytics' `convert_coco`: class −1.
#
# A good guess: COCO's category ids are names for classes, so a converter looks them up in `categories`; ids that start
# at 0, as Label Studio's exporter writes them, give classes 0, 1, 2 in YOLO.
# What happens: `convert_coco(cls91to80=False)` writes `category_id - 1`: the first class becomes −1, the others the
# class before them. When a training reads the file, ultralytics takes the whole image for corrupt and leaves it out.
# Why it matters: each image with an object of the first class is gone, and in the others every object has the name of
# its neighbor in `categories`. The converter says that all went well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq label-studio-sdk==2.1.2 ultralytics==8.4.190 faster-coco-eval==1.8.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import logging
import os
from importlib.metadata import version

logging.disable(logging.CRITICAL)
from label_studio_sdk.converter import Converter
from PIL import Image
from ultralytics.data.converter import convert_coco
from ultralytics.data.utils import verify_image_label

os.makedirs("images")
config = "<View><Image name='image' value='$image'/><RectangleLabels name='label' toName='image'>"
config += "<Label value='cat'/><Label value='dog'/></RectangleLabels></View>"
tasks = []
for number, names in enumerate((["cat", "dog"], ["dog"]), 1):
    path = f"images/{number}.png"
    Image.new("RGB", (100, 100)).save(path)
    result = []
    for place, name in enumerate(names):
        value = {"x": 10 + 40 * place, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": [name]}
        kind = {"type": "rectanglelabels", "from_name": "label", "to_name": "image"}
        result.append(kind | {"id": f"r{place}", "value": value, "original_width": 100, "original_height": 100})
    tasks.append({"id": number, "data": {"image": path}, "annotations": [{"id": number, "result": result}]})
json.dump(tasks, open("tasks.json", "w"))
Converter(config, ".", download_resources=False).convert("tasks.json", "annotations", "COCO", is_dir=False)
document = json.load(open("annotations/result.json"))
print("label-studio-sdk", version("label-studio-sdk"), "| categories:", document["categories"])
convert_coco("annotations", "yolo", cls91to80=False)
files = sorted(os.path.join(folder, name) for folder, _, found in os.walk("yolo") for name in found if ".txt" in name)
texts = [open(name).read().split("\n")[:-1] for name in files]
print("ultralytics", version("ultralytics"), "| lines:", texts)
seen = [verify_image_label((f"images/{number}.png", files[number - 1], "", False, 2, 0, 0, False)) for number in (1, 2)]
print("read by a training:", [each[0] for each in seen], "|", seen[0][-1])
assert [each["id"] for each in document["categories"]] == [0, 1]
assert [line.split()[0] for text in texts for line in text] == ["-1", "0", "0"], texts
assert seen[0][0] is None, seen[0]
assert seen[1][0] is not None, seen[1]
PY
