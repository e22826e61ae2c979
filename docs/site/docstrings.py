"""Docstrings for the site: a directive or role of numpydoc becomes MathML, or a link within the reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

EQUATION = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 .*|[ ]*(?=\n\1 )))*)", re.MULTILINE)
NAME = re.compile(r"(?<!`)(?::(\w+):)?`~?([\w.]+)`(?!`)")


class Markdown(Extension):
    """Rewrites the docstring of every object that is loaded."""

    def __init__(self) -> None:
        pages = (Path(__file__).parent / "pages" / "reference").glob("*.md")
        names = [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.M)]
        self._names = set(names)
        self._short = {name.rpartition(".")[2]: name for name in names}

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = EQUATION.sub(_equation, obj.docstring.value)
            text = re.sub(r":math:`([^`]*)`", lambda match: convert(match[1]), text)
            obj.docstring.value = NAME.sub(self._link, text)

    def _link(self, match: re.Match[str]) -> str:
        role, name = match.groups()
        target = name if name in self._names else self._short.get(name.rpartition(".")[2]) if role else None
        return f"`{name}`" if target is None else f"[`{name}`][{target}]"


def _equation(match: re.Match[str]) -> str:
    """An equation of LaTeX as a block of HTML with MathML, which browsers draw without a script or a font."""
    indent, latex = match[1], " ".join(match[2].split())
    if "&" in latex:
        latex = rf"\begin{{align*}} {latex} \end{{align*}}"
    return f'{indent}<div class="equation">{convert(latex, display="block")}</div>'
