"""Checkpoints of other programs become checkpoints here: names, class order and layouts of their tensors."""

from .checkpoint import Imported, import_checkpoint
from .origins import convert

__all__ = ["Imported", "convert", "import_checkpoint"]
