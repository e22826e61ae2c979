"""Reader of checkpoints of other programs, which runs none of their code.

Such files hold objects beside their tensors: histories, options, whole classes. torch's restricted reader never imports
or calls what a file names, and refuses such a file. Here each of these names is replaced by :class:`Inert`, which
accepts whatever the file does with it and does nothing.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rankdet.runs.checkpoint import FORMAT
from rankdet.structures import DamagedError, InputError, check_archive

from .wrappings import unwrapped

NUM_LEGACY_PICKLES = 5
"""A file from before torch 1.6 is a row of pickles: a magic number, two headers, the content, keys of the storages."""
BROKEN = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError)
"""What torch raises when a file is not what it should be."""


class Inert(list[Any]):
    """Placeholder for anything that a file names: it can be constructed, called and filled, and holds nothing."""

    def __new__(cls, *arguments: object, **options: object) -> Inert:
        """Create a placeholder; all arguments are ignored."""
        return super().__new__(cls)

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""

    def append(self, item: object) -> None:
        """Ignore the item."""

    def extend(self, items: object) -> None:
        """Ignore the items."""

    def __hash__(self) -> int:  # type: ignore[override]
        """Return the identity, because names may be keys of dictionaries."""
        return id(self)


@dataclass(frozen=True)
class ForeignCheckpoint:
    """Content of a file of another program."""

    path: Path
    tensors: dict[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """mmdetection's entries on versions, classes and configuration; may hold anything."""
    notes: Sequence[str] = ()
    """Where in the file the weights were, and what else there is."""


def read_foreign(path: Path, ema: bool | None = None) -> ForeignCheckpoint:
    """Read a checkpoint of mmdetection, torchvision, transformers, or of bare named tensors, to the CPU.

    No code of it runs. Names of classes of a ``.safetensors`` file are those in the ``config.json`` beside it. ``ema``
    says whether averages of the weights are taken, as in `rankdet.importing.wrappings.unwrapped`.

    Raises
    ------
    InputError
        When the file is missing or damaged, holds no named tensors, or names code that no reader may load.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        check_archive(path)
        names = foreign_names(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals([(Inert, n) for n in names]):
            warnings.simplefilter("ignore")
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except DamagedError:
        raise
    except BROKEN as error:
        raise InputError(
            f"{path} is damaged, or no file of tensors that can be read safely: {_reason(error)}"
        ) from error
    if isinstance(content, Mapping) and content.get("format") == FORMAT:
        raise InputError(f"{path} is a checkpoint of rankdet already")
    meta: Any = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    try:
        weights = unwrapped(content, ema, are_exchanged="mmengine_version" in meta)
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    return ForeignCheckpoint(path, weights.tensors, meta, weights.notes)


def _read_safetensors(path: Path) -> ForeignCheckpoint:
    try:
        tensors = load_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InputError(f"{path} is damaged, or no file of tensors: {_reason(error)}") from error
    weights = unwrapped(tensors)
    return ForeignCheckpoint(path, weights.tensors, _named_classes(path.with_name("config.json")), weights.notes)


def _named_classes(config: Path) -> dict[str, list[str]]:
    """Return the names of labels in a configuration of transformers; none where it only numbers them."""
    try:
        names = json.loads(config.read_text(encoding="utf-8"))["id2label"]
        ordered = [str(names[str(label)]) for label in range(len(names))]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {} if all(re.fullmatch(r"LABEL_\d+", name) for name in ordered) else {"classes": ordered}


def foreign_names(path: Path) -> set[str]:
    """Return the full names of all code that the pickles of a file name, without running any.

    Names that torch knows may be missing, because torch takes their code from itself.
    """
    if zipfile.is_zipfile(path):
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    names = set()
    with path.open("rb") as file:
        for _ in range(NUM_LEGACY_PICKLES):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    names.add(f"{module}.{name}")
                    # Old pickles write the names of Python 2, and readers look up those of Python 3.
                    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
                    names.add(f"{module}.{name}")
    return names


def _reason(error: Exception) -> str:
    """The message, without torch's advice to load the file unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return lines[0].removeprefix("WeightsUnpickler error: ")[:200] if lines else type(error).__name__
