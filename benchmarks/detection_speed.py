"""Images per second of all detectors in detection, one by one and in batches.

    python benchmarks/detection_speed.py [--size 256 320] [--batch-size 8] [--repeats 2] [--threads 1] [--only NAME …]

Networks of 80 classes with ResNet-50 (SOLOv2-light: 34) and random weights, on pixels of noise; nothing is downloaded.
From bytes to detections, on the processor's clock; batches of both sizes take turns in one process and are compared by
medians, after a turn that warms up. Proposals of random weights are spread over the image, so that R-CNNs read as many
as they may. `benchmarks/detectors.py` compares with torchvision and mmdetection, by equal weights, one image at a time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rankdet.inference.loading import build_model
from rankdet.inference.model import Model
from rankdet.recipes import load_recipe
from rankdet.report import markdown_table
from rankdet.structures import Batch, Images, Source, Target

CLASSES = 80
RECIPES = {
    "Faster R-CNN": "faster_rcnn_r50_coco",
    "Mask R-CNN": "mask_rcnn_r50_coco",
    "Cascade R-CNN": "cascade_rcnn_r50_coco",
    "ATSS": "atss_r50_coco",
    "PAA": "paa_r50_coco",
    "YOLACT": "yolact_r50_coco",
    "SOLOv2-light": "solov2_light_r34_coco",
    "RT-DETR": "detr_r50_coco",
}
Detect = Callable[[Tensor], object]
"""From pixels (B, 3, H, W) uint8 to detections."""


def detector(name: str) -> Detect:
    """A recipe's detector."""
    recipe = load_recipe(name)
    categories = [(label + 1, str(label)) for label in range(CLASSES)]
    model: Model = build_model(
        recipe, recipe.detector.build(CLASSES, pretrained=False), categories, torch.device("cpu")
    )
    model.network.eval()

    def detect(pixels: Tensor) -> object:
        size = (pixels.shape[2], pixels.shape[3])
        count = len(pixels)
        nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        sources = tuple(Source(image, "", size) for image in range(count))
        return model.detect_batch(Batch(Images(pixels, (size,) * count), (nothing,) * count, sources))

    return detect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[*RECIPES], choices=tuple(RECIPES), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = tuple(options.size)
    pixels = torch.randint(0, 256, (options.batch_size, 3, *size), dtype=torch.uint8)
    rows: list[list[str | int | float | None]] = []
    for name in options.only:
        torch.manual_seed(0)
        detect = detector(RECIPES[name])
        speeds: dict[int, list[float]] = {1: [], options.batch_size: []}
        for _ in range(options.repeats + 1):
            for count, measured in speeds.items():
                start = time.process_time()
                detect(pixels[:count])
                measured.append(count / (time.process_time() - start))
        alone, together = (statistics.median(measured[1:]) for measured in speeds.values())
        rows.append([name, f"{alone:.2f}", f"{together:.2f}", f"{together / alone:.2f}"])
        print(f"{name}: {alone:.2f} and {together:.2f} images/s", flush=True)
    columns = ["detector", "one by one, images/s", f"in batches of {options.batch_size}", "ratio"]
    print(markdown_table(columns, rows))


if __name__ == "__main__":
    main()
