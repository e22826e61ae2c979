"""Features of a fixed size for boxes of any size, from the level of the pyramid that suits each box.

Legend: B images, L levels, K RoIs of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from rankdet.heads.roi_align import roi_align_by_sums
from rankdet.ranges import Count, CountOrZero, Positive, checked


def poolable(maps: Sequence[Tensor]) -> list[Tensor]:
    """Return maps in the memory format that RoIAlign reads; without this, each of several poolings converts them."""
    layout = torch.channels_last if maps[0].device.type == "cpu" else torch.contiguous_format
    return [features.contiguous(memory_format=layout) for features in maps]


@checked
class RoIPooling(nn.Module):
    """RoIAlign (He et al., ICCV 2017, arXiv:1703.06870) in float32, from the level that suits each box.

    A box with sides w and h takes its features from level floor(log2(√(w h) / finest_scale + 1e-6)), clamped to the
    levels there are (Lin et al., CVPR 2017, eq. 1).

    Parameters
    ----------
    strides
        Pixels per cell of the levels that are used: the first ones of the pyramid.
    finest_scale
        Boxes with a side (square root of the area, pixels) below twice this are read from the finest level. 56 suits a
        finest stride of 4 and anchors from 32 pixels.
    output_size
        Cells per side of the pooled features.
    sampling_ratio
        Points per cell and direction; 0 takes as many as cells of the map lie in it.
    half_pixel_shift
        Whether the value of a cell of the map belongs to its center, half a cell from its corner. Detectors of
        torchvision and of mmdetection 1.x were trained without.
    """

    def __init__(
        self,
        strides: tuple[Count, ...] = (4, 8, 16, 32),
        *,
        finest_scale: Positive = 56.0,
        output_size: Count = 7,
        sampling_ratio: CountOrZero = 0,
        half_pixel_shift: bool = True,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.finest_scale = finest_scale
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.half_pixel_shift = half_pixel_shift

    def levels(self, boxes: Tensor) -> Tensor:
        """Return the level (K,) int64 of each of (K, 4) boxes.

        Examples
        --------
        >>> pooling = RoIPooling()
        >>> pooling.levels(torch.tensor([[0.0, 0, 9, 9], [0, 0, 112, 112], [0, 0, 999, 999], [5, 5, 5, 5]]))
        tensor([0, 1, 3, 0])
        """
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
        # With 1e-6 the logarithm is finite for boxes without area. Boxes that are not finite get a level, too, so that
        # no row is lost.
        levels = torch.log2(sides.prod(dim=1).sqrt() / self.finest_scale + 1e-6).nan_to_num(0).floor()
        return levels.clamp(0, len(self.strides) - 1).long()

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return features (K, channels, output_size, output_size) float32, image by image.

        The maps (B, channels, H, W) are those of a pyramid, of which the first ``len(strides)`` are read; boxes are (k,
        4) xyxy in pixels for each image. Fewer maps than strides raise ValueError.
        """
        images = torch.cat([image_boxes.new_full((len(image_boxes), 1), i) for i, image_boxes in enumerate(boxes)])
        all_boxes = torch.cat(list(boxes))
        # RoIAlign cannot read boxes that are not finite: it gets empty ones, and the loss of the RPN is not finite.
        rois = torch.cat([images, all_boxes], dim=1).float().nan_to_num(0, 0, 0)
        levels = self.levels(all_boxes)
        maps = [features.float() for features, _ in zip(maps[: len(self.strides)], self.strides, strict=True)]
        if rois.device.type == "cpu":
            return roi_align_by_sums(
                maps,
                rois,
                levels,
                strides=self.strides,
                output_size=self.output_size,
                sampling_ratio=self.sampling_ratio,
                half_pixel_shift=self.half_pixel_shift,
            )
        order = levels.argsort(stable=True)
        # The only wait for the device: for the number of boxes of each level.
        counts = torch.bincount(levels, minlength=len(self.strides)).tolist()
        # A level without boxes is read all the same, so that every map is part of the graph in every step.
        pooled = [
            roi_align(features, level_rois, self.output_size, 1 / stride, self.sampling_ratio, self.half_pixel_shift)
            for features, stride, level_rois in zip(maps, self.strides, rois[order].split(counts), strict=True)
        ]
        # From the order of levels back to that of the boxes.
        return torch.cat(pooled).index_select(0, order.argsort())

    def extra_repr(self) -> str:
        """Return the settings, for printing."""
        return f"strides={self.strides}, finest_scale={self.finest_scale:g}, output_size={self.output_size}"
