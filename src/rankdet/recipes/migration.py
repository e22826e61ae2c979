"""Fields of recipes of version 0.1.0 in the form of today: those of YAML files, run folders and checkpoints."""

from __future__ import annotations

from typing import Any

TASKS = ("box_loss", "weighting", "balancing", "mask_balancing", "auxiliary", "dice_epsilon")
"""Fields of losses that are those of ``tasks`` now."""
WITHOUT_TASKS = {
    "alrp": ("balancing",),
    "sigmoid_cross_entropy": ("box_loss",),
    "softmax_cross_entropy": ("box_loss", "auxiliary"),
    "equalization_v2": ("box_loss",),
}
"""Losses that have no ``tasks``, and which of these fields are their own."""
NORMALIZERS = {"per_picture": "per_image", "or_pictures": "or_images"}


def migrated(fields: Any, base: Any = None) -> Any:
    """Return plain fields of a recipe in the form of today; what has this form stays as it is.

    Parameters
    ----------
    fields
        All fields of a recipe, or those that differ from ``base``.
    base
        The recipe that these fields change, in the form of today.

    Examples
    --------
    >>> migrated({"losses": {"rpn": {"type": "rank_sort", "label": {"type": "iou"}, "balancing": {"type": "value"}}}})
    {'losses': {'rpn': {'type': 'rank_sort', 'quality': {'type': 'iou'}, 'tasks': {'balancing': {'type': 'value'}}}}}
    """
    if not isinstance(fields, dict):
        return fields
    detector, losses, data = fields.get("detector"), fields.get("losses"), fields.get("data")
    if isinstance(data, dict):  # boxes without area are left out now, always
        fields = fields | {"data": {name: value for name, value in data.items() if name != "drop_degenerate"}}
    dense = detector.get("dense") if isinstance(detector, dict) else None
    if isinstance(detector, dict) and isinstance(dense, dict) and "test_per_level" in dense:
        dense = dict(dense)
        fields = fields | {"detector": detector | {"test_per_level": dense.pop("test_per_level"), "dense": dense}}
    if not isinstance(losses, dict):
        return fields
    before = base["losses"] if base else {}
    return fields | {"losses": {head: _loss(loss, before.get(head, {})) for head, loss in losses.items()}}


def _loss(fields: Any, base: dict[str, Any]) -> Any:
    if not isinstance(fields, dict):
        return fields
    kind = fields.get("type", base.get("type"))
    if not isinstance(kind, str) or ":" in kind:  # version 0.1.0 had no losses of someone else
        return fields
    moved = [name for name in TASKS if name in fields and name not in WITHOUT_TASKS.get(kind, ())]
    loss = {"quality" if name == "label" else name: value for name, value in fields.items() if name not in moved}
    tasks = loss.get("tasks", {})
    if moved and isinstance(tasks, dict):
        loss["tasks"] = {name: fields[name] for name in moved} | tasks
    normalizer = loss.get("normalizer")
    if isinstance(normalizer, dict):
        kind = normalizer.get("type")
        loss["normalizer"] = normalizer | ({"type": NORMALIZERS[kind]} if kind in list(NORMALIZERS) else {})
    return loss
