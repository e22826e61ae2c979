"""Decoder of RT-DETR (Zhao et al., CVPR 2024, arXiv:2304.08069): the best cells become queries, which layers refine.

Legend: B images, L levels, M cells of an image on all levels, Q queries of an image, N noised queries of an image, D
channels, C classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankdet.backbones.hybrid_encoder import convolution
from rankdet.heads.anchors import sizes_of
from rankdet.heads.deformable_attention import DeformableAttention
from rankdet.heads.denoising import NoisedQueries
from rankdet.heads.dense import PRIOR
from rankdet.heads.queries import LOGIT_MARGIN, Padding, QueryOutputs, cell_anchors
from rankdet.ranges import Count, OpenFraction, checked


class DecoderOutputs(NamedTuple):
    """What queries predict: cells when they are selected, queries behind each layer, noised queries behind each layer.

    The last are empty where there are no noised queries.
    """

    selected: QueryOutputs
    layers: list[QueryOutputs]
    noised: list[QueryOutputs]


@checked
class QueryDecoder(nn.Module):
    """Selection of queries among the cells of a pyramid, and layers of attention that refine their boxes.

    Every cell has class logits, and the cells whose best class scores highest become queries, each with a box around an
    anchor. A layer lets the queries attend to each other and to points of the maps around their boxes. It then makes
    class logits, and moves the box. Gradients do not flow from the boxes of a layer to those before it.

    Parameters
    ----------
    in_channels, num_levels, num_classes
        Channels of every map of the pyramid, L and C.
    channels
        D, a multiple of ``heads``.
    queries
        Q, or the number of cells where there are fewer.
    layers
        Layers of the decoder.
    heads
        Heads of both kinds of attention.
    points
        Points of a head on each level.
    feedforward
        Channels inside of the feed-forward parts.
    anchor_size
        Sides of the anchors on the finest level, as parts of those of the image; from one level to the next twice as
        much.
    groups
        Groups of the normalization of the maps. None: batch normalization, as published, which depends on the mode of
        the module.

    Raises
    ------
    ValueError
        When D is no multiple of ``heads`` or ``groups``.

    Notes
    -----
    Scores start at 0.01, and boxes at their anchors.
    """

    def __init__(
        self,
        in_channels: Count,
        num_levels: Count,
        num_classes: Count,
        *,
        channels: Count = 256,
        queries: Count = 300,
        layers: Count = 6,
        heads: Count = 8,
        points: Count = 4,
        feedforward: Count = 1024,
        anchor_size: OpenFraction = 0.05,
        groups: Count | None = None,
    ) -> None:
        super().__init__()
        for name, divisor in (("heads", heads), ("groups", groups)):
            if divisor is not None and channels % divisor:
                raise ValueError(f"channels = {channels} is no multiple of {name} = {divisor}")
        self.channels = channels
        self.num_queries = queries
        self.anchor_size = anchor_size
        self.projections = nn.ModuleList(
            convolution(in_channels, channels, 1, groups=groups) for _ in range(num_levels)
        )
        self.selection = nn.Sequential(nn.Linear(channels, channels), nn.LayerNorm(channels))
        self.selector = Predictor(channels, num_classes)
        self.positions = perceptron(4, 2 * channels, channels, num_layers=2)
        self.layers = nn.ModuleList(
            DecoderLayer(channels, num_levels, heads, points, feedforward) for _ in range(layers)
        )
        self.predictors = nn.ModuleList(Predictor(channels, num_classes) for _ in range(layers))

    def forward(
        self, maps: Sequence[Tensor], padding: Padding | None = None, noised: NoisedQueries | None = None
    ) -> DecoderOutputs:
        """Return what queries predict on L maps (B, in_channels, H, W) of images that lie so in their canvas."""
        projected = [projection(features) for projection, features in zip(self.projections, maps, strict=True)]
        values = [features.permute(0, 2, 3, 1) for features in projected]
        anchors, is_valid = cell_anchors(sizes_of(maps), self.anchor_size, padding, maps[0])
        cells = torch.cat([features.flatten(1, 2) for features in values], dim=1)
        cells = self.selection(cells.where(is_valid[..., None], 0))
        scores = self.selector.classifier(cells)
        # Cells without a valid anchor come last: they become queries only where there are too few others.
        order = scores.amax(dim=2).masked_fill(~is_valid, -torch.inf)
        best = order.topk(min(self.num_queries, order.shape[1]), dim=1).indices
        queries = _rows(cells, best)
        selected = self.selector.boxes(queries, _rows(anchors.expand(queries.shape[0], -1, -1), best))
        outputs = QueryOutputs(_rows(scores, best), selected)

        queries, boxes, blocked, num_noised = queries.detach(), selected.detach(), None, 0
        if noised is not None:
            num_noised = noised.queries.shape[1]
            queries = torch.cat([noised.queries.to(queries.dtype), queries], dim=1)
            boxes = torch.cat([noised.boxes, boxes], dim=1)
            blocked = _blocked(noised.groups, len(best[0]))
        layers, of_noised = [], []
        ratios = 1.0 if padding is None else padding.ratios
        inside = None if padding is None else padding.inside
        for layer, predictor in zip(self.layers, self.predictors, strict=True):
            queries = layer(queries, self.positions(boxes), boxes * ratios, values, inside, blocked)
            predicted: QueryOutputs = predictor(queries, boxes.logit(LOGIT_MARGIN))
            layers.append(QueryOutputs(*(part[:, num_noised:] for part in predicted)))
            if noised is not None:
                of_noised.append(QueryOutputs(*(part[:, :num_noised] for part in predicted)))
            boxes = predicted.boxes.detach()
        return DecoderOutputs(outputs, layers, of_noised)


class Predictor(nn.Module):
    """A linear layer for C logits, and three with ReLUs between them that move a box."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes)
        self.regressor = perceptron(channels, channels, 4, num_layers=3)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.constant_(self.classifier.bias, -math.log((1 - PRIOR) / PRIOR))
        # Not exactly 0, so that all layers have a gradient from the first iteration on.
        last: nn.Linear = self.regressor[-1]  # type: ignore[assignment]
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, references: Tensor) -> QueryOutputs:
        """Return predictions from features (B, Q, D) and the logits (B, Q, 4) of where the boxes were."""
        return QueryOutputs(self.classifier(features), self.boxes(features, references))

    def boxes(self, features: Tensor, references: Tensor) -> Tensor:
        """Return centered boxes (B, Q, 4) of features (B, Q, D) and the logits (B, Q, 4) of where they were."""
        return (self.regressor(features).to(references.dtype) + references).sigmoid()


