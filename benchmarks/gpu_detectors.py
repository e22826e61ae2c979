"""Every detector in both forms on a GPU: seconds per iteration, resume to the same bits, and AP beside the CPU's.

    python benchmarks/gpu_detectors.py [--iterations 40] [--precision float32] [--device cuda] [--markdown FILE]

Trains the recipes ``*_shapes`` on a small set that is made for it; nothing is downloaded. "resume" trains half of the
iterations, stops, and goes on from the checkpoint: "equal" where every weight has the same bits as without the stop;
else the largest difference. Kernels that add in the order in which threads arrive (``index_add``, RoI align backward)
make a GPU differ from itself, so "again" says the same of two runs without a stop. "AP" is the AP of one checkpoint on
this device and on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import rankdet
from rankdet.data.shapes import make_shapes
from rankdet.runs.folder import Run, read_log

RECIPES = [
    f"{form}{detector}_shapes"
    for detector in ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "atss", "paa", "yolact", "solov2", "detr")
    for form in ("", "rs_")
]
QUIET = Console(quiet=True)


def trained(recipe: str, data: Path, out: Path, device: str, precision: str, iterations: int) -> rankdet.TrainedRun:
    changes: dict[str, Any] = {
        "schedule.iterations": iterations,
        "schedule.warmup_iterations": 5,
        "runtime.device": device,
        "runtime.precision": precision,
        "runtime.log_interval": 1,
        "runtime.checkpoint_interval": max(1, iterations // 2),
        "runtime.keep_checkpoints": 9,
        "data.workers": 0,
        "data.batch_size": 8,
        "evaluation.at_end": False,
    }
    return rankdet.train(recipe, data=data, out=out, changes=changes, console=QUIET)


def weights(run: rankdet.TrainedRun) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in run.model.network.state_dict().items()}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    largest = max((one[name].double() - other[name].double()).abs().max().item() for name in one)
    return "equal" if all(torch.equal(one[name], other[name]) for name in one) else f"{largest:.1e}"


def measure(recipe: str, data: Path, work: Path, device: str, precision: str, iterations: int) -> str:
    whole = trained(recipe, data, work / "whole", device, precision, iterations)
    again = trained(recipe, data, work / "again", device, precision, iterations)
    for checkpoint in Run(again.folder).checkpoints()[1:]:  # as if it had been killed after half of the iterations
        checkpoint.unlink()
    resumed = rankdet.train(resume=work / "again", console=QUIET)
    taken = [
        record["timing"]["seconds_per_iteration"]
        for record in read_log(work / "whole" / "log.jsonl")
        if "timing" in record
    ]
    aps = [rankdet.evaluate(rankdet.load(whole.folder, device=where), data)["AP"] for where in (device, "cpu")]
    seconds = statistics.median(taken[iterations // 4 :])  # the first iterations choose algorithms
    return (
        f"| {recipe.removesuffix('_shapes')} | {precision} | {1000 * seconds:.1f} "
        f"| {difference(weights(whole), weights(again))} | {difference(weights(whole), weights(resumed))} "
        f"| {aps[0]:.4f} | {aps[1]:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16"))
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES, metavar="RECIPE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    options = parser.parse_args()
    lines = [
        f"| recipe | precision | ms/iteration | again | resume | AP on {options.device} | AP on cpu |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = make_shapes(Path(folder) / "shapes", train=64, val=16)
        for precision in options.precision:
            for recipe in options.only:
                work = Path(folder) / recipe / precision
                try:
                    lines.append(measure(recipe, data, work, options.device, precision, options.iterations))
                except Exception as error:  # the others are still worth measuring; the status tells
                    lines.append(
                        f"| {recipe.removesuffix('_shapes')} | {precision} | {type(error).__name__}: {error} |"
                    )
                print(lines[-1], flush=True)
                if options.markdown is not None:  # as far as it came, should there be a time limit
                    options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if any("Error" in line for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
