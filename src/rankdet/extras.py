"""The extra ``train``: what the trainer, the command line and the plots need, and losses and metrics do not."""

from __future__ import annotations

from importlib.util import find_spec

TRAIN = (
    "PIL",
    "contourpy",
    "jinja2",
    "matplotlib",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "timm",
    "torchvision",
    "typer",
    "yaml",
)
"""The modules of its packages."""


def missing() -> str | None:
    """One line that says which modules of the extra are not installed, and how to install them; None if all are."""
    absent = [module for module in TRAIN if find_spec(module) is None]
    if not absent:
        return None
    return f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed: pip install 'rankdet[train]'"
