"""Images per second of the processor from JPEG files to a normalized batch, beside torchvision and mmdetection.

    python benchmarks/loading.py [--images 32] [--repeats 3] [--batch-size 4]

The files are of 640 × 480 and of 4000 × 3000 pixels, made here: waves and blobs with some noise. They are prepared for
a longest side of 1333 and a shorter one of 800 pixels, and for 384 pixels, with random flips. torchvision's pipeline is
that of its reference training: Pillow, `PILToTensor`, `RandomHorizontalFlip`, `ToDtype`, and the model's own
`GeneralizedRCNNTransform`, which resizes without antialiasing in float32, normalizes and pads. mmdetection's pipeline
is that of its configurations on COCO, which decodes and resizes bytes with OpenCV, without antialiasing, and its data
preprocessor; it needs an environment with mmdetection, else its columns are empty. Ours is the loader of a training
without workers, and the normalization of a backbone. "Reduced" is ours with `data.reduced_decoding`. All run on one
thread, in turns, in a process that keeps what it frees, and are compared by medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

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
from rankdet.runs.memory import keep_freed_memory

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "oracle"))  # `extension` is there
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


def of_mmdetection(annotations: Path, target: tuple[int, int], images: int, batch_size: int) -> Callable[[], object]:
    """The same by mmdetection."""
    import cv2
    import extension

    extension.install()
    from mmdet.models.data_preprocessors import DetDataPreprocessor
    from mmdet.registry import TRANSFORMS
    from mmdet.utils import register_all_modules
    from mmengine.dataset import Compose, pseudo_collate

    cv2.setNumThreads(1)
    register_all_modules()
    steps: list[dict[str, Any]] = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "Resize", "scale": target, "keep_ratio": True},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs"},
    ]
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    preprocessor = DetDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32)
    boxes = [[10.0 + 40 * place, 20, 110 + 40 * place, 100] for place in range(3)]
    instances = [{"bbox": box, "bbox_label": 0, "ignore_flag": 0} for box in boxes]

    def load(number: int) -> Any:
        return pipeline(
            {"img_path": str(annotations.parent / f"{number}.jpg"), "img_id": number, "instances": instances}
        )

    def run() -> list[torch.Size]:
        shapes = []
        for start in range(0, images, batch_size):
            batch = pseudo_collate([load(number) for number in range(start, start + batch_size)])
            shapes.append(preprocessor(batch, True)["inputs"].shape)
        return shapes

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training does
    has_mmdetection = importlib.util.find_spec("mmdet") is not None
    rows: list[list[str | int | float | None]] = []
    for size in SOURCES:
        images = options.images if size == SOURCES[0] else max(options.batch_size, options.images // 4)
        with tempfile.TemporaryDirectory() as place:
            annotations = make_files(Path(place), images, size)
            for target in TARGETS:
                kinds = (theirs, ours, partial(ours, reduced=True), *[of_mmdetection] * has_mmdetection)
                sides = [kind(annotations, target, images, options.batch_size) for kind in kinds]
                speeds: list[list[float]] = [[] for _ in sides]
                for _ in range(options.repeats + 1):  # the first turn warms up
                    for run, measured in zip(sides, speeds, strict=True):
                        start = time.process_time()
                        run()
                        measured.append(images / (time.process_time() - start))
                first, second, third, *fourth = (statistics.median(measured[1:]) for measured in speeds)
                wanted = f"{size[1]} × {size[0]} → {target[0]} × {target[1]}"
                beside = [f"{fourth[0]:.1f}", f"{second / fourth[0]:.2f}"] if fourth else ["–", "–"]
                reduced = [f"{third:.1f}", f"{third / second:.2f}", f"{difference(annotations, target):.2f}"]
                rows.append([wanted, f"{second:.1f}", f"{first:.1f}", f"{second / first:.2f}", *beside, *reduced])
    columns = ["image", "ours, images/s", "torchvision", "ours / torchvision", "mmdetection", "ours / mmdetection"]
    print(markdown_table([*columns, "reduced, images/s", "reduced / ours", "pixels differ, of 255"], rows))


if __name__ == "__main__":
    main()
