"""Parameter groups, learning rates and the optimizer of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from rankdet.recipes.schema.part import Part
from rankdet.structures import InputError

_NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(detector: nn.Module, weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    """At most two groups (every group costs launches): trained weights with decay, and those without.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
    >>> [len(group["params"]) for group in parameter_groups(network, 0.01, decay_norm_and_bias=False)]
    [1, 3]
    >>> [len(group["params"]) for group in parameter_groups(network, 0.01, decay_norm_and_bias=True)]
    [4]
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for is_plain, parameter in _trained_parameters(detector):
        (plain if is_plain and not decay_norm_and_bias else decayed).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _trained_parameters(detector: nn.Module) -> Iterator[tuple[bool, nn.Parameter]]:
    seen: set[int] = set()
    for module in detector.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield name == "bias" or isinstance(module, _NORMALIZATIONS), parameter


def scaled_lr(config: Part, images: int, scale_lr: bool) -> float:
    """Learning rate for ``images`` per iteration: linear in them where ``scale_lr``.

    Examples
    --------
    >>> from rankdet.recipes.schema.optimization import SGD
    >>> scaled_lr(SGD(lr=0.02, reference_batch=16), images=4, scale_lr=True)
    0.005
    """
    return config.lr * images / config.reference_batch if scale_lr else config.lr


def build_optimizer(
    config: Part,
    network: nn.Module,
    lr: float,
    own: Optimizer | Callable[[list[dict[str, Any]]], Optimizer] | None = None,
) -> Optimizer:
    """The optimizer of the parameters that a network trains.

    Parameters
    ----------
    config
        What to build, and how its weights decay.
    network
        Its parameters.
    lr
        The learning rate.
    own
        An optimizer in place of that of the recipe, or a callable that takes the parameter groups.

    Raises
    ------
    InputError
        When ``own`` gives no optimizer, or one of other parameters.
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
