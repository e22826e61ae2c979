#!/usr/bin/env bash
# transformers: `cls_loss_coefficient` of Conditional DETR and DAB-DETR.
#
# A good guess: it is the weight of the classification in the loss, 2 by default as in the published training scripts, as
# `bbox_loss_coefficient` is that of the boxes.
# What happens: nothing reads it. The weight is 1, while those of the boxes are the configured ones.
# Why it matters: fine-tuning has half of the published weight of classes, and searching the coefficient is in vain.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import ConditionalDetrConfig, DabDetrConfig, ResNetConfig
from transformers.loss.loss_utils import LOSS_MAPPING

torch.manual_seed(0)
backbone = ResNetConfig(out_features=["stage4"])
labels = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])}]
logits, boxes = torch.randn(1, 10, 3), 0.2 + 0.3 * torch.rand(1, 10, 4)
seen = {}
for name, kind in (("ConditionalDetr", ConditionalDetrConfig), ("DabDetr", DabDetrConfig)):
    function = LOSS_MAPPING[f"{name}ForObjectDetection"]
    for changes in ({}, {"cls_loss_coefficient": 100}, {"bbox_loss_coefficient": 100}):
        config = kind(backbone_config=backbone, num_labels=3, **changes)
        seen[name, *changes] = round(function(logits, labels, "cpu", boxes, config)[0].item(), 2)
print("transformers", version("transformers"), "| loss with coefficients of 100:", seen)
for name in ("ConditionalDetr", "DabDetr"):
    assert seen[(name,)] == seen[name, "cls_loss_coefficient"] < seen[name, "bbox_loss_coefficient"], seen
PY
