"""The benchmark of positives: it changes no training, and its numbers are those of cases worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rankdet.structures import Candidates
from rankdet.training.running import train


def test_watching_changes_nothing_of_a_training(module, tiny, tmp_path: Path) -> None:
    recipe = tiny("runtime.log_interval=1")
    run = train(recipe, out=tmp_path / "run")
    logged = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    statistics = [record["statistics"] for record in logged if record["kind"] == "train"]
    for head, watched in module("positives").watched_training(recipe).items():
        for key, name in (("positives", "positives"), ("L_R", "ranking")):
            weight = recipe.head_weights.get(head, 1.0) if name == "ranking" else 1.0
            found = [weight * record[key] for record in watched.ranking]
            assert found == pytest.approx([one[f"{head}/{name}"] for one in statistics])


def test_weights_spread_over_positives_and_objects(module) -> None:
    logits, iou, objects = torch.tensor([0.0, 3.0, 1.0, 2.0]), torch.tensor([0.2, 0.8, 0.4, 0.6]), [0, 1, 1, 1]
    weights = {"equal": torch.ones(4), "one": torch.tensor([0.0, 1.0, 0.0, 0.0])}
    found = module("positives").weight_record(weights, logits, iou, torch.tensor(objects))
    assert found == pytest.approx(
        {
            "upper IoU": 0.7,
            "lower IoU": 0.3,
            "equal, effective": 1.0,
            "equal, effective, objects": 16 / 10 / 2,
            "equal, lower half": 0.5,
            "one, effective": 0.25,
            "one, effective, objects": 0.5,
            "one, lower half": 0.0,
        }
    )


def test_a_pool_shares_negatives_and_counts_positives_where_images_alone_count_images(module) -> None:
    """The first image has two positives below no negative of its own, the second one below two of its negatives."""
    logits = torch.tensor([[1.0], [2.0], [-9.0], [0.0], [4.0], [3.0]])
    labels = torch.tensor([0, 0, 1, 0, 1, 1])
    candidates = Candidates("rcnn", logits, labels, 1)
    found = module("positives").pool_record(candidates, torch.full((3,), 0.5), (3, 3), 0.0)
    assert (found["positives"], found["fewest"], found["most"], found["negatives per positive"]) == (3, 1, 2, 1)
    assert found["L_R"] == pytest.approx((2 / 3 + 2 / 4 + 2 / 5) / 3)
    assert found["L_R alone"] == pytest.approx((0 + 2 / 3) / 2)
    assert found["crowded"] == pytest.approx((2 / 3 + 2 / 4) / (2 / 3 + 2 / 4 + 2 / 5))
    assert found["crowded alone"] == 0


def test_objects_with_a_mask_are_those_of_the_drawn_positives(module) -> None:
    objects = torch.tensor([0, 0, 1, 2])
    record = module("positives").mask_record
    assert list(record(objects, torch.tensor([0, 1, 3])).values()) == [4, 3, 3, 2]
    assert list(record(objects, None).values()) == [4, 3, 4, 3]


def test_the_tables_have_a_row_for_each_window_and_weighting(module, tiny_file: Path, capsys) -> None:
    data = next(line for line in tiny_file.read_text().splitlines() if "folder:" in line).split(": ")[1]
    module("positives").main([str(tiny_file), "schedule.iterations=3", "--data", data, "--every", "2"])
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("| 1–2")]
    assert [name.strip() for _, name in rows][:3] == ["none", "score", "IoU"]
