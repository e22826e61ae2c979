"""Exports of supervision: `python of_supervision.py ORIGINAL OUT`, in an environment that has supervision."""

import sys

import supervision

original, out = sys.argv[1:]
for split, part in (("train", "train"), ("val", "valid")):
    for with_masks in (False, True):
        dataset = supervision.DetectionDataset.from_coco(
            f"{original}/images/{split}", f"{original}/annotations/instances_{split}.json", force_masks=with_masks
        )
        if with_masks:
            folder = f"{out}/COCO"
            dataset.as_coco(f"{folder}/{part}", f"{folder}/{part}/_annotations.coco.json")
            folder = f"{out}/labelme"
            dataset.as_labelme(f"{folder}/{part}", f"{folder}/{part}")
        folder = f"{out}/YOLO {'polygons' if with_masks else 'boxes'}"
        dataset.as_yolo(f"{folder}/{part}/images", f"{folder}/{part}/labels", f"{folder}/data.yaml")
        folder = f"{out}/Pascal VOC {'polygons' if with_masks else 'boxes'}"
        dataset.as_pascal_voc(f"{folder}/{part}", f"{folder}/{part}")
