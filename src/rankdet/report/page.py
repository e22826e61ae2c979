"""An HTML page with text, tables, charts and images, all in one file, which asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.image import imsave
from torch import Tensor

from rankdet.report.charts import STYLES
from rankdet.report.tables import Table, Value, format_value, is_number

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Illustration:
    """An image of a page: a file (.png, .jpg, .svg) or (3, H, W) uint8 pixels, and its caption."""

    image: str | PathLike[str] | Tensor
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Parameters
    ----------
    title
        The heading.
    text
        Paragraphs, separated by blank lines.
    table
        Numbers, which a reader can sort and copy as CSV.
    shades
        How dark each cell of the table is, from 0 to 1; empty: none is.
    illustrations
        Images, one below the other.
    figures
        Charts of `rankdet.report.charts` and other figures, side by side where there is room.
    is_part
        Whether it belongs to the section before it.
    is_folded
        Whether its tables and figures are shown on demand.
    layout
        How much room figures need: ``"pairs"`` that of two, ``"examples"`` that of a small image.
    """

    title: str
    text: str = ""
    table: Table | None = None
    shades: Sequence[Sequence[float]] = ()
    illustrations: Sequence[Illustration] = ()
    figures: Sequence[Markup] = ()
    is_part: bool = False
    is_folded: bool = False
    layout: Literal["", "pairs", "examples"] = ""


def write_page(path: str | PathLike[str], title: str, sections: Sequence[Section], introduction: str = "") -> None:
    """Write a page that needs no other file, because it contains its images, style and script.

    The file is written under another name and renamed when it is complete.

    Raises
    ------
    ValueError
        When an illustration has an unknown suffix.
    """
    environment = Environment(
        loader=PackageLoader("rankdet.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["paragraphs"] = lambda text: [part for part in text.strip().split("\n\n") if part]
    environment.filters["shown"] = format_value
    environment.filters["exact"] = _exact
    environment.filters["anchor"] = _anchor
    environment.filters["numeric_columns"] = _numeric_columns
    environment.globals["source"] = _data_url
    templates = files("rankdet.report") / "templates"
    script = (templates / "page.js").read_text(encoding="utf-8")
    html = environment.get_template("page.html").render(
        title=title,
        introduction=introduction,
        sections=sections,
        styles=STYLES,
        style=Markup((templates / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(html, encoding="utf-8")
    os.replace(unfinished, path)


def _numeric_columns(table: Table) -> list[bool]:
    """Whether each column has numbers alone, which stand to the right."""
    return [
        bool(table.rows) and all(is_number(row[place]) for row in table.rows) for place in range(len(table.columns))
    ]


def _exact(value: Value) -> Markup:
    """An attribute with a number whose text is rounded, so that copies of a table lose nothing."""
    is_rounded = isinstance(value, float) and is_number(value) and format_value(value) not in ("–", repr(value))
    return Markup(f' data-value="{value!r}"') if is_rounded and float(format_value(value)) != value else Markup("")


def _anchor(title: str) -> str:
    """The name of a section in addresses."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _data_url(image: str | PathLike[str] | Tensor) -> str:
    if isinstance(image, Tensor):
        buffer = io.BytesIO()
        imsave(buffer, np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()), format="png")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    file = Path(image)
    if file.suffix.lower() not in _TYPES:
        raise ValueError(f"{file}: a page shows {', '.join(_TYPES)}")
    return f"data:{_TYPES[file.suffix.lower()]};base64,{base64.b64encode(file.read_bytes()).decode()}"
