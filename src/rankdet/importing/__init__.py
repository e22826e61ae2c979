"""Import checkpoints of other programs: names, class order and layouts of their tensors are converted."""

from .checkpoint import Imported, import_checkpoint
from .origins import convert

__all__ = ["Imported", "convert", "import_checkpoint"]
