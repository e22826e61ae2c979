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
FASTER = ("msgspec",)
"""Modules of the extra that make it faster, and that it can do without."""
_INSTALL = "pip install 'rankdet[train]'"
OLDEST_TORCH = 2, 9
"""Major and minor version of the oldest torch of the trainer."""


def missing() -> str | None:
    """One line that says what of the extra is missing, and how to install it; None if it is complete."""
    absent = [module for module in TRAIN if find_spec(module) is None]
    if absent:
        return f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed: {_INSTALL}"
    from importlib.metadata import version

    torch = version("torch")
    if tuple(map(int, torch.split(".")[:2])) < OLDEST_TORCH:
        return f"torch {torch} is older than {'.'.join(map(str, OLDEST_TORCH))}: {_INSTALL}"
    return None


def require(name: str) -> None:
    """Raise ImportError with that line where something is missing of the extra, which the package ``name`` needs."""
    if absent := missing():
        raise ImportError(f"{name}: {absent}", name=name)
