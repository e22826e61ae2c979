"""An HTML page with text, tables, curves and images, all in one file."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.image import imsave
from torch import Tensor

from rankdet.report.tables import Table, format_value, is_number

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Illustration:
    """An image of a page: a file (.png, .jpg, .svg) or (3, H, W) uint8 pixels, and its caption."""

    image: str | PathLike[str] | Tensor
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: heading, paragraphs (separated by blank lines), a table, illustrations."""

    title: str
    text: str = ""
    table: Table | None = None
    illustrations: Sequence[Illustration] = ()


def write_page(path: str | PathLike[str], title: str, sections: Sequence[Section], introduction: str = "") -> None:
    """Write a page that needs no other file, because it contains its images and style.

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
    environment.tests["numeric"] = is_number
    environment.globals["source"] = _data_url
    html = environment.get_template("page.html").render(title=title, introduction=introduction, sections=sections)
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(html, encoding="utf-8")
    os.replace(unfinished, path)


def _data_url(image: str | PathLike[str] | Tensor) -> str:
    if isinstance(image, Tensor):
        buffer = io.BytesIO()
        imsave(buffer, np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()), format="png")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    file = Path(image)
    if file.suffix.lower() not in _TYPES:
        raise ValueError(f"{file}: a page shows {', '.join(_TYPES)}")
    return f"data:{_TYPES[file.suffix.lower()]};base64,{base64.b64encode(file.read_bytes()).decode()}"
