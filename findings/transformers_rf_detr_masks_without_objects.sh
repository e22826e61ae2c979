#!/usr/bin/env bash
# transformers: a batch without objects for RF-DETR's instance segmentation.
#
# A good guess: its loss is a number, as that of every other detector of the package: background is learned from.
# What happens: the loss is a tensor of shape (0, H, W), without a single element.
# Why it matters: the first batch of images without objects ends a training, "grad can be implicitly created only for
# scalar outputs".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import RfDetrConfig, RfDetrDinov2Config
from transformers.loss.loss_rf_detr import RfDetrForSegmentationLoss

config = RfDetrConfig(backbone_config=RfDetrDinov2Config(out_indices=[1]), group_detr=1, auxiliary_loss=False, num_labels=2)
logits, boxes, masks = torch.zeros(1, 10, 2), torch.full((1, 10, 4), 0.5), torch.zeros(1, 10, 8, 8)
seen = {}
for count in (1, 0):
    labels = [{
        "class_labels": torch.zeros(count, dtype=torch.long),
        "boxes": torch.full((count, 4), 0.5),
        "masks": torch.ones(count, 32, 32),
    }]
    loss, _, _ = RfDetrForSegmentationLoss(
        logits, labels, "cpu", boxes, masks, config,
        enc_outputs_class=logits, enc_outputs_coord=boxes, enc_outputs_masks=masks,
    )
    seen[count] = tuple(loss.shape)
print("transformers", version("transformers"), "| shape of the loss, by the number of objects:", seen)
assert seen == {1: (), 0: (0, 8, 8)}, seen
PY
