#!/usr/bin/env bash
# transformers: RT-DETR and Deformable DETR with an EfficientNet of timm as their backbone.
#
# A good guess: `TimmBackboneConfig` is documented for any network of timm, so the maps are those of timm's network.
# What happens: both models replace batch normalization by a frozen one. timm has the activation of many networks inside
# of it (`BatchNormAct2d`: EfficientNet, MobileNet, DarkNet, RegNet), and it goes, too. The whole backbone is linear.
# Why it matters: nothing is said, and the detector trains, with pretrained weights of a network that no longer is one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.14.1 torchvision==0.29.1 timm==1.0.31 transformers==5.24.0 numpy==2.4.6 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import timm
import torch
import transformers
from torch import nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    TimmBackboneConfig,
)

NAME, STAGES = "tf_efficientnet_lite0", (2, 3, 4)


def activations(network):
    return sum(isinstance(module, nn.ReLU6) for module in network.modules())


def bend(network):
    """How far the last map is from a linear function of the pixels, relative to its change."""
    network.eval()
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    network.double()
    with torch.no_grad():
        found = [network(scale * pixels) for scale in (0, 1, 2)]
    low, middle, high = [(each.feature_maps if hasattr(each, "feature_maps") else each)[-1] for each in found]
    return float(((high - middle) - (middle - low)).abs().max() / (middle - low).abs().max())


torch.manual_seed(0)
backbone = TimmBackboneConfig(backbone=NAME, out_indices=list(STAGES))
rt_detr = RTDetrForObjectDetection(RTDetrConfig(backbone_config=backbone, encoder_in_channels=[40, 112, 320]))
deformable = DeformableDetrForObjectDetection(DeformableDetrConfig(backbone_config=backbone, num_feature_levels=3))
networks = {
    "timm": timm.create_model(NAME, features_only=True, out_indices=STAGES),
    "RT-DETR": rt_detr.model.backbone.model,
    "Deformable DETR": deformable.model.backbone.model,
}
found = {name: (activations(network), bend(network)) for name, network in networks.items()}
print("transformers", transformers.__version__, "timm", timm.__version__, "torch", torch.__version__)
for name, (number, bent) in found.items():
    print(f"{name}: {number} activations, distance from a linear function {bent:.1e}")
assert found["timm"][0] == 32 and found["timm"][1] > 0.01, found
assert found["RT-DETR"][0] == found["Deformable DETR"][0] == 0, found
assert max(found["RT-DETR"][1], found["Deformable DETR"][1]) < 1e-9, found
PY
