"""Changes of plain recipes: applied, found, and written as overrides."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

PLACES_OF_DATA = ("folder", "train_annotations", "train_images", "validation_annotations", "validation_images")
"""Fields of ``data`` that are paths."""
FREE_FIELDS = frozenset(
    [f"runtime.{name}" for name in ("device", "threads", "log_interval", "checkpoint_interval", "keep_checkpoints")]
    + ["runtime.tensorboard", "data.workers"]
    + [f"data.{name}" for name in PLACES_OF_DATA]
)
"""Fields that, beside those of ``evaluation``, leave the weights of a run as they are, to the bit."""
RESUMABLE_FIELDS = (
    FREE_FIELDS
    | {f"data.{name}" for name in ("train_split", "validation_split", "format", "skip_unreadable", "batch_size")}
    | {"schedule.iterations", "schedule.epochs", "runtime.accumulation"}
)
"""Fields that, beside those of ``evaluation``, may change before a run is resumed, which says so."""


def merged(fields: Any, changes: Any) -> Any:
    """Return ``fields`` with ``changes``, mapping by mapping; a mapping of another ``type`` replaces the old one.

    Examples
    --------
    >>> merged({"lr": 1, "schedule": {"type": "step", "gamma": 0.1}}, {"schedule": {"gamma": 0.5}})
    {'lr': 1, 'schedule': {'type': 'step', 'gamma': 0.5}}
    >>> merged({"schedule": {"type": "step", "gamma": 0.1}}, {"schedule": {"type": "cosine"}})
    {'schedule': {'type': 'cosine'}}
    """
    if not isinstance(fields, Mapping) or not isinstance(changes, Mapping):
        return changes
    if "type" in fields and changes.get("type", fields["type"]) != fields["type"]:
        return changes
    return {**fields, **{name: merged(fields.get(name), change) for name, change in changes.items()}}


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes with dotted names as mappings in mappings; later ones come last.

    Examples
    --------
    >>> nested({"optimizer.lr": 0.1, "optimizer": {"momentum": 0.8}})
    {'optimizer': {'lr': 0.1, 'momentum': 0.8}}
    """
    fields: dict[str, Any] = {}
    for dotted, change in changes.items():
        for name in reversed(dotted.split(".")):
            change = {name: change}
        fields = merged(fields, change)
    return fields


def differences(first: Any, second: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted fields in which two plain recipes differ, and both values.

    Examples
    --------
    >>> list(differences({"seed": 0, "optimizer": {"lr": 0.1}}, {"seed": 0, "optimizer": {"lr": 0.2}}))
    [('optimizer.lr', 0.1, 0.2)]
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for name in first | second:
            yield from differences(first.get(name), second.get(name), f"{field}.{name}" if field else name)
    elif first != second:
        yield field, first, second


def overrides_between(base: Any, changed: Any, field: str = "") -> Iterator[str]:
    """Yield the overrides with which ``load_recipe`` gets from one plain recipe to another.

    Raises
    ------
    ValueError
        When a key of ``base`` is gone: overrides add and replace, but never remove.

    Examples
    --------
    >>> base = {"delta": 0.5, "box_loss": {"type": "l1", "weight": 1.0}}
    >>> list(overrides_between(base, {"delta": 1.0, "box_loss": {"type": "giou", "weight": 1.0}}))
    ['delta=1.0', 'box_loss={type: giou, weight: 1.0}']
    """
    both = isinstance(base, dict) and isinstance(changed, dict)
    if both and base.get("type") == changed.get("type"):
        gone = sorted(set(base) - set(changed))
        if gone:
            raise ValueError(f"{field or 'the recipe'}: an override cannot remove {', '.join(gone)}")
        for name, value in changed.items():
            inner = f"{field}.{name}" if field else name
            if name in base:
                yield from overrides_between(base[name], value, inner)
            else:
                yield f"{inner}={flow(value)}"
    elif base != changed:
        yield f"{field}={flow(changed)}"


def flow(value: Any) -> str:
    """Return a plain value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return str(text).removesuffix("\n").removesuffix("\n...")
