"""Frozen batch normalization inside of convolutions, beside normalization on its own: seconds and memory.

    python benchmarks/frozen_norm.py [--name resnet50] [--size 800 1344] [--repeats 5]

Both are the same network with the first stage frozen, in training (forward and backward of all maps) and in evaluation
(forward alone), in both memory formats, in turns in one process, compared by medians after a turn that warms up.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from detectors import medians
from rankdet.backbones import TimmBackbone
from rankdet.structures import Images


def kept_bytes(backbone: TimmBackbone, images: Images) -> int:
    """What a forward pass keeps for the gradient, apart from the parameters."""
    known = {value.untyped_storage().data_ptr() for value in backbone.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = backbone(images)
    assert all(features.requires_grad for features in maps[1:])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def learn(backbone: TimmBackbone, images: Images) -> None:
    """Forward and backward."""
    backbone.zero_grad(set_to_none=True)
    torch.stack([features.mean() for features in backbone(images)]).sum().backward()


@torch.no_grad()
def look(backbone: TimmBackbone, images: Images) -> None:
    """Forward."""
    backbone(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="resnet50", help="a network of timm")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, CPU, {torch.get_num_threads()} threads, {options.name}")
    print("| memory format | | alone | folded | folded / alone |")
    print("|---|---|---:|---:|---:|")
    height, width = options.size
    pixels = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    for memory_format, label in ((torch.contiguous_format, "plain"), (torch.channels_last, "channels last")):
        images = Images(pixels.contiguous(memory_format=memory_format), ((height, width),))
        alone, folded = pair = [
            TimmBackbone(options.name, frozen_stages=1, frozen_batch_norm=is_folded) for is_folded in (False, True)
        ]
        folded.load_state_dict(alone.state_dict())
        for backbone in pair:
            backbone.eval().to(memory_format=memory_format)
        kept = [kept_bytes(backbone, images) / 1e6 for backbone in pair]
        print(f"| {label} | kept for gradients, MB | {kept[0]:.0f} | {kept[1]:.0f} | {kept[1] / kept[0]:.2f} |")
        for what, task in (("forward and backward, s", learn), ("forward, s", look)):
            tasks = {"alone": partial(task, alone, images), "folded": partial(task, folded, images)}
            seconds = medians(tasks, options.repeats)
            ratio = seconds["folded"] / seconds["alone"]
            print(f"| {label} | {what} | {seconds['alone']:.3f} | {seconds['folded']:.3f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
