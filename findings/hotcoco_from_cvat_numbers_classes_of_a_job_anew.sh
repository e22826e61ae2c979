#!/usr/bin/env bash
# hotcoco: COCO.from_cvat on exports of a task, of a job and of a project with the same labels.
#
# A good guess: the export lists all labels, so their order gives the category ids, whatever was exported.
# What happens: only <meta><task><labels> is read. CVAT writes <meta><job> for a job and <meta><project> for a project;
# there, categories are those of the shapes in the file, sorted by name.
# Why it matters: with train exported as a task and val as a job, dog has id 1 in one and id 2 in the other, and a label
# without a shape is missing. A detector that is trained on the first and measured on the second has its classes swapped.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq hotcoco==1.3.0 numpy==2.4.6 pillow==13.0.0
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from hotcoco import COCO, __version__

names = "".join(f"<label><name>{name}</name></label>" for name in ("dog", "bird", "cat"))
boxes = "".join(f'<box label="{name}" occluded="0" xtl="1" ytl="1" xbr="9" ybr="9"></box>' for name in ("dog", "cat"))
found = {}
for kind in ("task", "job", "project"):
    meta = f"<meta><{kind}><labels>{names}</labels></{kind}></meta>"
    image = f'<image id="0" name="a.jpg" width="100" height="60">{boxes}</image>'
    open(f"{kind}.xml", "w").write(f"<annotations><version>1.1</version>{meta}{image}</annotations>")
    found[kind] = [(row["id"], row["name"]) for row in COCO.from_cvat(f"{kind}.xml").dataset["categories"]]
print("hotcoco", __version__, "|", found)
assert found["task"] == [(1, "dog"), (2, "bird"), (3, "cat")], found
assert found["job"] == found["project"] == [(1, "cat"), (2, "dog")], found
PY
