"""Head of YOLACT: maps → classes, boxes and mask coefficients of every anchor.

Legend: B images, L levels, A anchors per cell, M anchors of an image, Q prototypes, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rankdet.heads.dense import by_anchor, start_normal
from rankdet.ranges import Count, CountOrZero, checked


@checked
class InstanceHead(nn.Module):
    """One 3x3 convolution with ReLU, shared by three more of them and by all levels (Bolya et al., ICCV 2019).

    ``num_convolutions`` are shared; then one each makes the logits, the deltas and the Q = ``num_prototypes``
    coefficients of ``num_per_cell`` anchors. With softmax there are C + 1 logits, the background last; else C, for
    sigmoids. Weights start Xavier uniform, biases 0: every score starts around ½, and there is no prior. Weights of the
    coefficients start normal with deviation 0.01 instead, so that tanh does not start where it is flat.
    """

    def __init__(
        self,
        in_channels: Count,
        num_classes: Count,
        *,
        num_per_cell: Count,
        num_prototypes: Count,
        softmax: bool,
        num_convolutions: CountOrZero = 1,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_prototypes = num_prototypes
        self.softmax = softmax
        self.convolutions = nn.ModuleList(
            nn.Conv2d(in_channels, in_channels, 3, padding=1) for _ in range(num_convolutions)
        )
        self.classifier = nn.Conv2d(in_channels, num_per_cell * (num_classes + softmax), 3, padding=1)
        self.regressor = nn.Conv2d(in_channels, num_per_cell * 4, 3, padding=1)
        self.coefficients = nn.Conv2d(in_channels, num_per_cell * num_prototypes, 3, padding=1)
        for convolution in (*self.convolutions, self.classifier, self.regressor):
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        start_normal(self.coefficients)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, deltas and coefficients, (B, M, …) each in the order of the anchors.

        Logits are (B, M, C), or (B, M, C + 1) with softmax; deltas (B, M, 4); coefficients (B, M, Q) in (−1, 1).
        """
        logits, deltas, coefficients = [], [], []
        for features in maps:
            for convolution in self.convolutions:
                features = relu(convolution(features))
            logits.append(self.classifier(features))
            deltas.append(self.regressor(features))
            coefficients.append(self.coefficients(features))
        return (
            by_anchor(logits, self.num_classes + self.softmax),
            by_anchor(deltas, 4),
            by_anchor(coefficients, self.num_prototypes).tanh(),
        )

    def scores(self, logits: Tensor) -> Tensor:
        """Return scores (…, C) in [0, 1], without background, of logits (…, C) or (…, C + 1)."""
        return torch.softmax(logits.float(), dim=-1)[..., :-1] if self.softmax else torch.sigmoid(logits.float())


@checked
class SemanticHead(nn.Module):
    """A 1x1 convolution from the finest map to the pixels of each class: an auxiliary output, for training alone.

    Weights start Xavier uniform, biases 0.
    """

    def __init__(self, in_channels: Count, num_classes: Count) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(in_channels, num_classes, 1)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, C, h, w) for a map (B, channels, h, w)."""
        logits: Tensor = self.classifier(features)
        return logits
