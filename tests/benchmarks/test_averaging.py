"""The benchmark of averages: its table has a line of numbers for each recipe."""

from __future__ import annotations

import argparse

import torch


def test_the_average_is_a_small_part_of_an_iteration(module) -> None:
    options = argparse.Namespace(images=1, size=(128, 128), repeats=1)
    line = module("averaging").measure("rs_faster_rcnn_shapes", options, torch.device("cpu"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "rs_faster_rcnn_shapes"
    iteration, average = float(cells[1]), float(cells[2])
    assert 0 < average < iteration
