"""Head of SOLOv2: feature maps → class logits and the kernel of a mask for every cell of a few grids.

A mask is the product of a cell's kernel with one map of features for the whole image.

Legend: B images, L levels, S cells per side of the grid of a level, M cells of an image, C classes, P' masks,
D channels of the mask features, h, w their height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import interpolate, max_pool2d

from rankdet.heads.dense import PRIOR, by_anchor, start_normal, tower
from rankdet.heads.mask_targets import fill_outlines, shrink_masks
from rankdet.label_assignment import GridAssigner, MaskShapes, mask_shapes
from rankdet.ranges import Ascending, Count, CountOrZero, NonNegative, Positive, checked
from rankdet.structures import Candidates, Matched, Outlines, Target


@checked
class GridHead(nn.Module):
    """A tower of convolutions for classes and one for kernels, shared by all levels, over maps resized to grids.

    Each tower is ``num_convolutions`` times a 3x3 convolution without bias, group normalization and ReLU. That of the
    kernels also reads the coordinates of each place. A 3x3 convolution then makes C logits for each cell, another makes
    D = ``kernel_channels`` weights. All weights start normal with standard deviation 0.01; the bias of the classifier
    makes every score 0.01. ``grids`` has the cells per side S of the grid of each level, finest first. Channels that
    are no multiple of ``groups`` raise ValueError.
    """

    def __init__(
        self,
        in_channels: Count,
        num_classes: Count,
        *,
        grids: tuple[Count, ...],
        kernel_channels: Count,
        num_convolutions: CountOrZero = 4,
        channels: Count = 512,
        groups: Count = 32,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.grids = tuple(grids)
        self.classification_tower = tower(in_channels, channels, num_convolutions, groups)
        self.kernel_tower = tower(in_channels + 2, channels, num_convolutions, groups)
        last = channels if num_convolutions else in_channels
        self.classifier = nn.Conv2d(last, num_classes, 3, padding=1)
        self.kernels = nn.Conv2d(last if num_convolutions else last + 2, kernel_channels, 3, padding=1)
        start_normal(self)
        nn.init.constant_(self.classifier.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (B, M, C) and kernels (B, M, D) by level, row, column, from one map for each grid."""
        logits, kernels = [], []
        for features, size in zip(maps, self.grids, strict=True):
            cells = _resized(_with_coordinates(features), (size, size))
            logits.append(self.classifier(self.classification_tower(cells[:, :-2])))
            kernels.append(self.kernels(self.kernel_tower(cells)))
        return by_anchor(logits, self.num_classes), by_anchor(kernels, self.kernels.out_channels)


@checked
@dataclass(frozen=True)
class MaskFeatureSettings:
    """The map of features that masks are made of: all levels but the coarsest, added.

    Parameters
    ----------
    channels
        Channels in which the levels are added.
    out_channels
        Channels of the features, and weights of a mask's kernel.
    groups
        Groups of the normalization; both numbers of channels are multiples of it.
    """

    channels: Count = 128
    out_channels: Count = 256
    groups: Count = 32


