"""Exports of ultralytics: `python of_ultralytics.py ORIGINAL OUT`, in an environment that has ultralytics."""

import json
import sys
from pathlib import Path
from shutil import copytree

from ultralytics.data.converter import convert_coco

original, out = (Path(each).resolve() for each in sys.argv[1:])
for with_masks in (False, True):
    folder = out / ("YOLO polygons" if with_masks else "YOLO boxes")
    convert_coco(str(original / "annotations"), str(folder), use_segments=with_masks, cls91to80=False)
    categories = json.loads((original / "annotations" / "instances_val.json").read_text())["categories"]
    lines = [f"  {each['id'] - 1}: {each['name']}" for each in categories]  # as the converter numbers them
    (folder / "data.yaml").write_text("\n".join(["train: images/train", "val: images/val", "names:", *lines]))
    copytree(original / "images", folder / "images", dirs_exist_ok=True)
