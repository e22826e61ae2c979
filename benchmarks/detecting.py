"""Images per second of `rankdet detect` in batches, beside one image at a time, as ratios.

    python benchmarks/detecting.py [RECIPE ...] [--images 48] [--height 96] [--width 128] [--batch-size 8] [--repeats 5]

Networks of recipes, by default the small ones of `shapes`, detect with random weights in files of noise, on one thread.
Reading, the network and `detections.json` are in the time, and drawings are not: they cost the same for each image.
Batches of both sizes take turns in one process. Printed are the medians in images per second of the processor's
time, which other processes disturb less, and their ratio; and the largest difference between scores of both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.files import ImageFiles
from rankdet.inference.loading import build_model
from rankdet.inference.model import Model
from rankdet.recipes import load_recipe
from rankdet.runs.memory import keep_freed_memory

CLASSES = [(1, "a"), (2, "b"), (3, "c")]
SMALL = ("rs_faster_rcnn_shapes", "rs_atss_shapes", "rs_mask_rcnn_shapes")


def write_images(folder: Path, images: int, height: int, width: int) -> ImageFiles:
    """Files of noise."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number:04}.jpg" for number in range(images)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return ImageFiles(paths)


def detected(model: Model, files: ImageFiles, out: Path, batch_size: int) -> tuple[float, list[float]]:
    """Images per second of the processor's time, and the scores."""
    start = time.process_time()
    detect_and_draw(model, files, out, None, lambda _: None, batch_size=batch_size, drawings=False)
    speed = len(files.paths) / (time.process_time() - start)
    rows = json.loads((out / "detections.json").read_text())["annotations"]
    return speed, [row["score"] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=SMALL)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory() as place:
        files = write_images(Path(place), arguments.images, arguments.height, arguments.width)
        for name in arguments.recipes:
            torch.manual_seed(0)
            recipe = load_recipe(name)
            network = recipe.detector.build(len(CLASSES), pretrained=False).eval()
            model = build_model(recipe, network, CLASSES, torch.device("cpu"))
            speeds: dict[int, list[float]] = {1: [], arguments.batch_size: []}
            scores: dict[int, list[float]] = {}
            for _ in range(arguments.repeats + 1):  # the first round warms up
                for size, measured in speeds.items():
                    speed, scores[size] = detected(model, files, Path(place, "out"), size)
                    measured.append(speed)
            alone, together = (statistics.median(measured[1:]) for measured in speeds.values())
            first, second = (np.sort(values) for values in scores.values())
            same = np.abs(first - second).max() if len(first) == len(second) else float("nan")
            print(
                f"{name}: {alone:.1f} images/s one by one, {together:.1f} in batches of {arguments.batch_size}: "
                f"{together / alone:.2f} ×; {len(first)} and {len(second)} detections, scores differ by {same:.1g}"
            )


if __name__ == "__main__":
    main()