@checked
class MaskFeatures(nn.Module):
    """Network that makes one map for all masks, of the size of the finest level, from the levels of a pyramid.

    Level i of the ``num_levels`` passes through max(i, 1) times a 3x3 convolution without bias, group normalization and
    ReLU. Behind each of these, coarser levels are enlarged (linear) to the size of the next finer level. The coarsest
    also reads the coordinates of each place. The levels are added; a 1x1 convolution, normalization and ReLU make D
    channels of the sum. All weights start normal with standard deviation 0.01.
    """

    def __init__(
        self, in_channels: Count, num_levels: Count, settings: MaskFeatureSettings = MaskFeatureSettings()
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for level in range(num_levels):
            first = in_channels + 2 * (level == num_levels - 1)
            inputs = [first, *[settings.channels] * (max(level, 1) - 1)]
            self.levels.append(nn.ModuleList(tower(count, settings.channels, 1, settings.groups) for count in inputs))
        self.last = nn.Sequential(
            nn.Conv2d(settings.channels, settings.out_channels, 1, bias=False),
            nn.GroupNorm(settings.groups, settings.out_channels),
            nn.ReLU(inplace=True),
        )
        start_normal(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return features (B, D, h, w) of the size of the first of the maps."""
        sizes = [(features.shape[-2], features.shape[-1]) for features in maps]
        total: Tensor | None = None
        for level, (convolutions, features) in enumerate(zip(self.levels, maps, strict=True)):
            assert isinstance(convolutions, nn.ModuleList)
            hidden = _with_coordinates(features) if level == len(maps) - 1 else features
            for step, convolution in enumerate(convolutions):
                hidden = convolution(hidden)
                if level:
                    hidden = _resized(hidden, sizes[level - 1 - step])
            total = hidden if total is None else total + hidden
        features_of_masks: Tensor = self.last(total)
        return features_of_masks


class GridOutputs(NamedTuple):
    """Logits (B, M, C) and kernels (B, M, D) of the network for every cell, and mask features (B, D, h, w)."""

    logits: Tensor
    kernels: Tensor
    features: Tensor


@checked
class GridStage(nn.Module):
    """The head with its mask features and labels. All parts are public and may be replaced.

    Parameters
    ----------
    in_channels, strides, num_classes
        Channels of every level of the pyramid, its strides, finest first, and C. Masks are learned at the first stride.
    mask_features
        Features of the masks.
    sizes
        Cells per side of the grid of each level, the finest first.
    scale_ranges
        Smallest and largest objects of each level, as square root of the area of the box in pixels.
    one_mask_per_cell
        Whose a cell is that several objects want. True, in the form of Rank & Sort Loss: the first object's, with its
        mask alone. False, in the standard form: the last object's, but the cell learns the masks of all.
    center_size
        Side of the region around the center of mass whose cells are positives, in sides of the box.
    convolutions
        3x3 convolutions of each of the two towers.
    channels
        Channels of the towers.
    groups
        Groups of the normalization of the towers; their channels are a multiple of it.

    Raises
    ------
    ValueError
        When there are not as many grids as strides, at least three.
    """

    cell_strides: Tensor

    def __init__(
        self,
        in_channels: Count,
        strides: tuple[Count, ...],
        num_classes: Count,
        mask_features: MaskFeatureSettings,
        *,
        sizes: tuple[Count, ...] = (40, 36, 24, 16, 12),
        scale_ranges: tuple[Annotated[tuple[NonNegative, Positive], Ascending()], ...],
        one_mask_per_cell: bool,
        center_size: Positive = 0.2,
        convolutions: CountOrZero = 4,
        channels: Count = 512,
        groups: Count = 32,
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides) or len(strides) < 3:
            raise ValueError(f"grids {sizes} must be those of at least three levels, with strides {strides}")
        self.head = GridHead(
            in_channels,
            num_classes,
            grids=sizes,
            kernel_channels=mask_features.out_channels,
            num_convolutions=convolutions,
            channels=channels,
            groups=groups,
        )
        self.mask_features = MaskFeatures(in_channels, len(strides) - 1, mask_features)
        self.assigner = GridAssigner(sizes, scale_ranges, center_size, one_mask_per_cell)
        self.strides = strides
        read = (2 * strides[0], *strides[1:-1], strides[-2])
        per_cell = [torch.full((size * size,), stride) for size, stride in zip(sizes, read, strict=True)]
        self.register_buffer("cell_strides", torch.cat(per_cell), persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> GridOutputs:
        """Return predictions for every cell from the maps of a pyramid (B, channels, H, W), finest first."""
        first = maps[0].shape[-2] // 2, maps[0].shape[-1] // 2
        last = maps[-2].shape[-2], maps[-2].shape[-1]
        # The finest map is read at half its size, the coarsest at that of the one before it.
        read = [_resized(maps[0], (max(1, first[0]), max(1, first[1]))), *maps[1:-1], _resized(maps[-1], last)]
        logits, kernels = self.head(read)
        return GridOutputs(logits, kernels, self.mask_features(maps[:-1]))

    def candidates(
        self, outputs: GridOutputs, targets: Sequence[Target], image_sizes: Sequence[tuple[int, int]]
    ) -> Candidates:
        """Return one pool of all cells, by image, level, row, column, and the masks that they learn.

        Mask i and its target belong to positive i, or to positive ``rows[i]`` where the assigner lets a cell learn
        several: labels, weights and masks are in the order of the cells. Differs from the published code of Rank & Sort
        Loss, which has labels and weights in this order but masks in that of the objects. Raises ValueError when an
        image has objects but no masks.
        """
        masks, shapes = self._targets(targets, image_sizes, (outputs.features.shape[-2], outputs.features.shape[-1]))
        stride = self.strides[0]
        assignment = self.assigner(
            [target.labels for target in targets],
            torch.cat([target.boxes for target in targets]),
            shapes,
            (stride * outputs.features.shape[-2], stride * outputs.features.shape[-1]),
            self.head.num_classes,
        )
        kernels = outputs.kernels.flatten(0, 1)[assignment.cells]
        logits = mask_logits(outputs.features, kernels, assignment.per_image)
        return Candidates(
            head="grid",
            logits=outputs.logits.flatten(0, 1),
            labels=assignment.labels,
            num_classes=self.head.num_classes,
            masks=Matched(logits, masks[assignment.objects], assignment.rows),
            rows=assignment.positives,
        )

    @torch.no_grad()
    def _targets(
        self, targets: Sequence[Target], image_sizes: Sequence[tuple[int, int]], map_size: tuple[int, int]
    ) -> tuple[Tensor, MaskShapes]:
        """Return the masks (G, h, w) bool of all objects at the size of the features, and their shapes."""
        small, shapes = [], []
        for target, size in zip(targets, image_sizes, strict=True):
            masks = target.masks
            if isinstance(masks, Outlines):
                masks = fill_outlines(masks, size)
            elif masks is None:
                if len(target.boxes):
                    raise ValueError(f"an image has {len(target.boxes)} objects but no masks, which grids learn from")
                masks = target.boxes.new_zeros((0, *size), dtype=torch.bool)
            small.append(shrink_masks(masks, self.strides[0], map_size))
            shapes.append(mask_shapes(masks, small[-1]))
        return torch.cat(small), MaskShapes(*(torch.cat(parts) for parts in zip(*shapes, strict=True)))

    @torch.no_grad()
    def peaks(self, outputs: GridOutputs) -> Tensor:
        """Return scores (B, M, C) float32, 0 where the cell above, left or above left scores higher in the class.

        This is the "points NMS" of the published code of SOLO: most cells of an object make the same mask.
        """
        levels, start = [], 0
        scores = outputs.logits.float().sigmoid()
        for size in self.head.grids:
            level = scores[:, start : start + size * size].unflatten(1, (size, size)).permute(0, 3, 1, 2)
            highest = max_pool2d(level, 2, stride=1, padding=1)[..., :-1, :-1]
            levels.append(level.where(level == highest, 0))
            start += size * size
        return by_anchor(levels, self.head.num_classes)


def mask_logits(features: Tensor, kernels: Tensor, per_image: Sequence[int]) -> Tensor:
    """Return logits (P', h, w) of masks: each kernel is a 1x1 convolution of the features of its image.

    Features are (B, D, h, w), kernels (P', D) image by image, and ``per_image`` B numbers that add up to P'. The logits
    exist once, in the dtype of the features, and so does their gradient: no image's part is copied. Gradients flow to
    features and kernels, also without any mask.

    Examples
    --------
    >>> features = torch.tensor([[[[1.0, 2.0]], [[0.0, 1.0]]], [[[5.0, 6.0]], [[7.0, 8.0]]]])  # (2, 2, 1, 2)
    >>> kernels = torch.tensor([[1.0, 0.0], [1.0, -1.0], [0.0, 1.0]])
    >>> mask_logits(features, kernels, [2, 1]).squeeze(1)
    tensor([[1., 2.],
            [1., 1.],
            [7., 8.]])
    """
    return _DynamicConvolution.apply(features, kernels.to(features.dtype), per_image)


class _DynamicConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kernels: Tensor, per_image: Sequence[int]) -> Tensor:
        ctx.save_for_backward(features, kernels)
        ctx.per_image = list(per_image)
        logits = features.new_empty(len(kernels), features.shape[2] * features.shape[3])
        parts = (values.split(ctx.per_image) for values in (kernels, logits))
        for image, own, made in zip(features.flatten(2), *parts, strict=True):
            torch.mm(own, image, out=made)
        return logits.unflatten(1, features.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        features, kernels = ctx.saved_tensors
        gradient, pixels = gradient.flatten(1), features.flatten(2)
        of_features, of_kernels = features.new_empty(pixels.shape), torch.empty_like(kernels)
        parts = (values.split(ctx.per_image) for values in (kernels, gradient, of_kernels))
        for image, of_image, own, upstream, of_own in zip(pixels, of_features, *parts, strict=True):
            torch.mm(own.T, upstream, out=of_image)
            torch.mm(upstream, image.T, out=of_own)
        return of_features.view_as(features), of_kernels, None


def _with_coordinates(features: Tensor) -> Tensor:
    """Return maps (B, channels, H, W) with two more channels: x and y of each place, from −1 to 1."""
    height, width = features.shape[-2:]
    x, y = (
        _coordinates(width, features).expand(height, width),
        _coordinates(height, features)[:, None].expand(height, width),
    )
    return torch.cat([features, torch.stack([x, y]).expand(features.shape[0], -1, -1, -1)], dim=1)


def _coordinates(cells: int, like: Tensor) -> Tensor:
    """Return the numbers (cells,) from −1 to 1."""
    if isinstance(cells, int):
        return torch.linspace(-1, 1, cells, dtype=like.dtype, device=like.device)
    # A number of a graph, which linspace would fix at what it is while the graph is traced.
    return torch.arange(cells, dtype=like.dtype, device=like.device) * (2 / torch.sym_max(cells - 1, 1)) - 1


def _resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(features, size=size, mode="bilinear", align_corners=False)
