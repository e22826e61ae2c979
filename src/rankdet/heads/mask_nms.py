"""Matrix non-maximum suppression of masks: all decays of scores at once, exactly.

Legend: K masks of h × w pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1 << 23
"""Most pixels of masks that are converted at a time, as float32: 32 MiB."""


def mask_iou(masks: Tensor) -> Tensor:
    """Return the IoU (K, K) float32 of every pair of masks (K, …) bool; 0 for two empty masks.

    Pixels are counted by products of matrices of zeros and ones, some pixels of all masks at a time. That is exact, and
    needs no copy of all masks in floats.

    Examples
    --------
    >>> mask_iou(torch.tensor([[True, True, False, False], [False, True, True, False]]))
    tensor([[1.0000, 0.3333],
            [0.3333, 1.0000]])
    """
    pixels = masks.flatten(1)
    common = torch.zeros(len(pixels), len(pixels), dtype=torch.float64, device=masks.device)
    with torch.autocast(masks.device.type, enabled=False):
        for part in pixels.split(max(1, CHUNK // max(1, len(pixels))), dim=1):
            inside = part.float()
            common += inside @ inside.T  # whole numbers below 2 ** 24, so float32 is exact
    area = common.diagonal()
    union = area[:, None] + area - common
    return (common / union.clamp(min=1)).float()


def matrix_nms(iou: Tensor, labels: Tensor, sigma: float = 2.0) -> Tensor:
    r"""Return the factor (K,) in (0, 1] by which the score of each mask decays, because of better masks of its class.

    .. math:: decay_j = \min_{i < j} \frac{\exp(-\sigma\, IoU_{ij}^2)}{\exp(-\sigma\, m_i^2)}, \qquad
        m_i = \max_{k < i} IoU_{ki}

    over masks of one class. Mask j decays by its overlap with a better mask i; the more i itself is decayed, the less.
    This is equation 5 of Wang et al., "SOLOv2", NeurIPS 2020, arXiv:2003.10152, with a Gaussian. The IoU (K, K) and the
    classes ``labels`` (K,) are those of masks in the order of falling scores.

    Examples
    --------
    The second mask is the first again, the third overlaps both, the fourth is of another class: 1, e⁻², e⁻¹ᐟ², 1.

    >>> iou = torch.tensor([[1.0, 1.0, 0.5, 1.0], [1.0, 1.0, 0.5, 1.0], [0.5, 0.5, 1.0, 0.5], [1.0, 1.0, 0.5, 1.0]])
    >>> matrix_nms(iou, torch.tensor([0, 0, 0, 1]))
    tensor([1.0000, 0.1353, 0.6065, 1.0000])
    """
    if not len(iou):
        return iou.new_ones(0)
    overlaps = (iou * (labels[:, None] == labels)).triu(diagonal=1).square()
    # exp falls: the smallest quotient has the largest difference. Pairs that do not count have an overlap of 0.
    largest = overlaps.amax(dim=0)
    return torch.exp(-sigma * (overlaps - largest[:, None]).amax(dim=0))
