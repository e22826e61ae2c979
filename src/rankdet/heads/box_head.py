"""Pooled features → class logits and deltas."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rankdet.ranges import Count, OpenFraction, checked


@checked
class BoxHead(nn.Module):
    """Two fully connected layers, a classifier, and a regressor with four values for each class or for all of them.

    With softmax there are C + 1 logits, the background last; else C, for sigmoids, whose scores start at ``prior``.
    Features have ``pooled_size`` cells per side. See :class:`BoxStage` for the other parameters. A softmax with a prior
    raises ValueError.
    """

    def __init__(
        self,
        in_channels: Count,
        num_classes: Count,
        *,
        softmax: bool,
        channels: Count = 1024,
        pooled_size: Count = 7,
        class_agnostic: bool = False,
        prior: OpenFraction = 0.5,
    ) -> None:
        super().__init__()
        if softmax and prior != 0.5:
            raise ValueError(f"a softmax starts from its classes alone, not from a prior of {prior:g}")
        self.num_classes = num_classes
        self.softmax = softmax
        self.class_agnostic = class_agnostic
        self.first = nn.Linear(in_channels * pooled_size**2, channels)
        self.second = nn.Linear(channels, channels)
        self.classifier = nn.Linear(channels, num_classes + softmax)
        self.regressor = nn.Linear(channels, 4 * (1 if class_agnostic else num_classes))
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.normal_(self.regressor.weight, std=0.001)
        for layer in (self.first, self.second, self.classifier, self.regressor):
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.classifier.bias, math.log(prior / (1 - prior)))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (K, C) or (K, C + 1) and deltas (K, C, 4), or class-agnostic (K, 1, 4), of K pooled RoIs."""
        hidden = relu(self.second(relu(self.first(pooled.flatten(1)))))
        return self.classifier(hidden), self.regressor(hidden).view(-1, self.regressor.out_features // 4, 4)

    def scores(self, logits: Tensor) -> Tensor:
        """Return scores (K, C) in [0, 1], without background, of logits (K, C) or (K, C + 1)."""
        return torch.softmax(logits.float(), dim=1)[:, :-1] if self.softmax else torch.sigmoid(logits.float())
