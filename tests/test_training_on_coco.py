"""Genuine images of COCO: crowds, sparse ids, a gray one, some without objects; from files to boxes and masks."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from rankdet.recipes import load_recipe
from rankdet.runs.folder import Run, read_log
from rankdet.runs.processes import World
from rankdet.training.running import train
from rankdet.training.setup import Training


@pytest.mark.parametrize("outlines", [False, True])
def test_mask_rcnn_trains_and_is_measured_on_genuine_images(shared, outlines: bool, tmp_path: Path):
    torch.set_num_threads(1)
    folder = shared("data", "coco_free")
    recipe = load_recipe(
        "rs_mask_rcnn_shapes",
        [
            f"data.folder={yaml.safe_dump(str(folder)).splitlines()[0]}", "data.batch_size=2", "data.keep_empty=false",
            "data.resize={type: keep_ratio, long: 160, shorts: [96, 128]}", f"data.mask_outlines={outlines}",
            "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]", "detector.rcnn.channels=16",
            "detector.mask={channels: 8, convolutions: 1, pooled_size: 7, budget: 20}",
            "detector.testing.per_image=20", "schedule.iterations=4", "schedule.warmup_iterations=1",
            "runtime.log_interval=1", "runtime.device=cpu", "runtime.threads=1",
        ],
    )  # fmt: skip
    training = Training(recipe, World(0, 1, torch.device("cpu")))
    assert len(training.dataset) == 79  # one of 80 has no objects
    assert training.dataset.num_objects == 770 - 9  # crowds are none
    assert len(training.test_dataset) == 57
    assert training.dataset.category_ids[-1] == 90
    run = Run(tmp_path / "run")
    with (tmp_path / "output.txt").open("w") as output:
        train(recipe, out=run.folder, console=Console(file=output))
    assert all(record["loss"] > 0 for record in read_log(run.log) if record["kind"] == "train")
    metrics = json.loads(run.evaluation.read_text())
    for part in (metrics, metrics["masks"]):
        assert 0 <= part["AP"] <= 1
        assert part["oLRP"] <= 1
        assert sum(numbers["ground_truths"] for numbers in part["per_class"].values()) == 517 - 7
