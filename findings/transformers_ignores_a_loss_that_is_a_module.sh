#!/usr/bin/env bash
# transformers: `model.loss_function = loss`, where the loss is an `nn.Module`.
#
# A good guess: the model computes that loss from then on, as it does with a function, or says why not.
# What happens: torch puts the module among the submodules of the model, the property of transformers never sees it, and
# the model goes on with its own loss, without a word.
# Why it matters: losses are modules more often than functions. A comparison of two losses compares one with itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection, ResNetConfig


class Seven(torch.nn.Module):
    def forward(self, *args, **kwargs):
        return torch.tensor(7.0), {}, None


backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage4"])
config = ConditionalDetrConfig(backbone_config=backbone, d_model=16, num_queries=5)
labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])}]
seen = {}
for name, loss in (("function", lambda *args, **kwargs: Seven()(*args, **kwargs)), ("module", Seven())):
    model = ConditionalDetrForObjectDetection(config)
    model.loss_function = loss
    seen[name] = round(model(pixel_values=torch.zeros(1, 3, 64, 64), labels=labels).loss.item(), 2)
print("transformers", version("transformers"), "| loss of the model after model.loss_function = one that is 7:", seen)
assert seen["function"] == 7 != seen["module"], seen
PY
