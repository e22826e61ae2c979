"""Processor time and memory of `rankdet.metrics.evaluate`, beside the AP of hotcoco alone, as ratios.

    python benchmarks/evaluation.py [--images 5000] [--classes 80] [--boxes 500000] [--iou-type bbox] [--repeats 5]
    python benchmarks/evaluation.py --iou-type segm --images 1000 --boxes 100000

Ours is AP and oLRP, of all classes and of each, with all checks of what is read. Theirs is AP without a check. Both
take turns in one process, with one thread, and are compared by their medians. "Objects" are what `json.load` makes of
the files; "training" is an evaluation during training, whose ground truth is read already and whose detections are
arrays. Memory is what a fresh process grows by at its peak. Images have 7 objects on average, sizes are log-uniform,
and four of ten detections lie near an object.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval
from hotcoco import mask as rle

from rankdet.coco import read_ground_truth, read_results
from rankdet.metrics import evaluate

SIZE = WIDTH, HEIGHT = 640, 480
Documents = tuple[dict[str, Any], list[dict[str, Any]]]


def outline(box: np.ndarray) -> list[float]:
    """An ellipse of sixteen corners in a box."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = np.stack([1 + np.cos(angles), 1 + np.sin(angles)], axis=1) / 2
    return (box[:2] + around * box[2:]).round(2).ravel().tolist()


def make_documents(num_images: int, num_classes: int, num_boxes: int, masks: bool) -> Documents:
    """Ground truth and detections in the form of COCO's files."""
    random = np.random.default_rng(0)

    def boxes(number: int) -> np.ndarray:
        sizes = np.exp(random.uniform(np.log(8), np.log(300), (number, 2)))
        return np.concatenate([random.uniform(0, 1, (number, 2)) * (SIZE - sizes), sizes], axis=1)

    number = 7 * num_images
    images, labels, objects = (
        random.integers(num_images, size=number),
        random.integers(num_classes, size=number),
        boxes(number),
    )
    objects = objects.round(2)
    annotations = [
        {
            "id": row + 1,
            "image_id": 1 + 3 * int(images[row]),
            "category_id": 1 + int(labels[row]),
            "bbox": objects[row].tolist(),
            "area": float(objects[row, 2:].prod() * np.pi / 4),
            "iscrowd": int(random.random() < 0.01),
            "segmentation": [outline(objects[row])],
        }
        for row in range(number)
    ]
    near, source = random.random(num_boxes) < 0.4, random.integers(number, size=num_boxes)
    found_images = np.where(near, images[source], random.integers(num_images, size=num_boxes))
    found_labels = np.where(near, labels[source], random.integers(num_classes, size=num_boxes))
    around = objects[source] * (1 + random.normal(0, 0.1, (num_boxes, 4)))
    found = np.where(near[:, None], around, boxes(num_boxes)).astype(np.float32).astype(np.float64)
    scores = np.where(near, random.random(num_boxes), random.random(num_boxes) ** 3).astype(np.float32).tolist()
    records = []
    for row in np.argsort(found_images, kind="stable").tolist():
        record = {"image_id": 1 + 3 * int(found_images[row]), "category_id": 1 + int(found_labels[row])}
        if masks:
            code = rle.fr_poly(outline(found[row]), HEIGHT, WIDTH)
            record["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
        else:
            record["bbox"] = found[row].tolist()
        records.append(record | {"score": scores[row]})
    truth = {
        "images": [
            {"id": 1 + 3 * place, "file_name": f"{place:012}.jpg", "height": HEIGHT, "width": WIDTH}
            for place in range(num_images)
        ],
        "categories": [{"id": 1 + label, "name": f"class {label}"} for label in range(num_classes)],
        "annotations": annotations,
    }
    return truth, records


def average_precision(truth: Any, found: Any, iou_type: str) -> Any:
    """The AP of hotcoco alone."""
    objects = COCO(truth)
    evaluation = COCOeval(objects, objects.load_res(found), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


def seconds(run: Callable[[], Any]) -> float:
    """Processor time of all threads."""
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def compare_times(truth: Path, found: Path, iou_type: Any, repeats: int) -> None:
    """Print medians and ratios."""
    objects = json.loads(truth.read_bytes()), json.loads(found.read_bytes())
    files = str(truth), str(found)
    masks = iou_type == "segm"
    read, _ = read_ground_truth(objects[0], masks=masks)
    arrays, _ = read_results(objects[1], read, masks)
    runs = {
        "hotcoco, objects": lambda: average_precision(*objects, iou_type),
        "rankdet, objects": lambda: evaluate(*objects, iou_type),
        "hotcoco, files": lambda: average_precision(*files, iou_type),
        "rankdet, files": lambda: evaluate(*files, iou_type),
        "rankdet, training": lambda: evaluate(read, arrays, iou_type),
    }
    times = {
        name: statistics.median(column)
        for name, column in zip(
            runs, zip(*([seconds(run) for run in runs.values()] for _ in range(repeats)), strict=True), strict=True
        )
    }
    print("| from | hotcoco, AP: s | rankdet, AP and oLRP: s | ratio |\n|---|---|---|---|")
    for kind, base in (("objects", "objects"), ("files", "files"), ("training", "objects")):
        theirs, ours = times[f"hotcoco, {base}"], times[f"rankdet, {kind}"]
        print(f"| {kind} | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |", flush=True)


def print_growth(who: str, kind: str, truth: Path, found: Path, iou_type: Any) -> None:
    """Print the megabytes that this process grows by at its peak."""
    sources: Any = (str(truth), str(found))
    if kind == "objects":
        sources = json.loads(truth.read_bytes()), json.loads(found.read_bytes())
    run = average_precision if who == "hotcoco" else evaluate
    empty: Documents = {"images": [], "categories": [], "annotations": []}, []
    run(*empty, iou_type)  # what is loaded at the first use
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    run(*sources, iou_type)
    print(resident("VmHWM") - before)


def resident(key: str) -> float:
    """Memory of this process in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def compare_memory(truth: Path, found: Path, iou_type: str) -> None:
    """Print the growth of fresh processes, and ratios."""
    print("\n| from | hotcoco: MB | rankdet: MB | ratio |\n|---|---|---|---|")
    for kind in ("objects", "files"):
        growth = {}
        for who in ("hotcoco", "rankdet"):
            command = [sys.executable, __file__, "--growth", who, kind, truth, found, "--iou-type", iou_type]
            growth[who] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        theirs, ours = growth["hotcoco"], growth["rankdet"]
        print(f"| {kind} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--boxes", type=int, default=500_000)
    parser.add_argument("--iou-type", choices=["bbox", "segm"], default="bbox")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--growth", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.growth:
        who, kind, truth, found = options.growth
        print_growth(who, kind, Path(truth), Path(found), options.iou_type)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "truth.json"), Path(folder, "found.json")
        documents = make_documents(options.images, options.classes, options.boxes, options.iou_type == "segm")
        for path, document in zip(paths, documents, strict=True):
            path.write_text(json.dumps(document))
        del documents
        compare_times(*paths, options.iou_type, options.repeats)
        compare_memory(*paths, options.iou_type)


if __name__ == "__main__":
    main()
