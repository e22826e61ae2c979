"""Exports of labelme2coco: `python of_labelme2coco.py LABELME OUT`; LABELME has a folder of labelme for each split."""

import sys
from pathlib import Path
from shutil import copytree

import labelme2coco

original, out = (Path(each).resolve() for each in sys.argv[1:])
for split in ("train", "valid"):
    copytree(original / split, out / "COCO" / split, ignore=lambda _, names: [name for name in names if "json" in name])
    labelme2coco.convert(str(original / split), str(out / "COCO" / split), category_id_start=1)
