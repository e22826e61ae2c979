#!/usr/bin/env bash
# transformers: DEIMv2 with `auxiliary_loss=False`.
#
# A good guess: the loss of the last layer is one of its ordinary queries. Denoising queries, which are made from the
# objects themselves, are kept apart (huggingface/transformers#48528 did so for RT-DETR and D-FINE).
# What happens: DEIMv2 separates them only where auxiliary losses are on. Without, they are matched with the objects
# beside the ordinary queries, win, and these learn nothing but to find nothing.
# Why it matters: turning auxiliary losses off, for memory or an ablation, breaks the training without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import Deimv2Config
from transformers.loss.loss_deimv2 import Deimv2ForObjectDetectionLoss

torch.manual_seed(0)
objects = torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.3, 0.7, 0.2, 0.2]])
labels = [{"class_labels": torch.tensor([0, 1]), "boxes": objects}]
logits = torch.cat([4 * torch.eye(2)[None], torch.full((1, 10, 2), -4.0)], dim=1)  # 2 denoising queries, 10 others
boxes = torch.cat([objects[None], 0.2 + 0.1 * torch.rand(1, 10, 4)], dim=1)
meta = {"dn_num_split": [2, 10], "dn_num_group": 1, "dn_positive_idx": [torch.tensor([0, 1])]}
config = Deimv2Config(num_labels=2, auxiliary_loss=False, use_dense_one_to_one=False)
with_all, _, _ = Deimv2ForObjectDetectionLoss(logits, labels, "cpu", boxes, config, denoising_meta_values=meta)
others, _, _ = Deimv2ForObjectDetectionLoss(logits[:, 2:], labels, "cpu", boxes[:, 2:], config)
seen = {"model": round(with_all.item(), 2), "ordinary queries alone": round(others.item(), 2)}
print("transformers", version("transformers"), "| loss of the last layer, which no ordinary query fits:", seen)
assert seen["model"] < 0.5 < 5 < seen["ordinary queries alone"], seen
PY
