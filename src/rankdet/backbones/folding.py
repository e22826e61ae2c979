r"""Folding of frozen batch normalization into the convolution before it.

With stored statistics a normalization is a scale a and a shift of each channel, and a convolution is linear:

.. math:: \mathrm{norm}(w * x + b) = (a w) * x + (a (b - \mu) + \beta), \qquad a = \gamma / \sqrt{\sigma^2 + \epsilon}

so that the map between the two is neither made nor kept for the gradient. If γ and β are trained, they get their
gradients through the weights of the convolution. The weights a w are made and kept instead. A map that is smaller than
these, as in the last stages for small images, is normalized by the left side. Names and tensors of the state dict stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.functional import batch_norm, conv2d

NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """Parameters and statistics of a frozen normalization that the convolution before it includes.

    It takes the place of that normalization. The activation of timm's ``BatchNormAct2d`` stays here.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, "meta")
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        if isinstance(norm, BatchNormAct2d):
            self.drop, self.act = norm.drop, norm.act

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation that timm has after the normalization, if any."""
        for module in self.children():
            input = module(input)
        return input

    def follow(
        self, convolve: Callable[[Tensor, Tensor | None], Tensor], weight: Tensor, bias: Tensor | None, places: int
    ) -> Tensor:
        """Return the normalized map (B, C, h, w) of a convolution; the smaller of its weights and its map is changed.

        ``convolve`` makes the map from weights (C, …) and bias (C,); it has about ``places`` = B · h · w places.
        """
        if places < weight[0].numel():
            made = convolve(weight, bias)
            return batch_norm(made, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return convolve(*self.fold(weight, bias))

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return weights (C, …) and bias (C,) of a convolution that includes this normalization."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        center = self.running_mean if bias is None else self.running_mean - bias
        return weight * scale.view(-1, 1, 1, 1), self.bias - center * scale


class FoldedConv2d(nn.Module):
    """A convolution that includes the frozen normalization after it: in its weights, or in its map if that is smaller.

    Weight and bias of the plain convolution are taken over. The normalization stays at its place in the network and in
    its state dict.
    """

    def __init__(self, convolution: nn.Conv2d, norm: FoldedBatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.in_channels, self.out_channels = convolution.in_channels, convolution.out_channels
        self.kernel_size, self.stride = convolution.kernel_size, convolution.stride
        self.padding, self.dilation = convolution.padding, convolution.dilation
        self.groups, self.padding_mode = convolution.groups, convolution.padding_mode
        self.norms = (norm,)  # in a tuple it is not a child of this module as well

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalized convolution (B, out_channels, h, w) of a map (B, in_channels, H, W)."""

        def convolve(weight: Tensor, bias: Tensor | None) -> Tensor:
            return conv2d(features, weight, bias, self.stride, self.padding, self.dilation, self.groups)

        images, _, height, width = features.shape
        places = images * (height // self.stride[0]) * (width // self.stride[1])
        return self.norms[0].follow(convolve, self.weight, self.bias, places)

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """Return an ordinary convolution that computes the same, for detection."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,  # type: ignore[arg-type]
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
            device="meta",
        )
        weight, bias = self.norms[0].fold(self.weight, self.bias)
        plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)
        return plain.requires_grad_(False)


def fold_batch_norm(network: nn.Module, maps: Sequence[Tensor]) -> None:
    """Fold each normalization of a network, in place, into a convolution whose output only it reads.

    Other normalizations, convolutions other than PyTorch's own with zero padding, and modules with hooks stay as they
    are. The maps are those of any image, computed in evaluation mode and with gradients of all parameters.
    """
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in list(_pairs(network, maps)):
        folded = FoldedBatchNorm2d(norm)
        for module, replacement in ((norm, folded), (convolution, FoldedConv2d(convolution, folded))):
            parent, _, name = names[module].rpartition(".")
            setattr(network.get_submodule(parent), name, replacement)


def _pairs(network: nn.Module, maps: Sequence[Tensor]) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return pairs of a convolution and the normalization that alone reads it, from the graph of the maps."""
    owners = {parameter: module for module in network.modules() for parameter in module.parameters(recurse=False)}
    nodes = _nodes(maps)
    readers = Counter(source for node in nodes for source, _ in node.next_functions)
    readers.update(features.grad_fn for features in maps)
    modules = {node: _owner(node, owners) for node in nodes}
    uses = Counter(modules.values())
    for node, norm in modules.items():
        source = node.next_functions[0][0] if node.next_functions else None
        convolution = None if source is None else modules.get(source)
        if (
            isinstance(norm, NORMS)
            and type(norm) in NORMS
            and type(convolution) is nn.Conv2d
            and convolution.padding_mode == "zeros"
            and not any(module._forward_hooks or module._forward_pre_hooks for module in (convolution, norm))
            and readers[source] == uses[norm] == uses[convolution] == 1
        ):
            yield convolution, norm


def _nodes(maps: Sequence[Tensor]) -> list[Node]:
    """Yield the operations that made the maps."""
    found: dict[Node, None] = {}
    waiting = [features.grad_fn for features in maps]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting += [source for source, _ in node.next_functions]
    return list(found)


def _owner(node: Node, owners: dict[nn.Parameter, nn.Module]) -> nn.Module | None:
    """Return the module whose parameters an operation reads."""
    for source, _ in node.next_functions:
        parameter = getattr(source, "variable", None)  # of a leaf of the graph
        if parameter is not None:
            return owners.get(parameter)
    return None
