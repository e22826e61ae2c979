"""How often a host would wait for a device, counted on any machine."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for a device: sizes and numbers that depend on the values of tensors.

    ``sizes`` are those of masks and of what is found in them, ``numbers`` are read one by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes = self.numbers = 0

    @property
    def count(self) -> int:
        """Both together."""
        return self.sizes + self.numbers

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        is_mask = func is torch.ops.aten.index.Tensor and any(
            rows is not None and rows.dtype == torch.bool for rows in args[1]
        )
        self.sizes += is_mask or func is torch.ops.aten.nonzero.default
        self.numbers += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))
