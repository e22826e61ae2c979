"""Parameter groups, learning rate and optimizer of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from rankdet.recipes.schema.part import Part
from rankdet.structures import InputError

OwnOptimizer = Optimizer | Callable[[list[dict[str, Any]]], Optimizer]
"""An optimizer of the caller's, or a callable that makes one of parameter groups."""
_NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(network: nn.Module, weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """At most two groups (every group costs launches): trained weights with decay, and those without.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
    >>> [len(group["params"]) for group in parameter_groups(network, 0.01, decay_norm_and_bias=False)]
    [1, 3]
    >>> [len(group["params"]) for group in parameter_groups(network, 0.01, decay_norm_and_bias=True)]
    [4]
    """
    undecayed = {
        id(parameter)
        for module in ([] if decay_norm_and_bias else network.modules())
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, _NORMALIZATIONS)
    }
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if id(parameter) not in undecayed]
    plain = [parameter for parameter in trained if id(parameter) in undecayed]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def scaled_lr(config: Part, images: int, scale_lr: bool) -> float:
    """The learning rate for a number of images per iteration; linear in that number where ``scale_lr`` is true."""
    return config.lr * images / config.reference_batch if scale_lr else config.lr


def build_optimizer(config: Part, network: nn.Module, lr: float, own: OwnOptimizer | None = None) -> Optimizer:
    """The optimizer of the parameters that a network trains: ``own``, or that which ``config`` describes.

    Raises InputError when ``own`` gives no optimizer, or one of other parameters.
    """
    groups = parameter_groups(network, config.weight_decay, config.decay_norm_and_bias)
    if own is None:
        built: Optimizer = config.build(groups, lr)
        return built
    optimizer = own if isinstance(own, Optimizer) else own(groups)
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer returned {type(optimizer).__name__}, which is no optimizer")
    known = set(map(id, network.parameters()))
    if not all(id(parameter) in known for group in optimizer.param_groups for parameter in group["params"]):
        raise InputError("optimizer has parameters that are not of the network")
    return optimizer
