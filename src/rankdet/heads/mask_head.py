"""Pooled features → the mask of one class.

Legend: K RoIs, C classes, S cells per side of the pooled features.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rankdet.heads.dense import start_normal
from rankdet.ranges import Count, CountOrZero, checked


@checked
class MaskHead(nn.Module):
    """Mask branch: convolutions, a transposed convolution that doubles the size, and a logit per class and pixel.

    It is that of Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870, figure 4, right). Only the channel of each RoI's
    own class is computed: masks of classes do not compete, and no loss looks at the others.

    Notes
    -----
    Weights start Kaiming-normal in their outputs, those of the classifier normal with deviation 0.01, biases at 0.
    Differs from the published code, whose classifier starts Kaiming-normal, too. There logits start as large as
    features and few classes make them, with a deviation of ten and more for one class. Dice has no usable gradient
    there: that of a pixel is multiplied by p (1 − p).
    """

    def __init__(
        self, in_channels: Count, num_classes: Count, *, channels: Count = 256, num_convolutions: CountOrZero = 4
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [in_channels, *[channels] * num_convolutions]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(widths)
        )
        self.upsampling = nn.ConvTranspose2d(widths[-1], channels, 2, stride=2)
        self.classifier = nn.Linear(channels, num_classes)  # a 1x1 convolution, of which one row is used at a time
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")
        start_normal(self.classifier)

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Return mask logits (K, 2S, 2S) float32 of pooled features (K, channels, S, S) and classes (K,) of RoIs."""
        hidden = pooled
        for convolution in self.convolutions:
            hidden = relu(convolution(hidden))
        hidden = relu(self.upsampling(hidden))
        logits = torch.einsum("kchw,kc->khw", hidden, self.classifier.weight[labels])
        return logits.float() + self.classifier.bias[labels, None, None]
