"""Exports of label-studio-sdk: `python of_label_studio.py ORIGINAL OUT`, in an environment that has label-studio-sdk.

Its importer does not take run lengths, and makes two objects of one with a box and a polygon: it is given boxes alone.
"""

import json
import sys
from pathlib import Path
from shutil import copytree

from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

original, out = (Path(each).resolve() for each in sys.argv[1:])
for split in ("train", "val"):
    tasks = out / "tasks" / f"{split}.json"
    tasks.parent.mkdir(parents=True, exist_ok=True)
    document = json.loads((original / "annotations" / f"instances_{split}.json").read_text())
    for row in document["annotations"]:
        del row["segmentation"], row["iscrowd"]
    boxes = out / "tasks" / f"boxes_{split}.json"
    boxes.write_text(json.dumps(document))
    images = original / "images" / split
    convert_coco_to_ls(str(boxes), str(tasks), image_root_url="/data/upload/1")
    rows = json.loads(tasks.read_text())
    for number, row in enumerate(rows):
        row["id"] = row["annotations"][0]["id"] = number + 1  # as a server numbers them
    tasks.write_text(json.dumps(rows))
    converter = Converter(str(tasks.with_suffix(".label_config.xml")), str(images), upload_dir=str(images))
    converter.convert(str(tasks), str(out / "COCO" / split), "COCO_WITH_IMAGES", is_dir=False)
    converter.convert(str(tasks), str(out / "YOLO" / split), "YOLO_WITH_IMAGES", is_dir=False)
    converter.convert(str(tasks), str(out / "Pascal VOC" / split), "VOC", is_dir=False)
    for form in ("COCO", "YOLO", "Pascal VOC"):  # as a server does
        copytree(images, out / form / split / "images", dirs_exist_ok=True)
