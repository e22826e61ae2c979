#!/usr/bin/env bash
# transformers: the loss of LW-DETR and RF-DETR in evaluation.
#
# A good guess: in evaluation there is one group of queries, each object is matched with one of them, and `eval_loss` of
# perfect boxes has no box terms. The criterion says so: `group_detr = self.group_detr if self.training else 1`.
# What happens: the criterion is made anew in each call, so it is always in training. It cuts the queries of an
# evaluation into 13 parts and matches each object in each part: an object that one query has found exactly is also
# matched with 12 others.
# Why it matters: `eval_loss` measures queries that nobody asks, grows with `group_detr`, and chooses checkpoints
# (`metric_for_best_model="eval_loss"`, the default of `load_best_model_at_end`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import LwDetrConfig, LwDetrViTConfig
from transformers.loss.loss_lw_detr import LwDetrForObjectDetectionLoss

# Query 0 of 26 has found the one object exactly; the others are boxes elsewhere.
boxes = torch.full((1, 26, 4), 0.1)
boxes[0, :, 0] = torch.linspace(0.05, 0.95, 26)
boxes[0, 0] = torch.tensor([0.5, 0.6, 0.4, 0.3])
labels = [{"class_labels": torch.tensor([0]), "boxes": boxes[0, :1].clone()}]
logits = torch.full((1, 26, 2), -4.0)
seen = {}
for groups in (1, 13):
    backbone = LwDetrViTConfig(out_indices=[1])
    config = LwDetrConfig(group_detr=groups, num_queries=26, auxiliary_loss=False, backbone_config=backbone)
    # What the model hands over in evaluation: the queries of one group.
    _, terms, _ = LwDetrForObjectDetectionLoss(logits, labels, "cpu", boxes, config, None, None, logits, boxes)
    seen[groups] = round(terms["loss_bbox"].item(), 3)
print("transformers", version("transformers"), "| loss_bbox of an object that is found exactly, by group_detr:", seen)
assert seen[1] == 0, seen
assert seen[13] > 0.5, seen
PY
