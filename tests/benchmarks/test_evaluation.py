"""The benchmark of evaluation: both sides measure the same, and every ratio is printed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rankdet.metrics import evaluate


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_both_sides_have_the_same_average_precision(module, iou_type: str) -> None:
    benchmark = module("evaluation")
    documents = benchmark.make_documents(6, 3, 200, iou_type == "segm")
    precision = benchmark.average_precision(*documents, iou_type)["precision"][:, :, :, 0, -1]
    assert 0 < evaluate(*documents, iou_type)["AP"] == pytest.approx(np.mean(precision[precision > -1]), abs=1e-12)


def test_a_ratio_is_printed_for_each_kind(module, monkeypatch, capsys) -> None:
    arguments = ["--images", "5", "--classes", "2", "--boxes", "50", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["evaluation.py", *arguments])
    benchmark = module("evaluation")
    monkeypatch.setattr(benchmark, "compare_memory", lambda *_: None)  # starts processes
    benchmark.main()
    rows = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == ["| objects", "| files", "| training"]
