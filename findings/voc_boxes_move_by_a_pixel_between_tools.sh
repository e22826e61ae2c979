#!/usr/bin/env bash
# Pascal VOC between supervision, datumaro, globox and pylabel: one box, three conventions.
#
# A good guess: VOC counts pixels from 1 and includes the last one, so a COCO box [10, 20, 30, 40] is 11, 21 … 40, 60, in
# every tool; or all of them agree on 10, 20 … 40, 60.
# What happens: datumaro, globox and pylabel write 10, 20, 40, 60; supervision writes 11, 21, 41, 61, and when it reads it
# moves only the first corner: what it wrote itself returns a pixel wider and higher, and the others' boxes too.
# Why it matters: a pixel on each side of a 10-pixel object is an IoU of 0.83, so AP at IoU 0.85 … 0.95 is lost. It
# shifts all boxes alike and is invisible in drawings.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq supervision==0.31.2 globox==2.9.0 pylabel==0.1.55 pandas==2.3.3 datumaro==1.13.12 pycocotools==2.0.11
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import json
import os
import re
from importlib.metadata import version
from pathlib import Path
from shutil import copy

import datumaro
import globox
import supervision
from PIL import Image
from pylabel import importer

os.makedirs("in/images/train")
os.makedirs("in/annotations")
Image.new("RGB", (100, 80)).save("in/images/train/a.png")
row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
document = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
    "categories": [{"id": 1, "name": "cell"}],
    "annotations": [row | {"segmentation": [[10, 20, 40, 20, 40, 60, 10, 60]]}],
}
file = Path("in/annotations/instances_train.json")
file.write_text(json.dumps(document))

supervision.DetectionDataset.from_coco("in/images/train", str(file)).as_pascal_voc(annotations_directory_path="out/supervision")
datumaro.Dataset.import_from("in", "coco_instances").export("out/datumaro", "voc_detection", save_media=True)
globox.AnnotationSet.from_coco(file).save_pascal_voc(Path("out/globox"))
importer.ImportCoco(str(file), path_to_images="../images/train", name="x").export.ExportToVoc("out/pylabel")

written, read = {}, {}
for tool in ("supervision", "datumaro", "globox", "pylabel"):
    xml = next(Path("out", tool).rglob("a.xml"))
    text = xml.read_text()
    written[tool] = [float(re.search(f"<{key}>([^<]*)<", text)[1]) for key in ("xmin", "ymin", "xmax", "ymax")]
    folder = Path("again", tool)
    folder.mkdir(parents=True)
    copy("in/images/train/a.png", folder)
    (folder / "a.xml").write_text(re.sub("<filename>[^<]*<", "<filename>a.png<", text))
    box = next(iter(globox.AnnotationSet.from_pascal_voc(folder))).boxes[0]
    frame = importer.ImportVOC(str(folder)).df.iloc[0]
    corner = [float(frame["ann_bbox_xmin"]), float(frame["ann_bbox_ymin"])]
    read[tool] = {
        "supervision": supervision.DetectionDataset.from_pascal_voc(str(folder), str(folder))[0][2].xyxy[0].tolist(),
        "globox": [box.xmin, box.ymin, box.xmax, box.ymax],
        "pylabel": corner + [corner[0] + float(frame["ann_bbox_width"]), corner[1] + float(frame["ann_bbox_height"])],
    }
for tool, box in written.items():
    print(tool, version(tool), "| COCO box 10, 20 … 40, 60 is written as", box, "| read by:", read[tool])
plain, moved = [10, 20, 40, 60], [11, 21, 41, 61]
assert written == {"supervision": moved, "datumaro": plain, "globox": plain, "pylabel": plain}, written
assert read["supervision"] == {"supervision": [10, 20, 41, 61], "globox": moved, "pylabel": moved}, read["supervision"]
for tool in ("datumaro", "globox", "pylabel"):
    assert read[tool] == {"supervision": [9, 19, 40, 60], "globox": plain, "pylabel": plain}, read[tool]
PY
