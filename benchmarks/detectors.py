"""Our detectors beside those of mmdetection 3.3 and torchvision: seconds of an iteration and of a detection, as ratios.

    python benchmarks/detectors.py [--repeats 3] [--only DETECTOR …] [--size 800 1344] [--images 1]
        [--what iteration detection] [--profile] [--markdown FILE]

Each detector in its standard form on the same images and objects, with the random weights of the other side, imported
as ``rankdet import`` does, so that both have the same proposals; nothing is downloaded. An iteration is forward, losses
and backward; both sides take turns in one process and are compared by medians, after a turn that warms up. Needs an
environment with mmdetection; where it is missing, its columns are empty. mmdetection gets normalized images in an
iteration, all else normalizes them itself; torchvision's detectors resize nothing here. mmcv's wheel without compiled
code gets suppression and RoIAlign of torchvision, as in tests/oracle. Weights are random, so a detection ends with few
boxes or none, on all sides. `benchmarks/detection_beside.py` has images per second of detections that find something.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rankdet.importing import convert
from rankdet.losses import set_epoch_length
from rankdet.recipes import Recipe, load_recipe
from rankdet.structures import Batch, Detection, Images, Source, Target
from rankdet.training.step import training_step

OBJECTS, CLASSES = 10, 80
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "oracle"))  # `extension` is there


@dataclass(frozen=True)
class Side:
    """One implementation: what it does in an iteration and in a detection, and its network."""

    iterate: Callable[[], object]
    detect: Callable[[Batch], Sequence[Any]]
    """From a batch, as bytes, to what is found in each image, in the form of the implementation."""
    network: nn.Module


@dataclass(frozen=True)
class Peer:
    """What stands beside one of our recipes.

    Parameters
    ----------
    recipe
        Ours.
    mmdetection
        A configuration of mmdetection, without its ending.
    torchvision
        A function of ``torchvision.models.detection``, or None.
    size
        (height, width) of the images where the detector asks for one.
    """

    recipe: str
    mmdetection: str
    torchvision: str | None = None
    size: tuple[int, int] | None = None


PEERS = {
    "Faster R-CNN": Peer(
        "faster_rcnn_l1_r50_coco", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco", "fasterrcnn_resnet50_fpn"
    ),
    "Mask R-CNN": Peer("mask_rcnn_r50_coco", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco", "maskrcnn_resnet50_fpn"),
    "Cascade R-CNN": Peer("cascade_rcnn_r50_coco", "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco"),
    "ATSS": Peer("atss_r50_coco", "atss/atss_r50_fpn_1x_coco"),
    "PAA": Peer("paa_r50_coco", "paa/paa_r50_fpn_1x_coco"),
    "YOLACT": Peer("yolact_r50_coco", "yolact/yolact_r50_1xb8-55e_coco", size=(550, 550)),
    "SOLOv2": Peer("solov2_r101_coco", "solov2/solov2_r101_fpn_ms-3x_coco"),
}


def make_batch(images: int, size: tuple[int, int]) -> Batch:
    """Random pixels; objects from 16 pixels to half of the shorter side, small ones more often; masks fill boxes."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(images):
        sides = 16 * (min(size) / 32) ** torch.rand(OBJECTS, 2, generator=generator)
        corners = torch.rand(OBJECTS, 2, generator=generator) * (torch.tensor([size[1], size[0]]) - sides)
        boxes = torch.cat([corners, corners + sides], dim=1)
        masks = torch.zeros(OBJECTS, *size, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        targets.append(Target(boxes, torch.randint(0, CLASSES, (OBJECTS,), generator=generator), masks))
    pixels = torch.randint(0, 256, (images, 3, *size), generator=generator, dtype=torch.uint8)
    sources = tuple(Source(index, f"{index}", size) for index in range(images))
    return Batch(Images(pixels, (size,) * images), tuple(targets), sources)


def ours(recipe: Recipe, batch: Batch, foreign: Mapping[str, Tensor]) -> Side:
    """The detector of a recipe with the weights of another program."""
    detector: Any = recipe.detector.build(CLASSES, pretrained=False)
    detector.load_state_dict(convert(foreign, recipe, CLASSES))
    losses = nn.ModuleDict({head: loss.build() for head, loss in recipe.losses.items()})
    set_epoch_length(losses, 7330)
    layout = torch.channels_last if recipe.runtime.channels_last else torch.contiguous_format
    detector.to(memory_format=layout)
    targets = batch.targets
    if not recipe.detector.has_masks:
        targets = tuple(replace(target, masks=None) for target in targets)

    def laid_out(images: Images) -> Images:
        return replace(images, pixels=images.pixels.contiguous(memory_format=layout))

    own = replace(batch, images=laid_out(batch.images), targets=targets)

    def iterate() -> None:
        detector.train()
        detector.zero_grad(set_to_none=True)
        total, _, _ = training_step(detector, dict(losses.items()), own, recipe.head_weights)
        total.backward()

    def detect(batch: Batch) -> Sequence[Any]:
        detector.eval()
        with torch.no_grad():
            found: list[Detection] = detector.detect(laid_out(batch.images))
        return found

    return Side(iterate, detect, detector)


def of_mmdetection(config: str, batch: Batch) -> Side | None:
    """The same in mmdetection; None where it is not installed."""
    if importlib.util.find_spec("mmdet") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import extension

        extension.install()
        import mmdet
        from mmdet.registry import MODELS
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmdet.utils import register_all_modules
        from mmengine.config import Config
        from mmengine.structures import InstanceData

        register_all_modules()
    settings = Config.fromfile(Path(mmdet.__file__).parent / ".mim" / "configs" / f"{config}.py")
    settings.model.backbone.init_cfg = None
    detector: Any = MODELS.build(settings.model)

    def samples_of(batch: Batch) -> list[Any]:
        samples = []
        for size, target in zip(batch.images.sizes, batch.targets, strict=True):
            assert isinstance(target.masks, Tensor)
            sample = DetDataSample(
                metainfo={
                    "img_shape": size, "ori_shape": size, "pad_shape": size, "batch_input_shape": size,
                    "scale_factor": (1.0, 1.0),
                }
            )  # fmt: skip
            masks = BitmapMasks(target.masks.numpy().astype("uint8"), *size)
            sample.gt_instances = InstanceData(bboxes=target.boxes, labels=target.labels, masks=masks)
            samples.append(sample)
        return samples

    samples = samples_of(batch)
    pixels = (batch.images.pixels.float() - 118) / 58

    def iterate() -> None:
        detector.train()
        detector.zero_grad(set_to_none=True)
        total, _ = detector.parse_losses(detector.loss(pixels, samples))
        total.backward()

    def detect(batch: Batch) -> Sequence[Any]:
        detector.eval()
        inputs = {"inputs": list(batch.images.pixels.flip(1)), "data_samples": samples_of(batch)}  # BGR
        with torch.no_grad():
            prepared = detector.data_preprocessor(inputs)
            found: list[Any] = detector.predict(prepared["inputs"], prepared["data_samples"], rescale=False)
        return [each.pred_instances for each in found]

    return Side(iterate, detect, detector)


def of_torchvision(name: str, batch: Batch) -> Side:
    """The same in torchvision."""
    from torchvision.models import detection

    height, width = batch.images.sizes[0]
    detector = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=min(height, width),
        max_size=max(height, width), trainable_backbone_layers=3,
    )  # fmt: skip
    for norm in detector.modules():  # frozen statistics, as everywhere else
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
            norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign]
    pixels = list(batch.images.pixels.float() / 255)
    targets = [
        {"boxes": target.boxes, "labels": target.labels + 1, "masks": torch.as_tensor(target.masks).byte()}
        for target in batch.targets
    ]

    def iterate() -> None:
        detector.train()
        detector.zero_grad(set_to_none=True)
        sum(detector(pixels, targets).values()).backward()

    def detect(batch: Batch) -> Sequence[Any]:
        detector.eval()
        with torch.no_grad():
            found: list[Any] = detector(list(batch.images.pixels.float() / 255))
        return found

    return Side(iterate, detect, detector)


