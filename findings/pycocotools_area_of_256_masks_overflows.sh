#!/usr/bin/env bash
# pycocotools: areas of many masks in one call, with NumPy 2.
#
# A good guess: `mask.area(codes)` takes any number of run-length objects, as `toBbox`, `merge` and `decode` do.
# What happens: from 256 masks on it raises "OverflowError: Python integer 256 out of bounds for uint8". The number of
# masks passes through a throw-away array of 8 bits, in which NumPy 1 let it wrap around.
# Why it matters: a converter, or an evaluation of masks that comes without areas, works on each image that it is tried
# on, and fails on the first crowded one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
from importlib.metadata import version

import numpy as np
from pycocotools import mask

code = mask.encode(np.ones((4, 4), dtype=np.uint8, order="F"))
found = {}
for number in (255, 256):
    assert len(mask.toBbox([code] * number)) == number
    try:
        found[number] = f"sum {mask.area([code] * number).sum()}"
    except OverflowError as error:
        found[number] = f"OverflowError: {error}"
print("pycocotools", version("pycocotools"), "and NumPy", version("numpy"), "| areas of so many masks:", found)
assert found == {255: "sum 4080", 256: "OverflowError: Python integer 256 out of bounds for uint8"}, found
PY
