"""Masks as sums of prototypes: one set of maps per image, and a few coefficients for each object.

Legend: B images, K masks of an image, Q prototypes, h, w cells of a prototype.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, relu

from rankdet.heads.dense import start_normal
from rankdet.ranges import Count, CountOrZero, checked
from rankdet.structures import MaskScores

MARGIN = 1.0
"""Number of cells by which a mask reaches beyond its box."""


@checked
class PrototypeNetwork(nn.Module):
    """Network that makes the Q maps that masks are sums of (Bolya et al., ICCV 2019, arXiv:1904.02689).

    Its layers are ``num_convolutions`` 3x3 convolutions of ``channels`` channels, linear interpolation to twice the
    size, one more 3x3 convolution, and a 1x1 convolution, each with ReLU. Weights start Xavier uniform, those of the
    1x1 convolution normal with deviation 0.01, biases 0.

    Notes
    -----
    Differs from the published code, where all start Xavier uniform. There mask logits start as large as the features
    of the backbone. With those of a pretrained EfficientNet-Lite0 the derivative p (1 − p) of a sigmoid is next to
    nothing: Dice never moved the masks, which stayed the whole boxes.
    """

    def __init__(
        self,
        in_channels: Count,
        *,
        num_prototypes: Count = 32,
        channels: Count = 256,
        num_convolutions: CountOrZero = 3,
    ) -> None:
        super().__init__()
        self.num_prototypes = num_prototypes
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels if index else in_channels, channels, 3, padding=1) for index in range(num_convolutions)
        )
        last = channels if num_convolutions else in_channels
        self.enlarged = nn.Conv2d(last, channels, 3, padding=1)
        self.prototypes = nn.Conv2d(channels, num_prototypes, 1)
        for convolution in (*self.convolutions, self.enlarged):
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)
        start_normal(self.prototypes)

    def forward(self, features: Tensor) -> Tensor:
        """Return prototypes (B, Q, 2H, 2W), none below 0, of the finest map (B, channels, H, W)."""
        for convolution in self.convolutions:
            features = relu(convolution(features))
        features = interpolate(features, scale_factor=2.0, mode="bilinear")
        return relu(self.prototypes(relu(self.enlarged(features))))


def assemble_masks(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    r"""Return logits (K, h, w) of masks over the whole canvas, cropped to their boxes.

    .. math:: M_k = \sum_q c_{kq} P_q \quad \text{inside of box k}, \qquad -\infty \quad \text{outside}

    A cell in column c is inside of a box from :math:`x_1` to :math:`x_2`, in cells, where :math:`x_1 - 1 \le c < x_2 +
    1`; rows alike. Prototypes (Q, h, w) cover the canvas, (height, width) in pixels; coefficients are (K, Q), boxes (K,
    4) xyxy in pixels. Gradients flow to prototypes and coefficients, also where there are none of the latter.

    Examples
    --------
    >>> box = torch.tensor([[8.0, 0.0, 10.0, 2.0]])
    >>> assemble_masks(torch.ones(1, 1, 8), torch.tensor([[0.5]]), box, (2, 16))
    tensor([[[  -inf,   -inf,   -inf, 0.5000, 0.5000, 0.5000,   -inf,   -inf]]])
    """
    height, width = prototypes.shape[1:]
    logits = (coefficients.to(prototypes.dtype) @ prototypes.flatten(1)).view(-1, height, width)
    left, top, right, bottom = boxes.detach().float().unbind(dim=1)
    rows = _inside(top * (height / canvas[0]), bottom * (height / canvas[0]), height)
    columns = _inside(left * (width / canvas[1]), right * (width / canvas[1]), width)
    # In place: a product of matrices needs nothing of its result, which is the largest tensor here.
    return logits.masked_fill_(~(rows[:, :, None] & columns[:, None]), -torch.inf)


def _inside(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """Return which cells a box from ``start`` to ``end``, (K,) in cells, keeps: (K, cells) bool."""
    cell = torch.arange(cells, device=start.device)
    return (cell >= start[:, None] - MARGIN) & (cell < end[:, None] + MARGIN)


def canvas_scores(logits: Tensor, canvas: tuple[int, int]) -> MaskScores:
    """Return the scores of masks, for detections, from logits (K, h, w) that cover the canvas.

    The canvas is (height, width) in pixels. One cell is repeated on each side. So scores are interpolated as resizing
    an image does, and do not fall towards the border of the canvas, as those of a box do towards its own.

    Examples
    --------
    >>> canvas_scores(torch.full((1, 1, 2), 100.0), (2, 4)).bitmaps((2, 4)).all()
    tensor(True)
    """
    scores = pad(logits.float().sigmoid()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    cell_height, cell_width = canvas[0] / logits.shape[1], canvas[1] / logits.shape[2]
    region = [-cell_width, -cell_height, canvas[1] + cell_width, canvas[0] + cell_height]
    return MaskScores(scores, scores.new_tensor(region).expand(len(scores), 4))
