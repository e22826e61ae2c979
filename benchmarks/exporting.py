"""Exported detectors beside PyTorch on the images of a folder: what they find, and how long it takes.

    python benchmarks/exporting.py IMAGES CHECKPOINT|RECIPE [...] [--images 8] [--size 288 384] [--repeats 3]
        [--dynamic]

A recipe is a network with random weights, those of its classifiers enlarged so that scores differ; a checkpoint or a
run folder has its own. Each is written to ONNX, and ONNX Runtime and OpenVINO (where it is installed) detect with it in
the same process. A detection of PyTorch counts as found where the file has one of its class, of nearly its score
(1e-3), within a pixel. Printed are the detections, how many of either side have no counterpart, the largest differences
of boxes in pixels and of scores, and the smallest IoU of masks. Times are medians per image of the processor's time on
one thread, of images that are in memory and resized. With ``--dynamic`` a file takes images of any size and any number,
and is compared on pairs of images of three quarters of the sides, too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

import rankdet
from rankdet.data import FixedSize, Transforms
from rankdet.data.pixels import to_pixels
from rankdet.recipes import RECIPES, load_recipe
from rankdet.structures import Detection, Images, MaskScores

CLASSES = [(1, "a"), (2, "b"), (3, "c")]
SPREAD = {"YOLACT": 3.0, "RTDETR": 10.0}
"""By how much classifiers are enlarged, 30 where it is not here; scores that are all 1 could not be told apart."""
Outputs = Sequence[NDArray[np.generic]]
Run = Callable[[NDArray[np.uint8], NDArray[np.int64]], Outputs]


@dataclass
class Difference:
    """How what a file finds differs from what PyTorch finds, over all images so far."""

    detections: int = 0
    lacking: int = 0
    pixels: float = 0.0
    score: float = 0.0
    mask_iou: float = 1.0

    def add(self, expected: Detection, outputs: Outputs, size: tuple[int, int]) -> None:
        """Compare the detections of an image (height, width) with the outputs of a file for it."""
        boxes, scores, labels, *masks = (torch.as_tensor(part) for part in outputs)
        is_free = scores > 0
        self.detections += len(expected.scores)
        for row in range(len(expected.scores)):
            distance = (boxes - expected.boxes[row]).abs().amax(dim=1)
            fits = is_free & (labels == expected.labels[row]) & (distance < 1)
            fits &= (scores - expected.scores[row]).abs() < 1e-3
            if not fits.any():
                self.lacking += 1
                continue
            place = int(distance.where(fits, torch.inf).argmin())
            is_free[place] = False
            self.pixels = max(self.pixels, float(distance[place]))
            self.score = max(self.score, float((scores[place] - expected.scores[row]).abs()))
            if expected.masks is not None:
                found = MaskScores(masks[0][place, None], masks[1][place, None]).bitmaps(size)
                other = expected.masks.select(torch.tensor([row])).bitmaps(size)
                union = int((found | other).sum())
                self.mask_iou = min(self.mask_iou, int((found & other).sum()) / union if union else 1.0)
        self.lacking += int(is_free.sum())


def build(name: str, size: tuple[int, int]) -> rankdet.Model:
    """The model of a checkpoint, or of a recipe with random weights; it resizes to one size."""
    if name not in RECIPES:
        model = rankdet.load(name, "cpu")
    else:
        torch.manual_seed(0)
        recipe = load_recipe(name)
        network = recipe.detector.build(len(CLASSES), pretrained=False).eval()
        for parameter, weights in network.named_parameters():
            if parameter.endswith("classifier.weight"):
                weights.data.mul_(SPREAD.get(type(network).__name__, 30.0))
        model = rankdet.Model(network, CLASSES, recipe.data.build_transforms(training=False))
    if isinstance(model.transforms.resize, FixedSize):
        return model
    return replace(model, transforms=Transforms(FixedSize(*size)))


def in_onnx_runtime(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images, sizes: session.run(None, {"images": images, "sizes": sizes})


def in_openvino(path: Path) -> Run:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images, sizes: list(compiled({"images": images, "sizes": sizes}).values())


def measure(model: rankdet.Model, files: Sequence[Path], repeats: int, folder: Path, dynamic: bool) -> list[str]:
    """The rows of a model: one for PyTorch, one for each runtime."""
    if dynamic:
        path = rankdet.export(model, folder / "model.onnx", size="dynamic", batch="dynamic")
    else:
        path = rankdet.export(model, folder / "model.onnx")
    runs = {"ONNX Runtime": in_onnx_runtime(path)}
    if find_spec("openvino") is not None:
        runs["OpenVINO"] = in_openvino(path)
    seconds: dict[str, list[float]] = {"PyTorch": []} | {name: [] for name in runs}
    differences = {name: Difference() for name in runs}
    for file in files:
        image = resized(model, [file])
        for _ in range(repeats):
            start = time.process_time()
            expected = detected(model.network, image)
            seconds["PyTorch"].append(time.process_time() - start)
            for name, run in runs.items():
                start = time.process_time()
                found = run(image.numpy(), sizes_of(image))
                seconds[name].append(time.process_time() - start)
        for name, run in runs.items():
            found = run(image.numpy(), sizes_of(image))
            differences[name].add(expected[0], [part[0] for part in found], (image.shape[2], image.shape[3]))
    for one, other in zip(files[::2], files[1::2], strict=False) if dynamic else []:
        images = resized(model, [one, other], 0.75)
        expected = detected(model.network, images)
        for name, run in runs.items():
            found = run(images.numpy(), sizes_of(images))
            for place, each in enumerate(expected):
                differences[name].add(each, [part[place] for part in found], (images.shape[2], images.shape[3]))
    rows = [f"| PyTorch | {1000 * statistics.median(seconds['PyTorch']):.1f} | | | | | |"]
    for name, difference in differences.items():
        masks = f"{difference.mask_iou:.4f}" if len(found) > 3 else ""
        counts = f"{difference.detections} | {difference.lacking}"
        largest = f"{difference.pixels:.1e} | {difference.score:.1e} | {masks}"
        rows.append(f"| {name} | {1000 * statistics.median(seconds[name]):.1f} | {counts} | {largest} |")
    return rows


def resized(model: rankdet.Model, files: Sequence[Path], share: float = 1.0) -> Tensor:
    """(B, 3, H, W) uint8: images of one size, that of the model or a ``share`` of its sides."""
    size = model.transforms.resize
    assert isinstance(size, FixedSize)
    transforms = Transforms(FixedSize(round(share * size.height), round(share * size.width)))
    images = (to_pixels(file) for file in files)
    return torch.stack([transforms.place((image.shape[1], image.shape[2])).image(image) for image in images])


def sizes_of(images: Tensor) -> NDArray[np.int64]:
    return np.array([images.shape[2:]] * len(images))


@torch.no_grad()
def detected(network: nn.Module, images: Tensor) -> list[Detection]:
    """What PyTorch finds in images, padded as in batches."""
    height, width = images.shape[2:]
    padded = pad(images, (0, -width % 32, 0, -height % 32))
    found: list[Detection] = network.detect(Images(padded, ((height, width),) * len(images)))  # type: ignore[operator]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(288, 384))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dynamic", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(file for file in arguments.folder.iterdir() if file.suffix in {".jpg", ".png"})[: arguments.images]
    print("| model | runs in | ms | detections | without counterpart | boxes, px | scores | least mask IoU |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in arguments.models:
        model = build(name, tuple(arguments.size))
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(model, files, arguments.repeats, Path(folder), arguments.dynamic):
                print(f"| `{name if name in RECIPES else Path(name).name}` {row}", flush=True)


if __name__ == "__main__":
    main()
