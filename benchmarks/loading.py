"""Images per second of the processor from JPEG files to a normalized batch, beside torchvision's reference pipeline.

    python benchmarks/loading.py [--images 32] [--repeats 3] [--batch-size 4]

The files are of 640 × 480 and of 4000 × 3000 pixels, made here: waves and blobs with some noise. They are prepared for
a longest side of 1333 and a shorter one of 800 pixels, and for 384 pixels, with random flips. torchvision's pipeline is
that of its reference training: Pillow, `PILToTensor`, `RandomHorizontalFlip`, `ToDtype`, and the model's own
`GeneralizedRCNNTransform`, which resizes without antialiasing in float32, normalizes and pads. Ours is the loader of a
training without workers, and the normalization of a backbone. "Reduced" is ours with `data.reduced_decoding`. All run
on one thread, in turns, and are compared by medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from rankdet.backbones.normalization import PixelNormalization
from rankdet.data import CocoDataset, GroupedBatchSampler, SampleKey, build_training_loader
from rankdet.data.transforms import KeepRatio, Transforms
from rankdet.report import markdown_table

SOURCES = ((480, 640), (3000, 4000))
TARGETS = ((1333, 800), (384, 384))
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def make_files(folder: Path, images: int, size: tuple[int, int]) -> Path:
    """JPEG files of a size, and their annotations: three objects in each image."""
    random = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[:height, :width] / min(size)
    records = []
    for number in range(images):
        waves = sum(
            np.sin(a * rows + b * columns)[..., None] * color
            for a, b, color in zip(*random.uniform(2, 60, (2, 6)), random.uniform(0, 30, (6, 3)), strict=True)
        )
        pixels = 128 + waves + random.normal(0, 4, (height, width, 1))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
        records.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
    boxes = [
        {"id": 3 * image + place, "image_id": image, "category_id": 1, "bbox": [10 + 40 * place, 20, 100, 80],
         "area": 8000, "iscrowd": 0}
        for image in range(images)
        for place in range(3)
    ]  # fmt: skip
    annotations = folder / "annotations.json"
    categories = [{"id": 1, "name": "a"}]
    annotations.write_text(json.dumps({"images": records, "annotations": boxes, "categories": categories}))
    return annotations


def our_dataset(annotations: Path, target: tuple[int, int], reduced: bool) -> CocoDataset:
    """The images as they are prepared here."""
    transforms = Transforms(KeepRatio(target[0], (target[1],)), horizontal_flip=0.5, reduced_decoding=reduced)
    return CocoDataset(annotations, annotations.parent, transforms)


def difference(annotations: Path, target: tuple[int, int]) -> float:
    """Mean difference of the pixels of an image that is decoded to less, of 255."""
    whole, reduced = (our_dataset(annotations, target, one)[SampleKey(0, 0)].image.float() for one in (False, True))
    return float((whole - reduced).abs().mean())


def ours(
    annotations: Path, target: tuple[int, int], images: int, batch_size: int, reduced: bool = False
) -> Callable[[], object]:
    """What goes through all images once."""
    dataset = our_dataset(annotations, target, reduced)
    normalization = PixelNormalization(MEAN, STD)

    def run() -> list[torch.Size]:
        sampler = GroupedBatchSampler(dataset.aspect_ratios, batch_size)
        batches = islice(build_training_loader(dataset, sampler, workers=0), images // batch_size)
        return [normalization(batch.images).shape for batch in batches]

    return run


def theirs(annotations: Path, target: tuple[int, int], images: int, batch_size: int) -> Callable[[], object]:
    """The same by torchvision."""
    flip = v2.Compose([v2.PILToTensor(), v2.RandomHorizontalFlip(0.5), v2.ToDtype(torch.float32, scale=True)])
    last = GeneralizedRCNNTransform(
        target[1], target[0], [value / 255 for value in MEAN], [value / 255 for value in STD]
    )

    def load(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        with Image.open(annotations.parent / f"{number}.jpg") as file:
            image = file.convert("RGB")
        corners = [[10.0 + 40 * place, 20, 110 + 40 * place, 100] for place in range(3)]
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(image.height, image.width))
        pixels, placed = flip(image, boxes)
        return pixels, {"boxes": placed, "labels": torch.ones(3, dtype=torch.int64)}

    def run() -> list[torch.Size]:
        shapes = []
        for start in range(0, images, batch_size):
            loaded = [load(number) for number in range(start, start + batch_size)]
            batch, _ = last([pixels for pixels, _ in loaded], [target for _, target in loaded])
            shapes.append(batch.tensors.shape)
        return shapes

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[str | int | float | None]] = []
    for size in SOURCES:
        images = options.images if size == SOURCES[0] else max(options.batch_size, options.images // 4)
        with tempfile.TemporaryDirectory() as place:
            annotations = make_files(Path(place), images, size)
            for target in TARGETS:
                sides = [
                    side(annotations, target, images, options.batch_size)
                    for side in (theirs, ours, partial(ours, reduced=True))
                ]
                speeds: list[list[float]] = [[], [], []]
                for _ in range(options.repeats + 1):  # the first turn warms up
                    for run, measured in zip(sides, speeds, strict=True):
                        start = time.process_time()
                        run()
                        measured.append(images / (time.process_time() - start))
                first, second, third = (statistics.median(measured[1:]) for measured in speeds)
                wanted = f"{size[1]} × {size[0]} → {target[0]} × {target[1]}"
                ratios = f"{second / first:.2f}", f"{third:.1f}", f"{third / second:.2f}"
                rows.append(
                    [wanted, f"{first:.1f}", f"{second:.1f}", *ratios, f"{difference(annotations, target):.2f}"]
                )
    columns = ["image", "torchvision, images/s", "ours, images/s", "ours / torchvision"]
    print(markdown_table([*columns, "reduced, images/s", "reduced / ours", "pixels differ, of 255"], rows))


if __name__ == "__main__":
    main()
