"""Exports of globox: `python of_globox.py ORIGINAL OUT`, in an environment that has globox."""

import sys
from pathlib import Path
from shutil import copytree

import globox

original, out = map(Path, sys.argv[1:])
for split in ("train", "val"):
    boxes = globox.AnnotationSet.from_coco(original / "annotations" / f"instances_{split}.json")
    names = {name: number for number, name in enumerate(sorted(boxes._labels()))}
    for form in ("COCO", "YOLO", "Pascal VOC", "CVAT", "labelme"):
        folder = out / form
        images = folder / ("images" if form in ("COCO", "YOLO") else "") / split
        copytree(original / "images" / split, images)
        if form == "COCO":
            (folder / "annotations").mkdir(exist_ok=True)
            boxes.save_coco(folder / "annotations" / f"instances_{split}.json", auto_ids=True)
        elif form == "YOLO":
            (folder / "labels").mkdir(exist_ok=True)
            boxes.save_yolo_v5(folder / "labels" / split, label_to_id=names)
            lines = [f"  {number}: {name}" for name, number in names.items()]
            text = ["train: images/train", "val: images/val", "names:", *lines]
            (folder / "data.yaml").write_text("\n".join(text))
        elif form == "Pascal VOC":
            boxes.save_pascal_voc(images)
        elif form == "CVAT":
            boxes.save_cvat(images / "annotations.xml")
        else:
            boxes.save_labelme(images)
