"""SOLOv2 from recipe to files: nobody but its recipe knows its name, and nobody asks it for boxes."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from rankdet.data import find_layout
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.evaluation import evaluate_on_folder
from rankdet.inference.files import find_images
from rankdet.inference.loading import load
from rankdet.inference.ranking_quality import rank_qualities
from rankdet.losses import dice_coefficient
from rankdet.metrics import evaluate
from rankdet.recipes import load_recipe
from rankdet.runs.folder import Run, read_log
from rankdet.runs.processes import World
from rankdet.structures import Candidates, Matched
from rankdet.training.running import train

CPU = torch.device("cpu")
WORLD = World(0, 1, CPU)


@pytest.fixture(scope="module", params=["solov2_shapes", "rs_solov2_shapes"])
def run(request: pytest.FixtureRequest, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of two iterations and its evaluation."""
    torch.set_num_threads(1)
    overrides = [
        f"data.folder={yaml.safe_dump(str(shapes_folder)).splitlines()[0]}", "data.batch_size=2", "data.workers=0",
        "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]", "detector.grids.channels=16",
        "detector.grids.convolutions=1", "detector.mask_features={channels: 8, out_channels: 8, groups: 8}",
        "detector.testing={score_threshold: 0.0, num_candidates: 50, least_score: 0.0, per_image: 5}",
        "schedule.iterations=2", "schedule.warmup_iterations=1", "runtime.log_interval=1", "runtime.device=cpu",
        "runtime.threads=1",
    ]  # fmt: skip
    run = Run(tmp_path_factory.mktemp("runs") / "run")
    with (run.folder.parent / "output.txt").open("w") as output:
        train(load_recipe(request.param, overrides), out=run.folder, console=Console(file=output))
    return run


def test_training_logs_the_masks_and_measures_them(run: Run):
    records = list(read_log(run.log))
    assert "grid/mask" in records[0]["statistics"]
    assert ("grid/ranking" in records[0]["statistics"]) == load_recipe(run.recipe).name.startswith("rs")
    metrics = json.loads(run.evaluation.read_text())
    assert {"AP", "AP50", "oLRP", "per_class"} <= metrics["masks"].keys()


def test_checkpoint_and_its_detections_measure_alike(run: Run, shapes_folder: Path, tmp_path: Path):
    """And ``--ranking`` compares scores with the Dice coefficients of the masks."""
    metrics = evaluate_on_folder(load(run.folder, CPU), shapes_folder, "val", out=tmp_path, ranking=True)
    found = json.loads((tmp_path / "detections.json").read_text())
    assert found
    assert metrics["ranking"]["head"] == "grid"
    assert -1 <= metrics["ranking"]["spearman"] <= 1
    assert metrics["ranking"]["positives"] > 0
    masks = [{name: value for name, value in record.items() if name != "bbox"} for record in found]
    truth = find_layout(shapes_folder).source("val").annotations
    assert str(evaluate(truth, masks, "segm", max_detections=5)) == str(metrics["masks"])


def test_detecting_writes_masks_and_draws_them(run: Run, shapes_folder: Path, tmp_path: Path):
    images = sorted(find_layout(shapes_folder).source("val").images.iterdir())[:1]
    detect_and_draw(load(run.folder, "cpu"), find_images(images), tmp_path / "out", 0.0, lambda _: None)
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(list((tmp_path / "out").glob("*.png"))) == 1
    assert content["annotations"]
    for row in content["annotations"]:
        assert row["segmentation"]["size"] == [64, 64]
        assert row["bbox"][2] > 0


def test_the_quality_of_a_positive_without_a_box_is_the_dice_coefficient_of_each_of_its_masks():
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    masks = Matched(torch.randn(3, 4, 4), torch.rand(3, 4, 4) > 0.5, torch.tensor([0, 0, 1]))
    scores, quality = rank_qualities(Candidates("grid", logits, torch.tensor([1, 0, 2]), 2, masks=masks))
    torch.testing.assert_close(scores, torch.tensor([2.0, 2.0, 1.0]).sigmoid())
    torch.testing.assert_close(quality, dice_coefficient(masks.predicted, masks.target))
    with pytest.raises(ValueError, match="neither boxes nor masks"):
        rank_qualities(Candidates("grid", logits, torch.tensor([1, 0, 2]), 2))
