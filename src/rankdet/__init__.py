"""Object detectors and instance segmenters trained with ranking-based losses.

The names below are imported when they are used, so that ``import rankdet`` is quick and needs no torch. All but
InputError belong to the trainer, which needs the extra ``train``; `rankdet.losses` and `rankdet.metrics` do not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankdet.explaining.explanation import explain
    from rankdet.explaining.runs import explain_run
    from rankdet.exporting.writing import export
    from rankdet.inference.calibration import calibrate
    from rankdet.inference.detections import Detections
    from rankdet.inference.evaluation import evaluate
    from rankdet.inference.loading import load
    from rankdet.inference.model import Model
    from rankdet.inference.sweep import sweep
    from rankdet.inference.tiles import Tiles
    from rankdet.recipes import RECIPES, Recipe, load_recipe
    from rankdet.structures import InputError
    from rankdet.training.parts import Callback
    from rankdet.training.running import TrainedRun, train

__version__ = "0.1.0"

_MODULES = {
    "RECIPES": "rankdet.recipes",
    "Callback": "rankdet.training.parts",
    "Detections": "rankdet.inference.detections",
    "InputError": "rankdet.structures",
    "Model": "rankdet.inference.model",
    "Recipe": "rankdet.recipes",
    "Tiles": "rankdet.inference.tiles",
    "TrainedRun": "rankdet.training.running",
    "calibrate": "rankdet.inference.calibration",
    "evaluate": "rankdet.inference.evaluation",
    "explain": "rankdet.explaining.explanation",
    "explain_run": "rankdet.explaining.runs",
    "export": "rankdet.exporting.writing",
    "load": "rankdet.inference.loading",
    "load_recipe": "rankdet.recipes",
    "sweep": "rankdet.inference.sweep",
    "train": "rankdet.training.running",
}
"""Where each name is defined."""

__all__ = [
    "RECIPES",
    "Callback",
    "Detections",
    "InputError",
    "Model",
    "Recipe",
    "Tiles",
    "TrainedRun",
    "__version__",
    "calibrate",
    "evaluate",
    "explain",
    "explain_run",
    "export",
    "load",
    "load_recipe",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rankdet' has no attribute {name!r}")
    if name != "InputError":
        from rankdet.extras import require

        require(f"rankdet.{name}")
    globals()[name] = value = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
