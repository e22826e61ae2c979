#!/usr/bin/env bash
# transformers: a training of D-FINE (and DEIMv2, which has the same lines).
#
# A good guess: each decoder layer has losses of its classes and boxes, and one of the distributions that its boxes come
# from, as in the authors' code.
# What happens: in front of the boxes of its layers the decoder puts those before the first refinement, but there is no
# distribution for these. The loss pairs the lists in order, so boxes meet the distributions of the next layer, and the
# layer before the last is left over: its classes and boxes have no loss. Of denoising queries it is the last layer.
# Why it matters: a fine-tuning in transformers is not that of the paper, and no message tells.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq transformers==5.24.0 torch==2.14.1 torchvision==0.29.1 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
from importlib.metadata import version

import torch
from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

LAYERS = 4
stages = {"stage_in_channels": [8] * 4, "stage_mid_channels": [4] * 4, "stage_out_channels": [8] * 4}
backbone = HGNetV2Config(
    **stages, embedding_size=4, hidden_sizes=[8] * 4, depths=[1] * 4, stem_channels=[3, 4, 8], stage_num_blocks=[1] * 4,
    stage_numb_of_layers=[1] * 4, out_indices=[2, 3, 4],
)
config = DFineConfig(
    backbone_config=backbone, num_labels=2, d_model=16, num_queries=12, decoder_layers=LAYERS, encoder_hidden_dim=16,
    encoder_in_channels=[8] * 3, decoder_in_channels=[16] * 3, encoder_ffn_dim=16, encoder_attention_heads=2,
    decoder_ffn_dim=16, decoder_attention_heads=2, decoder_n_points=2, num_denoising=4, hidden_expansion=0.5,
    lqe_hidden_dim=8, max_num_bins=8,
)
torch.manual_seed(0)
model = DFineForObjectDetection(config).train()
labels = [{"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.3, 0.7, 0.2, 0.2]])}]
outputs = model(pixel_values=torch.rand(1, 3, 64, 64), labels=labels)
names = ["before", *(f"layer {i + 1}" for i in range(LAYERS))]
# The stacked boxes go to the losses alone: a layer hands the next one detached boxes.
gradient = torch.autograd.grad(outputs.loss, outputs.intermediate_reference_points)[0]
assert gradient.shape[1] == len(names)
noised, ordinary = gradient.split(outputs.denoising_meta_values["dn_num_split"], dim=2)
print("transformers", version("transformers"), "| boxes of these have no loss:")
found = {}
for queries, part in (("ordinary", ordinary), ("denoising", noised)):
    found[queries] = [name for name, each in zip(names, part.unbind(1)) if not each.any()]
    print(f"  {queries} queries: {', '.join(found[queries])} of {', '.join(names)}")
assert found == {"ordinary": [f"layer {LAYERS - 1}"], "denoising": [f"layer {LAYERS}"]}, found
PY
