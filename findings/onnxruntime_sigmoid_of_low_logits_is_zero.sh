#!/usr/bin/env bash
# onnxruntime: Sigmoid in float32 on a CPU, of logits below -14.
#
# A good guess: the sigmoid of -18 is 1.5e-8, as numpy and torch have it in float32, and a lower logit has a lower sigmoid.
# What happens: it is 0 from -18 on. Just above it falls and rises: 6.0e-8 at -16, 8.9e-8 at -17.
# Why it matters: "score > 0" then is no test of whether a row of an exported detector is a detection, and where scores are
# low, as focal and ranking losses may leave them, their order is lost.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

given, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("logit", "score"))
graph = helper.make_graph([helper.make_node("Sigmoid", ["logit"], ["score"])], "sigmoid", [given], [found])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
logits = -np.arange(12, 20, dtype=np.float32)
(scores,) = session.run(None, {"logit": logits})
print("onnxruntime", onnxruntime.__version__)
for logit, score in zip(logits, scores):
    print(f"logit {logit:g}: {score:.2e}, in numpy's float32 {1 / (1 + np.exp(-logit)):.2e}")
assert scores[6] == 0 < 1 / (1 + np.exp(-logits[6])) and scores[5] > scores[4], scores
PY
