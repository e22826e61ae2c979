"""Exports of hotcoco, which rankdet itself uses: `python of_hotcoco.py ORIGINAL OUT`."""

import sys
from pathlib import Path
from shutil import copytree

from hotcoco import COCO

original, out = map(Path, sys.argv[1:])
for split in ("train", "val"):
    coco = COCO(str(original / "annotations" / f"instances_{split}.json"))
    for form in ("COCO", "YOLO", "Pascal VOC", "CVAT"):
        images = (
            Path(split, "images") if form == "Pascal VOC" else Path(split) if form == "CVAT" else Path("images", split)
        )
        copytree(original / "images" / split, out / form / images)
    (out / "COCO" / "annotations").mkdir(exist_ok=True)
    coco.save(str(out / "COCO" / "annotations" / f"instances_{split}.json"))
    coco.to_yolo(str(out / "YOLO" / "labels" / split))
    names = (out / "YOLO" / "labels" / split / "data.yaml").read_text()  # without places of images
    (out / "YOLO" / "data.yaml").write_text(f"train: images/train\nval: images/val\n{names}")
    coco.to_voc(str(out / "Pascal VOC" / split))
    coco.to_cvat(str(out / "CVAT" / split / "annotations.xml"))
