#!/usr/bin/env bash
# torch: attention in double precision with a mask in single precision, on a CPU.
#
# A good guess: `scaled_dot_product_attention` says that it takes masks of "bool or float or to match query dtype", refuses
# one in float16, and so adds a mask in float32 to scores in float64.
# What happens: the memory of the mask is read as if it held doubles. No error, no warning, and the result is that of some
# other mask.
# Why it matters: DETRs with denoising make their mask by `torch.full(…, dtype=torch.float)`. Whoever trains or checks one in
# double precision, as for `gradcheck` or to compare two programs, has queries that see what they must not see.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.14.1 numpy==2.4.6
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
from torch.nn.functional import scaled_dot_product_attention

torch.manual_seed(0)
query, key, value = (torch.randn(1, 2, 36, 8, dtype=torch.float64) for _ in range(3))
mask = torch.zeros(36, 36, dtype=torch.float64)
mask[16:, :16] = -torch.inf  # 16 noised queries, which the others must not see
expected = (query @ key.transpose(2, 3) / 8**0.5 + mask).softmax(dim=3) @ value
errors = {
    str(given.dtype): float((scaled_dot_product_attention(query, key, value, attn_mask=given) - expected)[:, :, 16:].abs().max())
    for given in (mask, mask.float(), mask == 0)
}
print("torch", torch.__version__, "| largest error by type of the mask:", errors)
assert errors["torch.float64"] < 1e-12 and errors["torch.bool"] < 1e-12 and errors["torch.float32"] > 0.1, errors
PY
