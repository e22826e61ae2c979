"""The benchmark of two-stage detectors: its parts are those of the iteration, and it counts what heads multiply."""

from __future__ import annotations

import argparse

import pytest
import torch

from rankdet.heads import BoxHead, MaskHead
from rankdet.recipes.library.cascade_rcnn import cascade_rcnn_shapes, rs_cascade_rcnn_shapes


def test_parts_of_an_iteration_are_taken_from_each_stage(module, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = module("two_stage")
    monkeypatch.setitem(benchmark.PAIRS, "small", (rs_cascade_rcnn_shapes, cascade_rcnn_shapes))
    monkeypatch.setattr(benchmark, "SHAPES", ((64, 64, 64),))
    options = argparse.Namespace(images=1, size=(128, 128), repeats=1)
    standard, ranking = benchmark.measure("small", options)
    assert standard.rois != ranking.rois
    for parts in (standard, ranking):
        assert parts.rois > 3 * 10  # each of three stages has the objects at least
        assert min(parts.pooling, parts.heads, *parts.products.values()) > 0
        assert parts.rest == parts.iteration - parts.pooling - parts.heads


def test_multiplications_of_heads_are_counted_forward_and_backward(module) -> None:
    call = module("two_stage").Call
    boxes = BoxHead(2, 5, softmax=False, channels=7, pooled_size=3)
    weights = 2 * 9 * 7 + 7 * 7 + 7 * 5 + 7 * 20
    assert call(boxes, (torch.zeros(4, 2, 3, 3),)).multiplications() == 3 * 4 * weights
    masks = MaskHead(2, 5, channels=3, num_convolutions=1)
    weights = 2 * 3 * 9 * 16 + 3 * 3 * 4 * 16
    labels = torch.tensor([0, 1, 4])
    assert call(masks, (torch.zeros(3, 2, 4, 4), labels)).multiplications() == 3 * 3 * weights
