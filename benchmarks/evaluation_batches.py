"""Seconds of an evaluation with batches of one padded size, beside batches in the order of the file, as ratios.

    python benchmarks/evaluation_batches.py [--images 96] [--repeats 5] [--batch-size 8] [--device cpu] [--threads N]

Images are noise in sizes as COCO's photographs have them ("mixed"), or all of one of these ("uniform"), and are resized
to at most 320 × 213 pixels. The detectors of recipes run with random weights; both kinds of batches take turns in one
process and are compared by their medians. Reading, resizing, the network, and turning its detections into results are
in the time.
Batches of one size are more, but nothing is computed for padding.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rankdet.coco import Results
from rankdet.data import CocoDataset, KeepRatio, SampleKey, Transforms, build_test_loader, build_training_loader
from rankdet.inference.loading import build_model
from rankdet.inference.model import Model
from rankdet.recipes import load_recipe
from rankdet.runs.folder import write_json
from rankdet.structures import Batch

SIZES = ((640, 480), (640, 427), (480, 640), (640, 640), (500, 375), (640, 360), (427, 640), (612, 612), (333, 500))
SHARES = (0.36, 0.17, 0.14, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03)
"""(width, height) in pixels, and how many images have it."""
CLASSES = [(1, "a"), (2, "b"), (3, "c")]


def make_data(folder: Path, images: int, is_mixed: bool) -> CocoDataset:
    """Images of noise without objects, resized to at most 320 × 213 pixels."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(1, images + 1):
        width, height = SIZES[random.choice(len(SIZES), p=SHARES)] if is_mixed else SIZES[0]
        pixels = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f"{number}.jpg")
        rows.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
    categories = [{"id": category, "name": name} for category, name in CLASSES]
    write_json(folder / "a.json", {"images": rows, "annotations": [], "categories": categories})
    return CocoDataset(folder / "a.json", folder, Transforms(KeepRatio(320, (213,))))


def seconds(model: Model, dataset: CocoDataset, batches: Iterable[Batch]) -> tuple[float, int]:
    """The time of an evaluation up to its results, and how many batches it has."""
    start, number = time.perf_counter(), 0
    for batch in batches:
        number += 1
        for source, detection in zip(batch.sources, model.detect_batch(batch), strict=True):
            Results.of_image(source, detection, dataset.category_ids)
    return time.perf_counter() - start, number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--recipes", nargs="*", default=["rs_faster_rcnn_shapes", "rs_atss_shapes"])
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print("| detector | sizes | batches: as in the file, of one size | time: of one size / as in the file |")
    print("|---|---|---|---|")
    for name in options.recipes:
        torch.manual_seed(0)
        recipe = load_recipe(name)
        network = recipe.detector.build(len(CLASSES), pretrained=False)
        model = build_model(recipe, network, CLASSES, torch.device(options.device))
        for kind in ("mixed", "uniform"):
            with tempfile.TemporaryDirectory() as folder, model.evaluating():
                dataset = make_data(Path(folder), options.images, kind == "mixed")
                step = options.batch_size
                keys = [SampleKey(index, 0) for index in range(len(dataset))]
                in_order = [keys[first : first + step] for first in range(0, len(keys), step)]
                loaders = (
                    build_training_loader(dataset, in_order, workers=0),  # type: ignore[arg-type]  # batches all the same
                    build_test_loader(dataset, step, workers=0),
                )
                rounds = [[seconds(model, dataset, loader) for loader in loaders] for _ in range(options.repeats + 1)]
                times = [[took for took, _ in column] for column in zip(*rounds[1:], strict=True)]  # the first warms up
                ratio = statistics.median(times[1]) / statistics.median(times[0])
                counts = ", ".join(str(number) for _, number in rounds[0])
                print(f"| {name} | {kind} | {counts} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
