#!/usr/bin/env bash
# torchvision: `torch.export` of a program with `torchvision.ops.nms`.
#
# A good guess: how many boxes remain depends on the image, so that the exported program takes any number of them.
# What happens: it is exported without a word, and fails for each image of which fewer than two boxes remain: "Runtime
# assertion failed for expression u0 >= 2". That is a range which the exporter gives to every size that it does not know.
# Why it matters: a detector that is exported and tried on a full image ends in production at the first image with one object
# or none. Two boxes that always remain, added and left out again, help.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.14.1 torchvision==0.29.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
import torchvision


class Detector(torch.nn.Module):
    def forward(self, boxes, scores):
        return torchvision.ops.nms(boxes, scores, 0.5)


boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [9.0, 9.0, 12.0, 12.0], [0.0, 0.0, 4.0, 5.0]])
scores = torch.tensor([0.9, 0.8, 0.7])
run = torch.export.export(Detector(), (boxes, scores)).module()
print("torch", torch.__version__, "torchvision", torchvision.__version__)
print("two objects:", run(boxes, scores).tolist())
one = boxes[[0, 0, 2]]
print("one object, without export:", Detector()(one, scores).tolist())
try:
    message = f"finds {run(one, scores).tolist()}"
except RuntimeError as error:
    message = str(error)
print("one object, exported:", message)
assert "u0 >= 2" in message, message
PY