def medians(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each; one turn to warm up, then all in turns."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def measure(name: str, options: argparse.Namespace) -> list[str]:
    """The lines of one detector."""
    peer = PEERS[name]
    batch = make_batch(options.images, peer.size or tuple(options.size))
    torch.manual_seed(0)
    others = {
        "mmdetection": of_mmdetection(peer.mmdetection, batch),
        "torchvision": None if peer.torchvision is None else of_torchvision(peer.torchvision, batch),
    }
    cells: dict[str, list[str]] = {what: [] for what in options.what}
    for key, other in others.items():
        if other is None:
            for line in cells.values():
                line += ["–", "–", "–"]
            continue
        own = ours(load_recipe(peer.recipe), batch, other.network.state_dict())
        tasks_of = {
            "iteration": {"ours": own.iterate, key: other.iterate},
            "detection": {"ours": partial(own.detect, batch), key: partial(other.detect, batch)},
        }
        for what in cells:
            tasks = tasks_of[what]
            seconds = medians(tasks, options.repeats)
            ratio = seconds["ours"] / seconds[key]
            cells[what] += [f"{seconds['ours']:.2f}", f"{seconds[key]:.2f}", f"{ratio:.2f}"]
            print(f"{name}, {what}: {ratio:.2f} of {key}", flush=True)
            if options.profile:
                show_profiles(f"{name}, {what}", tasks)
    return [f"| {name} | {what} | {' | '.join(line)} |" for what, line in cells.items()]


def show_profiles(title: str, tasks: Mapping[str, Callable[[], object]]) -> None:
    """Print the operators that take most of each."""
    for key, task in tasks.items():
        with profile(activities=[ProfilerActivity.CPU]) as found:
            task()
        print(f"{title}, {key}")
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--only", nargs="*", choices=tuple(PEERS), default=tuple(PEERS), metavar="DETECTOR")
    parser.add_argument("--what", nargs="+", choices=("iteration", "detection"), default=("iteration", "detection"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--profile", action="store_true", help="print where the time of each side goes")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads, {options.images} images")
    lines = [
        "| detector | | ours, s | mmdetection, s | ratio | ours, s | torchvision, s | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in options.only:
        lines += measure(name, options)
    print(*lines, sep="\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
