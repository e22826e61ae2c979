"""The exponential moving average of weights, by which a training is evaluated and which it saves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    r"""The moving average of the weights and buffers of a network, beside the network itself.

    After iteration t = 1, 2, … the average of the values w_t, which starts at those before the first iteration, is

    .. math:: \bar w_t = d_t \bar w_{t-1} + (1 - d_t) w_t, \qquad d_t = d \, (1 - e^{-t / \tau})

    for the decay d and τ iterations of warm-up (τ = 0: d_t = d). This is the form of the trainers of YOLO and RT-DETR.
    Floating-point buffers, such as running statistics, are averaged like weights; others, such as counts, are those of
    the network. A network may write into a buffer or assign it anew; its parameters must stay the same tensors.

    Averages of weights are due to Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    Examples
    --------
    >>> network = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(network.weight, 0.0)
    >>> average = WeightAverage(network, decay=0.9, warmup_iterations=0)
    >>> _ = nn.init.constant_(network.weight, 1.0)
    >>> average.update(iteration=1)
    >>> with average.applied():
    ...     round(network.weight.item(), 3)
    0.1
    >>> network.weight.item()
    1.0
    """

    def __init__(self, network: nn.Module, decay: float, warmup_iterations: int) -> None:
        self._network, self._decay, self._warmup_iterations = network, decay, warmup_iterations
        # The parameters themselves, and the places of buffers, which a network may assign anew: a state dict in each
        # iteration would cost more than the average.
        own = {name: value for name, value in network.state_dict(keep_vars=True).items() if value.is_floating_point()}
        distinct = {id(value): value for value in own.values()}  # tied weights have several names
        places = {
            id(buffer): (module, name)
            for module in network.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if id(buffer) in distinct
        }
        parameters = {key: value for key, value in distinct.items() if key not in places}
        averaged = {key: distinct[key].detach().clone() for key in (*parameters, *places)}
        self._parameters, self._places = list(parameters.values()), list(places.values())
        self._averaged = list(averaged.values())
        self._by_name = {name: averaged[id(value)] for name, value in own.items()}

    def update(self, iteration: int) -> None:
        """Take over the values after ``iteration``, counted from 1; waits for no device."""
        warmup = 1 - math.exp(-iteration / self._warmup_iterations) if self._warmup_iterations else 1.0
        get_ema_multi_avg_fn(self._decay * warmup)(self._averaged, self._own(), iteration)

    def state_dict(self) -> dict[str, Tensor]:
        """The state dict of the network, averaged."""
        return self._network.state_dict() | self._by_name

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Go on with averages that `state_dict` gave."""
        for name, value in self._by_name.items():
            value.copy_(weights[name])

    def buffers(self) -> list[Tensor]:
        """The averages of buffers."""
        names = {name for name, _ in self._network.named_buffers()}
        return [value for name, value in self._by_name.items() if name in names]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averages inside, and its own values again at the end, bit for bit."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values of the network and their averages."""
        for own, averaged in zip(self._own(), self._averaged, strict=True):
            kept = own.clone()
            own.copy_(averaged)
            averaged.copy_(kept)

    def _own(self) -> list[Tensor]:
        """The parameters and buffers that are averaged, as the network has them now."""
        return [*self._parameters, *(module.get_buffer(name) for module, name in self._places)]
