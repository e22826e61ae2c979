"""Images per second of detection beside mmdetection, torchvision and transformers, one by one and in batches.

    python benchmarks/detection_beside.py [--size 256 320] [--batch-size 8] [--repeats 1] [--threads 1] [--only NAME …]
        [--beside NAME …]

From bytes to detections at the size of the network, on the processor's clock, by the same weights, which are imported
as ``rankdet import`` does. They are random, but the last layers are scaled, so that boxes and scores vary and each
detector finds something. "Found" is the number of detections in the batch on both sides: what is decided by the last
bits of convolutions in other memory formats may differ. Both sides take turns in one process and are compared by
medians, after one image that warms up. YOLACT has a size of its own. `benchmarks/detectors.py` says whose suppression
and RoIAlign mmdetection has; an environment may lack mmdetection or transformers.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detectors import CLASSES, PEERS, Side, make_batch, of_mmdetection, of_torchvision, ours
from rankdet.recipes import Recipe, load_recipe
from rankdet.report import markdown_table
from rankdet.structures import Batch

OTHERS = ("mmdetection", "torchvision", "transformers")
Spread = Mapping[str, tuple[float, float]]
"""Mean and standard deviation that the outputs of layers get, by the end of their names."""
DENSE: Spread = {"atss_cls": (-6.0, 1.5), "atss_reg": (0.0, 1.0), "atss_centerness": (0.0, 1.5)}
PROPOSALS, SCORES, DELTAS, MASKS = (-1.5, 1.0), (0.0, 1.5), (0.0, 0.5), (0.0, 3.0)
TWO_STAGE: Spread = {
    "rpn_cls": PROPOSALS,
    "rpn_reg": DELTAS,
    "fc_cls": SCORES,
    "fc_reg": DELTAS,
    "mask_head.conv_logits": MASKS,
}
SPREADS: Mapping[str, Spread] = {
    "Faster R-CNN": TWO_STAGE,
    "Mask R-CNN": TWO_STAGE,
    "Cascade R-CNN": TWO_STAGE,
    "ATSS": DENSE,
    "PAA": DENSE,
    "YOLACT": {"conv_cls": (0.0, 1.5), "conv_reg": (0.0, 1.0), "conv_coeff": (0.0, 1.0), "protonet.10": (0.0, 0.6)},
    "SOLOv2": {"conv_cls": (-3.0, 1.5), "conv_kernel": (-0.1, 0.4)},
}
"""Of mmdetection's detectors."""
TORCHVISION: Spread = {
    "rpn.head.cls_logits": PROPOSALS,
    "rpn.head.bbox_pred": DELTAS,
    "cls_score": SCORES,
    "box_predictor.bbox_pred": DELTAS,
    "mask_fcn_logits": MASKS,
}


@torch.no_grad()
def spread_outputs(side: Side, batch: Batch, outputs: Spread) -> None:
    """Scale the last layers one after another, since each may decide what the next ones see."""
    layers: list[tuple[Any, tuple[float, float]]] = [
        (layer, spread)
        for end, spread in outputs.items()
        for name, layer in side.network.named_modules()
        if name.endswith(end)
    ]
    for layer, (mean, std) in layers:
        values = outputs_of(layer, side, batch)
        factor = std / values.std()
        layer.weight *= factor
        layer.bias *= factor
        layer.bias += mean - values.mean() * factor


def outputs_of(layer: nn.Module, side: Side, batch: Batch) -> Tensor:
    """All numbers that a layer returns in a detection."""
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, arguments, output: found.append(output.flatten()))
    side.detect(batch)
    handle.remove()
    return torch.cat(found)


def of_transformers() -> Side | None:
    """RT-DETR of transformers, whose random weights find 300 boxes at any threshold below their scores."""
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor

    network: Any = RTDetrForObjectDetection(RTDetrConfig(num_labels=CLASSES))
    processor: Any = RTDetrImageProcessor()

    def detect(batch: Batch) -> Sequence[Any]:
        network.eval()
        with torch.no_grad():
            outputs = network(batch.images.pixels.float() / 255)
            sizes = [list(size) for size in batch.images.sizes]
            found: list[Any] = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        return found

    return Side(lambda: None, detect, network.model)


def others_of(name: str, batch: Batch, wanted: Collection[str]) -> Iterator[tuple[str, Recipe, Side]]:
    """What stands beside a detector, with our recipe for it."""
    torch.manual_seed(0)
    if name == "RT-DETR":
        side = of_transformers() if "transformers" in wanted else None
        if side is not None:  # it takes pixels from 0 to 1
            changes = {"detector.backbone.mean": (0.0,) * 3, "detector.backbone.std": (255.0,) * 3}
            yield "transformers", load_recipe("detr_r50_coco").changed(changes), side
        return
    peer = PEERS[name]
    recipe = load_recipe(peer.recipe)
    side = of_mmdetection(peer.mmdetection, batch) if "mmdetection" in wanted else None
    if side is not None:
        spread_outputs(side, batch, SPREADS[name])
        yield "mmdetection", recipe, side
    if peer.torchvision is not None and "torchvision" in wanted:
        side = of_torchvision(peer.torchvision, batch)
        spread_outputs(side, batch, TORCHVISION)
        yield "torchvision", recipe, side


class Measured(NamedTuple):
    """Images per second of the processor, and the number of detections in all of them."""

    speed: float
    found: int


def measured(side: Side, batch: Batch) -> Measured:
    start = time.process_time()
    images = side.detect(batch)
    seconds = time.process_time() - start
    scores = [image["scores"] if isinstance(image, dict) else image.scores for image in images]
    return Measured(len(images) / seconds, sum(map(len, scores)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    names = (*PEERS, "RT-DETR")
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--beside", nargs="+", default=OTHERS, choices=OTHERS, metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = {name: peer.size for name, peer in PEERS.items() if peer.size is not None}
    rows: list[list[str | int | float | None]] = []
    for name in options.only:
        size = sizes.get(name, tuple(options.size))
        batches = [make_batch(count, size) for count in (1, options.batch_size)]
        for other, recipe, theirs in others_of(name, batches[0], options.beside):
            own = ours(recipe, batches[0], theirs.network.state_dict())
            for side in (own, theirs):
                side.detect(batches[0])
            for batch in batches:
                turns = [(measured(own, batch), measured(theirs, batch)) for _ in range(options.repeats)]
                first, second = (
                    statistics.median(one.speed for one in of_side) for of_side in zip(*turns, strict=True)
                )
                found = " and ".join(str(number) for number in dict.fromkeys(one.found for one in turns[0]))
                ratio = f"{first / second:.2f}"
                rows.append([name, other, len(batch.targets), f"{first:.2f}", f"{second:.2f}", ratio, found])
                print(*rows[-1], flush=True)
    columns = ["detector", "beside", "images at once", "ours, images/s", "theirs, images/s", "ours / theirs", "found"]
    print(markdown_table(columns, rows))


if __name__ == "__main__":
    main()
