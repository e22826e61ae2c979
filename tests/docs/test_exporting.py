"""The example of docs/exporting.md detects, without rankdet, what the model detects."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import rankdet
from rankdet.data import FixedSize, Transforms
from rankdet.recipes import load_recipe

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_example_finds_what_the_model_finds(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    specification = importlib.util.spec_from_file_location("detect_with_onnx", DOCS / "detect_with_onnx.py")
    assert specification is not None
    assert specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)

    torch.manual_seed(0)
    network = load_recipe("atss_shapes").detector.build(2, pretrained=False)
    network.dense.head.classifier.weight.data.mul_(30)
    transforms = Transforms(FixedSize(96, 128))
    model = rankdet.Model(network, [(1, "cat"), (2, "dog")], transforms, thresholds=[0.4, 0.3])
    soft = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 12) * 255, size=(192, 256), mode="bilinear")
    Image.fromarray(soft[0].byte().permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    path = rankdet.export(model, tmp_path / "model.onnx")
    found = example.detect(onnxruntime.InferenceSession(path), str(tmp_path / "photo.png"))
    expected = model.detect(tmp_path / "photo.png").above()
    assert len(expected) > 10
    assert sorted(name for name, _, _ in found) == sorted(expected.names)
    for (_, score, _), value in zip(found, expected.scores.tolist(), strict=True):
        assert score == pytest.approx(value, abs=1e-2)
    assert torch.tensor([box for _, _, box in found]).mean() == pytest.approx(float(expected.boxes.mean()), rel=1e-2)


def test_the_example_is_short_and_imports_neither_torch_nor_rankdet() -> None:
    text = (DOCS / "detect_with_onnx.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) == {
        "PIL",
        "json",
        "numpy",
        "onnxruntime",
        "sys",
    }
