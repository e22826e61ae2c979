"""What a training says of outputs without gradient."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

import rankdet
from rankdet.data import make_shapes
from rankdet.training.health import Health


def test_each_warning_is_given_once_for_a_head():
    health = Health()
    assert health.warnings({"rpn/boxes_limited": 0.4, "rcnn/masks_saturated": 0.2, "rcnn/balance": 9.0}) == []
    (first,) = health.warnings({"rpn/boxes_limited": 0.6})
    assert first.startswith("warning: rpn: the boxes of 60% of the positives")
    (second,) = health.warnings({"rpn/boxes_limited": 0.9, "rcnn/masks_saturated": 0.9})
    assert second.startswith("warning: rcnn: 90% of the wrong pixels")
    assert health.warnings({"rpn/boxes_limited": 0.9, "rcnn/masks_saturated": 0.9}) == []


def test_a_training_whose_boxes_run_off_says_so(tmp_path: Path):
    data = make_shapes(tmp_path / "shapes", train=8, val=2, size=64)
    changes = ["optimizer.lr=1.0", "schedule.warmup_iterations=0", "schedule.iterations=8", "data.batch_size=2"]
    changes += ["runtime.log_interval=1", "evaluation.at_end=false", "runtime.clip_gradient_norm=null"]
    console = Console(file=io.StringIO(), width=200)
    rankdet.train("rs_faster_rcnn_shapes", changes=changes, data=data, out=tmp_path / "run", console=console)
    assert "as large or as small as boxes can be" in console.file.getvalue()
