#!/usr/bin/env bash
# Hugging Face datasets: the builder "imagefolder" with a metadata.jsonl that lists the objects of images.
#
# A good guess: images are what is in the folder, and the file adds columns: an image without a line has None there, as
# the same folder without metadata.jsonl gives all of its images.
# What happens: an image without a line is not in the data set, and nothing is said.
# Why it matters: tools write no line for images without objects. The background images leave training and evaluation,
# so false positives in them are never learned from nor counted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq datasets==5.2.0 pillow==13.0.0
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 venv/bin/python -W ignore - <<'PY'
import json
import pathlib

import datasets
from PIL import Image

datasets.disable_progress_bars()
seen = {}
for name in ("without", "with"):
    train = pathlib.Path(name, "train")
    train.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (20, 20)).save(train / f"{number}.png")
    if name == "with":
        lines = [{"file_name": f"{number}.png", "objects": {"bbox": [[1, 2, 8, 9]], "category": [0]}} for number in (0, 1)]
        (train / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seen[name] = len(datasets.load_dataset("imagefolder", data_dir=name, split="train"))
print("datasets", datasets.__version__, "| images of 4, without and with a metadata.jsonl of two lines:", seen)
assert seen == {"without": 4, "with": 2}, seen
PY
