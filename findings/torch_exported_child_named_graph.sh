#!/usr/bin/env bash
# torch: `torch.export` of a module that has a child called `graph`.
#
# A good guess: names of children are the author's own, or a name that is taken is refused where the module is exported.
# What happens: the export succeeds. What comes after it fails, `run_decompositions` and with it `torch.onnx.export`: "Node
# graph_linear_weight target graph.linear.weight references nonexistent attribute linear of graph". The traced module has an
# attribute `graph` of its own.
# Why it matters: the message speaks of a weight of the user's network, and sends one looking for a mistake there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x)


class Outer(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name
        self.add_module(name, Inner())

    def forward(self, x):
        return getattr(self, self.name)(x)


print("torch", torch.__version__)
said = {}
for name in ("inner", "graph"):
    program = torch.export.export(Outer(name), (torch.zeros(1, 2),))
    try:
        program.run_decompositions()
        said[name] = "works"
    except RuntimeError as error:
        said[name] = str(error)
    print(f"child {name!r}:", said[name])
assert said["inner"] == "works" and "nonexistent attribute" in said["graph"], said
PY
