"""Exports of sahi: `python of_sahi.py ORIGINAL OUT`, in an environment that has sahi."""

import json
import sys
from pathlib import Path
from shutil import copytree

from sahi.utils.coco import Coco, export_coco_as_yolo

original, out = map(Path, sys.argv[1:])
read = {
    split: Coco.from_coco_dict_or_path(
        str(original / "annotations" / f"instances_{split}.json"), image_dir=str(original / "images" / split)
    )
    for split in ("train", "val")
}
for split, coco in read.items():
    copytree(original / "images" / split, out / "COCO" / "images" / split)
    (out / "COCO" / "annotations").mkdir(exist_ok=True)
    (out / "COCO" / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco.json))
export_coco_as_yolo(str(out / "YOLO"), train_coco=read["train"], val_coco=read["val"], disable_symlink=True)
