"""The benchmark of pieces tells boxes that a stray pixel stretches from those around the largest piece."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rankdet.coco.segmentations import encode_bitmap


def test_stray_pixel_stretches_the_box_and_not_that_of_the_largest_piece(module, tmp_path: Path, capsys) -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[4:8, 4:8] = True
    truth = {
        "images": [{"id": 1, "height": 32, "width": 32}, {"id": 2, "height": 32, "width": 32}],
        "annotations": [
            {"image_id": 1, "segmentation": encode_bitmap(mask), "iscrowd": 0},
            {"image_id": 1, "segmentation": encode_bitmap(~mask), "iscrowd": 1},  # no object
            {"image_id": 2, "segmentation": encode_bitmap(mask)},  # without detections
        ],
    }
    mask[11, 11] = True
    results = [{"image_id": 1, "segmentation": encode_bitmap(mask)}]
    benchmark = module("mask_pieces")
    assert benchmark.pieces(results, truth)[0].tolist() == pytest.approx([2, 16 / 17, 16 / 64, 1])
    assert benchmark.pieces([], truth).shape == (0, 4)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    benchmark.main([str(tmp_path / "results.json"), "--truth", str(tmp_path / "truth.json")])
    assert "| 0.941" in capsys.readouterr().out
