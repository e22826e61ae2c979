"""The Python of docs/plugging-in.md on DETRs runs; that on rfdetr does so in tests/adapters/test_rfdetr.py."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugging-in.md"


def blocks(name: str) -> list[Any]:
    """The blocks of Python below a heading, compiled."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    return [
        compile(block, PAGE, "exec") for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


class SetCriterion(nn.Module):
    """Stands for that of Deformable DETR, by its arguments and its protocol."""

    def __init__(self, num_classes: int, matcher: Any, weight_dict: dict[str, float], losses: list[str]) -> None:
        super().__init__()
        self.num_classes, self.matcher, self.weight_dict, self.losses = num_classes, matcher, weight_dict, losses

    def get_loss(self, loss: str, *_: Any) -> dict[str, Any]:
        return {"loss_bbox": torch.zeros(())} if loss == "boxes" else {}

    def forward(self, outputs: Any, targets: Any) -> dict[str, Any]:
        indices, terms = self.matcher(outputs, targets), {}
        for loss in self.losses:
            terms |= self.get_loss(loss, outputs, targets, indices, 1.0)
        return terms


def test_the_criterion_of_a_repository_ranks_its_classes_after_three_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("models"), ModuleType("models.deformable_detr")
    module.SetCriterion = SetCriterion  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "models", package)
    monkeypatch.setitem(sys.modules, "models.deformable_detr", module)
    names: dict[str, Any] = {
        "num_classes": 2,
        "matcher": lambda outputs, targets: [(torch.tensor([2]), torch.tensor([0]))],
        "weight_dict": {"loss_ce": 2.0, "loss_bbox": 5.0, "loss_giou": 2.0},
        "losses": ["labels", "boxes"],
    }
    for block in blocks("Any DETR repository"):
        exec(block, names)
    outputs = {"pred_logits": torch.zeros(1, 3, 2), "pred_boxes": torch.full((1, 3, 4), 0.5)}
    targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.25]])}]
    terms = names["criterion"](outputs, targets)
    torch.testing.assert_close(terms["loss_ce"], torch.tensor(5 / 6))  # 5 negatives of equal logits beside 1 positive
    assert set(terms) == {"loss_ce", "ranking", "sorting", "loss_bbox"}


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
def test_the_tutorial_of_transformers_trains_saves_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra 'dev'")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=["stage4"]
    )
    config = transformers.ConditionalDetrConfig(
        backbone_config=backbone,
        num_labels=3,
        num_queries=10,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
    )
    # The tutorial's checkpoint, as a folder of its name: of other classes, and of random weights.
    transformers.ConditionalDetrForObjectDetection(config).save_pretrained("microsoft/conditional-detr-resnet-50")

    def sample(index: int) -> dict[str, Any]:
        pixels = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index))
        boxes = torch.tensor([[0.5, 0.5, 0.6, 0.8], [0.3, 0.3, 0.4, 0.4]])
        return {"pixel_values": pixels, "labels": {"class_labels": torch.tensor([0, 1]), "boxes": boxes}}

    samples = [sample(index) for index in range(4)]
    names: dict[str, Any] = {
        "id2label": {0: "cat", 1: "dog"},
        "label2id": {"cat": 0, "dog": 1},
        "training_args": transformers.TrainingArguments(
            output_dir="out",
            use_cpu=True,
            max_steps=2,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
        ),
        "collate_fn": lambda parts: {
            "pixel_values": torch.stack([part["pixel_values"] for part in parts]),
            "labels": [part["labels"] for part in parts],
        },
        "train_dataset": samples,
        "validation_dataset": samples,
    }
    before, training, after = blocks("transformers")
    exec(before, names)
    exec(training, names)
    trained = names["model"]
    assert names["trainer"].state.global_step == 2
    exec(after, names)
    batch = names["collate_fn"](samples[:2])
    found, expected = (model.eval()(**batch) for model in (names["model"], trained))
    assert names["model"] is not trained
    torch.testing.assert_close(found.loss, expected.loss)
    assert {"ranking", "sorting"} <= set(found.loss_dict)
    assert found.logits.shape[-1] == 2
