"""Exports of pylabel: `python of_pylabel.py ORIGINAL OUT`, in an environment that has pylabel."""

import sys
from pathlib import Path
from shutil import copytree

from pylabel import importer

original, out = (Path(each).resolve() for each in sys.argv[1:])
for split in ("train", "val"):
    file = original / "annotations" / f"instances_{split}.json"
    for form in ("COCO", "Pascal VOC", "YOLO"):
        folder = out / form
        images = folder / ("" if form == "Pascal VOC" else "images") / split
        copytree(original / "images" / split, images)
        dataset = importer.ImportCoco(str(file), path_to_images=str(images), name=split)
        if form == "COCO":
            (folder / "annotations").mkdir(exist_ok=True)
            dataset.export.ExportToCoco(str(folder / "annotations" / f"instances_{split}.json"), cat_id_index=1)
        elif form == "Pascal VOC":
            dataset.export.ExportToVoc(str(images))
        else:
            dataset.export.ExportToYoloV5(str(folder / "labels" / split), yaml_file="../dataset.yaml", cat_id_index=0)
            written = folder / "dataset.yaml"  # its folders of images are those of the last call, for both splits
            names = [line for line in written.read_text().splitlines() if line.startswith("- ")]
            written.unlink()
            (folder / "data.yaml").write_text("\n".join(["train: images/train", "val: images/val", "names:", *names]))
