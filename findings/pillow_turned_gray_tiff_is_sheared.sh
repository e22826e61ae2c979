#!/usr/bin/env bash
# Pillow: an uncompressed gray TIFF with an EXIF orientation that swaps its sides, as scanners and microscopes write it.
#
# A good guess: the pixels do not depend on whether a file is opened by its name or as an open file.
# What happens: of this format alone Pillow turns the pixels while it loads them. Opened by name, an uncompressed gray file
# is mapped into memory with the rows of the turned size: the image is sheared, and its shape is that before turning. As
# an open file, and with compression, it is right.
# Why it matters: detectors of cells and of documents read such files by name. The image has the right number of pixels
# and no error, and no box fits it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq pillow==13.0.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import numpy as np
import PIL
from PIL import Image

values = (np.arange(600).reshape(20, 30) % 256).astype(np.uint8)
upright = np.rot90(values, k=-1)
seen = {}
for compression in ("raw", "tiff_lzw"):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save("scan.tif", exif=exif, compression=compression)
    by_name = np.array(Image.open("scan.tif"))
    with open("scan.tif", "rb") as file:
        as_file = np.array(Image.open(file))
    seen[compression] = (by_name.shape, np.array_equal(by_name, upright), np.array_equal(as_file, upright))
print("Pillow", PIL.__version__, "| compression: shape by name, right by name, right as an open file:", seen)
assert seen["raw"][1:] == (False, True), seen
assert seen["tiff_lzw"][1:] == (True, True), seen
PY
