"""Which losses fit which heads, as data of both, and the one check of it.

A detector states its heads, ``part(..., heads=...)``: a function of its fields that returns a `Head` for each name. A
loss, or a part of one, states as constants of its own

* ``needs``: attributes of `Head` that the head must have;
* ``needs_where``: field → attribute that the head must have where the field is set;
* ``learns``: the auxiliary head that it learns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .config import Config
from .part import Part, type_of


class Head(NamedTuple):
    """What a head classifies by, and what its candidates bring.

    Parameters
    ----------
    softmax
        Classes compete with each other and a background logit; otherwise each is for itself.
    boxes, masks
        Decoded boxes and masks of the positives.
    centerness
        How central the anchors of the positives lie.
    per_image
        Which image a candidate is of.
    box_shares
        The part of the image that the box of each positive's object covers.
    quality
        A localization quality of the positives beside those of boxes and masks.
    auxiliary
        Names of auxiliary heads.
    """

    softmax: bool = False
    boxes: bool = True
    masks: bool = False
    centerness: bool = False
    per_image: bool = False
    box_shares: bool = False
    quality: bool = False
    auxiliary: tuple[str, ...] = ()


WORDS = {
    "boxes": "boxes",
    "masks": "masks",
    "centerness": "the centerness of anchors",
    "per_image": "the image of each candidate",
    "box_shares": "the size of objects in their image",
    "quality": "a quality of its own",
}


class DetectorPart(Part):
    """What the model of a detector has beside its fields."""

    @property
    def heads(self) -> dict[str, Head]:
        """The heads that need a loss; none where a detector of someone else does not state them.

        The class of such a detector may: ``heads = {"dense": {"masks": True}}``, with the attributes of `Head`.
        """
        stated = self.constants.get("heads", {})
        if callable(stated):
            return dict(stated(self))
        return {name: Head(**given) for name, given in stated.items()}

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return any(head.masks for head in self.heads.values())


def check_fit(detector: Part, losses: Mapping[str, Part]) -> None:
    """Raise ValueError unless each head has a loss that fits it. What states nothing of itself is not checked."""
    heads = detector.heads if isinstance(detector, DetectorPart) else {}
    if not heads:
        return
    if set(losses) != set(heads):
        raise ValueError(f"losses must name the heads {sorted(heads)}, not {sorted(losses)}")
    for name, head in heads.items():
        loss, path = losses[name], f"losses.{name}"
        asked = []
        for inner, part in parts_of(loss, path):
            asked += [part.constants["learns"]] if "learns" in part.constants else []
            for need in _needs(part, inner):
                if not getattr(head, need[1]):
                    raise ValueError(
                        f"{need[0]} looks at {WORDS[need[1]]}, which detector.type = {type_of(type(detector))} does "
                        f"not give its head {name}"
                    )
        if ":" in str(type_of(type(loss))):
            continue
        if loss.constants.get("softmax", False) != head.softmax:
            raise ValueError(
                f"{path}.type = {loss.type} does not fit detector.{name}, which classifies by "
                f"{'softmax' if head.softmax else 'sigmoid (softmax is false)'}"
            )
        if tuple(asked) != head.auxiliary:
            raise ValueError(
                f"{path} learns the auxiliary heads {asked}, but those of detector.{name} are {list(head.auxiliary)}"
            )


def parts_of(config: Config, path: str = "") -> Iterator[tuple[str, Part]]:
    """Yield a part, or what is no part, and all parts inside of it, with their dotted paths."""
    if isinstance(config, Part):
        yield path, config
    for name, value in config:
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        for entry in entries:
            if isinstance(entry, Config):
                yield from parts_of(entry, f"{path}.{name}")


def _needs(part: Part, path: str) -> Iterator[tuple[str, str]]:
    """What is to be blamed, and what it needs."""
    for need in part.constants.get("needs", ()):
        yield f"{path}.type = {part.type}" if "type" in type(part).model_fields else path, need
    for field, need in part.constants.get("needs_where", {}).items():
        if getattr(part, field):
            yield f"{path}.{field}", need
