"""Exports of datumaro: `python of_datumaro.py ORIGINAL OUT`, in an environment that has datumaro."""

import sys

import datumaro

original, out = sys.argv[1:]
for form, name, options in (
    ("COCO", "coco_instances", {}),
    ("COCO of polygons", "coco_instances", {"segmentation_mode": "polygons"}),
    ("YOLO (Ultralytics)", "yolo_ultralytics", {}),
    ("YOLO (Darknet)", "yolo", {}),
    ("Pascal VOC", "voc_detection", {}),
    ("CVAT", "cvat", {}),
):
    dataset = datumaro.Dataset.import_from(original, "coco_instances")
    dataset.export(f"{out}/{form}", name, save_media=True, **options)