class DecoderLayer(nn.Module):
    """Self-attention of queries, attention to maps and a feed-forward part, each added to its input and normalized."""

    def __init__(self, channels: int, levels: int, heads: int, points: int, feedforward: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(channels)
        self.map_attention = DeformableAttention(channels, levels, heads=heads, points=points)
        self.map_attention_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(nn.Linear(channels, feedforward), nn.ReLU(), nn.Linear(feedforward, channels))
        self.feedforward_norm = nn.LayerNorm(channels)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        boxes: Tensor,
        maps: Sequence[Tensor],
        inside: Sequence[Tensor] | None,
        blocked: Tensor | None,
    ) -> Tensor:
        """Return queries (B, T, D) of queries (B, T, D) with positions (B, T, D) and boxes (B, T, 4).

        Maps and ``inside`` are those of :class:`DeformableAttention`; ``blocked`` (T, T) bool says which queries (rows)
        do not attend to which.
        """
        placed = queries + positions
        attended, _ = self.attention(placed, placed, queries, attn_mask=blocked, need_weights=False)
        queries = self.attention_norm(queries + attended)
        queries = self.map_attention_norm(queries + self.map_attention(queries + positions, boxes, maps, inside))
        return self.feedforward_norm(queries + self.feedforward(queries))


def perceptron(in_channels: int, channels: int, out_channels: int, num_layers: int) -> nn.Sequential:
    """Return linear layers with ReLUs between them."""
    sizes = [in_channels, *[channels] * (num_layers - 1), out_channels]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return the values (B, Q, …) of rows (B, Q) among values (B, M, channels)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


def _blocked(groups: Tensor, num_queries: int) -> Tensor:
    """Return which queries do not attend to which, (N + Q, N + Q): nobody sees noised queries of another group."""
    of_all = torch.cat([groups, groups.new_full((num_queries,), -1)])
    return (of_all >= 0) & (of_all[:, None] != of_all)
