"""Exports of fiftyone: `python of_fiftyone.py ORIGINAL OUT`, in an environment that has fiftyone and its mongod."""

import os
import sys

os.environ |= {"FIFTYONE_DATABASE_VALIDATION": "false", "FIFTYONE_DO_NOT_TRACK": "true"}

import fiftyone

original, out = sys.argv[1:]
masks = {"label_types": ["segmentations"], "use_polylines": False}
for split in ("train", "val"):
    dataset = fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.COCODetectionDataset,
        data_path=f"{original}/images/{split}",
        labels_path=f"{original}/annotations/instances_{split}.json",
        include_id=True,
        **masks,
    )
    field = "segmentations" if dataset.has_field("segmentations") else "ground_truth"
    classes = dataset.default_classes or next(iter(dataset.classes.values()))
    for form, kind, options in (
        ("COCO", fiftyone.types.COCODetectionDataset, {}),
        ("YOLO", fiftyone.types.YOLOv5Dataset, {"split": split}),
        ("Pascal VOC", fiftyone.types.VOCDetectionDataset, {}),
        ("CVAT", fiftyone.types.CVATImageDataset, {}),
    ):
        folder = f"{out}/{form}" if form == "YOLO" else f"{out}/{form}/{split}"
        if form in ("COCO", "YOLO"):
            options["classes"] = [name for name in classes if name != "0"]
        dataset.export(export_dir=folder, dataset_type=kind, label_field=field, export_media=True, **options)
    dataset.delete()
