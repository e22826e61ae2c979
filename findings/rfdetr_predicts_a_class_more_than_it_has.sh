#!/usr/bin/env bash
# rfdetr: detections of a model that was made for two classes.
#
# A good guess: `RFDETRNano(num_classes=2)` tells classes 0 and 1, so `class_id` is below 2 and indexes a list of two names.
# What happens: the head has a column more, for which no object is ever labelled, and detections are taken from it, too.
# Why it matters: a lookup of names fails or says nothing of the row, and an evaluation down to low scores counts rows of a
# class that is not there. After a training such scores are low, so that the default threshold of 0.5 hides them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq rfdetr==1.11.2 torch==2.14.1 torchvision==0.29.1
cd "$folder"
venv/bin/python -W ignore - <<'PY' 2>/dev/null
from importlib.metadata import version

import numpy as np
import torch
from rfdetr import RFDETRNano

torch.manual_seed(0)
model = RFDETRNano(pretrain_weights=None, num_classes=2, device="cpu")
image = np.random.default_rng(0).integers(0, 255, (384, 384, 3), dtype=np.uint8)
found = model.predict(image, threshold=0.0)
classes, counts = np.unique(found.class_id, return_counts=True)
print("rfdetr", version("rfdetr"), "torch", torch.__version__)
print(f"a model of 2 classes tells the classes {classes.tolist()}, {counts.tolist()} times")
assert classes.tolist() == [0, 1, 2], classes
PY
