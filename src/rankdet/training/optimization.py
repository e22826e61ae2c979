"""Parameter groups, learning rates and the optimizer of a run."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from rankdet.recipes import Recipe
from rankdet.recipes.schema.optimization import SGD, AdamW

_NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(detector: nn.Module, weight_decay: float, decay_norm_and_bias: bool) -> list[dict[str, object]]:
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
    groups: list[dict[str, object]] = [
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


def scaled_lr(config: SGD | AdamW, images: int, scale_lr: bool) -> float:
    """Learning rate for ``images`` per iteration: linear in them where ``scale_lr``.

    Examples
    --------
    >>> scaled_lr(SGD(lr=0.02, reference_batch=16), images=4, scale_lr=True)
    0.005
    """
    return config.lr * images / config.reference_batch if scale_lr else config.lr


def build_optimizer(recipe: Recipe, detector: nn.Module, images: int) -> Optimizer:
    """The optimizer of a recipe for ``images`` per iteration over all processes and accumulated steps."""
    config = recipe.optimizer
    groups = parameter_groups(detector, config.weight_decay, config.decay_norm_and_bias)
    return config.build(groups, scaled_lr(config, images, recipe.runtime.scale_lr))


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
