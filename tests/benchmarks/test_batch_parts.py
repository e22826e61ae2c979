"""The benchmark of batches: its parts are those of the whole detection."""

import pytest
import torch

from rankdet.inference.loading import build_model
from rankdet.recipes import load_recipe


def test_parts_make_up_the_detection(module):
    torch.set_num_threads(1)
    benchmark = module("batch_parts")
    recipe = load_recipe("faster_rcnn_shapes")
    network = recipe.detector.build(1, pretrained=False)
    model = build_model(recipe, network, [(1, "a")], torch.device("cpu"))
    found = benchmark.measured(model, benchmark.noise(2, (64, 64)))
    whole = found.pop(benchmark.WHOLE)
    assert sum(found.values()) == pytest.approx(whole)
    assert set(found) == {*benchmark.measured_parts(network), benchmark.REST}
    assert min(found.values()) > 0
    assert not network.backbone._forward_hooks
