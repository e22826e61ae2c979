"""A page from what was found about a data set: one file, which asks for nothing else and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from rankdet.look.anchors import AnchorFit
from rankdet.look.choosing import Candidate
from rankdet.look.statistics import QUANTILES, ClassNumbers, Drift, SplitNumbers
from rankdet.look.suspicion import KINDS, Kind
from rankdet.look.thumbnails import Drawing, Thumbnail
from rankdet.report import class_color


@dataclass(frozen=True, eq=False)
class Shown:
    """One image of the page."""

    name: str
    image: Candidate
    thumbnail: Thumbnail
    drawing: Drawing


@dataclass(frozen=True, eq=False)
class Overview:
    """All that a page says about a data set.

    Parameters
    ----------
    name, folder
        Of the data set.
    splits, classes, drifts
        Numbers about them.
    findings
        Grouped lines, each with its severity: what is wrong with records and files.
    kinds
        Kind → (images, objects) of it, in the whole data set as far as records tell, among read images otherwise.
    ranks
        Number of images by the rank of their gravest kind.
    images
        What is shown.
    num_images
        Images of the whole data set.
    whole_outlines
        Whether all outlines are there.
    copies
        Lines on identical and similar images: what they are, and the names of the images.
    anchors
        How the anchors of a recipe fit, where one was named.
    """

    name: str
    folder: str
    splits: Sequence[SplitNumbers]
    classes: Sequence[ClassNumbers]
    drifts: Sequence[Drift]
    findings: Sequence[tuple[str, str]]
    kinds: Mapping[Kind, tuple[int, int]]
    ranks: Mapping[str, int]
    images: Sequence[Shown]
    num_images: int
    whole_outlines: bool
    copies: Sequence[tuple[str, list[str]]]
    anchors: AnchorFit | None


def render(overview: Overview) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("rankdet.look"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["thousands"] = lambda value: f"{value:,}".replace(",", "\u202f")
    environment.filters["percent"] = _percent
    templates = files("rankdet.look") / "templates"
    script = (templates / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        page=overview,
        objects=sum(split.objects for split in overview.splits),
        style=Markup((templates / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
        data=_json(_data(overview)),
    )


def _percent(value: float) -> str:
    """A share in percent, with a decimal where it is small."""
    return f"{value:.1%}" if 0 < value < 0.095 else f"{value:.0%}"


def _data(overview: Overview) -> dict[str, Any]:
    """What the script of the page works with."""
    counts = [overview.kinds.get(kind, (0, 0)) for kind in KINDS]
    return {
        "name": overview.name,
        "splits": [split.name for split in overview.splits],
        "classes": [one.name for one in overview.classes],
        "colors": [_hex(label) for label in range(len(overview.classes))],
        "kinds": [[kind.name, kind.meaning, kind.rank, *count] for kind, count in zip(KINDS, counts, strict=True)],
        "quantiles": list(QUANTILES),
        "table": [[*(number for pair in one.counts for number in pair), *one.quantiles] for one in overview.classes],
        "images": [
            [
                shown.image.split,
                shown.name,
                *shown.thumbnail.size,
                shown.thumbnail.source,
                [[KINDS.index(kind), text] for kind, text in shown.image.reasons.items()],
                shown.drawing.rows,
                shown.drawing.grid,
                shown.drawing.left_out,
            ]
            for shown in overview.images
        ],
    }


def _hex(label: int) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in class_color(label))


def _json(value: Any) -> Markup:
    """JSON that can stand in an element of HTML: no character of it begins markup."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
