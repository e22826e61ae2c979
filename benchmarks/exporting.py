"""Exported detectors beside PyTorch on the images of a folder: what they find, and how long it takes.

    python benchmarks/exporting.py IMAGES CHECKPOINT|RECIPE [...] [--images 8] [--size 288 384] [--repeats 3]

A recipe is a network with random weights, those of its classifiers enlarged so that scores differ; a checkpoint or a
run folder has its own. Each is written to ONNX, and ONNX Runtime and OpenVINO (where it is installed) detect with it in
the same process. A detection of PyTorch counts as found where the file has one of its class, of nearly its score
(1e-3), within a pixel. Printed are the detections, how many of either side have no counterpart, the largest differences
of boxes in pixels and of scores, and the smallest IoU of masks. Times are medians per image of the processor's time on
one thread, of images that are in memory and resized.
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


def measure(model: rankdet.Model, files: Sequence[Path], repeats: int, folder: Path) -> list[str]:
    """The rows of a model: one for PyTorch, one for each runtime."""
    path = rankdet.export(model, folder / "model.onnx")
    runs = {"ONNX Runtime": in_onnx_runtime(path)}
    if find_spec("openvino") is not None:
        runs["OpenVINO"] = in_openvino(path)
    seconds: dict[str, list[float]] = {"PyTorch": []} | {name: [] for name in runs}
    differences = {name: Difference() for name in runs}
    for file in files:
        pixels = to_pixels(file)
        image = model.transforms.place((pixels.shape[1], pixels.shape[2])).image(pixels)
        size = image.shape[1], image.shape[2]
        padded = torch.zeros(1, 3, *(-(-side // 32) * 32 for side in size), dtype=torch.uint8)
        padded[0, :, : size[0], : size[1]] = image
        for _ in range(repeats):
            start = time.process_time()
            expected = detected(model.network, padded, size)
            seconds["PyTorch"].append(time.process_time() - start)
            for name, run in runs.items():
                start = time.process_time()
                outputs = run(image[None].numpy(), np.array([size]))
                seconds[name].append(time.process_time() - start)
        for name, run in runs.items():
            found = run(image[None].numpy(), np.array([size]))
            differences[name].add(expected, [part[0] for part in found], size)
    assert outputs
    rows = [f"| PyTorch | {1000 * statistics.median(seconds['PyTorch']):.1f} | | | | | |"]
    for name, difference in differences.items():
        masks = f"{difference.mask_iou:.4f}" if len(found) > 3 else ""
        counts = f"{difference.detections} | {difference.lacking}"
        largest = f"{difference.pixels:.1e} | {difference.score:.1e} | {masks}"
        rows.append(f"| {name} | {1000 * statistics.median(seconds[name]):.1f} | {counts} | {largest} |")
    return rows


@torch.no_grad()
def detected(network: nn.Module, pixels: Tensor, size: tuple[int, int]) -> Detection:
    found: list[Detection] = network.detect(Images(pixels, (size,)))  # type: ignore[operator]
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(288, 384))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(file for file in arguments.folder.iterdir() if file.suffix in {".jpg", ".png"})[: arguments.images]
    print("| model | runs in | ms | detections | without counterpart | boxes, px | scores | least mask IoU |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in arguments.models:
        model = build(name, tuple(arguments.size))
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(model, files, arguments.repeats, Path(folder)):
                print(f"| `{name if name in RECIPES else Path(name).name}` {row}", flush=True)


if __name__ == "__main__":
    main()
