"""Import checkpoints of other programs: names, class order and layouts of their tensors are converted."""

from rankdet.extras import require

require(__name__)

from .checkpoint import Imported, import_checkpoint
from .origins import convert

__all__ = ["Imported", "convert", "import_checkpoint"]
