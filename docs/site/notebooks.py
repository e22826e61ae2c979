"""Run a notebook and write it as a page, with what its cells print and draw, and as a file of Jupyter.

`python docs/site/notebooks.py NOTEBOOK FOLDER [--unrun]` runs in the working directory. A notebook is a script in the
percent format of jupytext: `# %%` begins a cell, and a comment `# !command` is a command of the shell. No kernel is
started, and no package is needed beyond those of the notebook.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
from base64 import b64encode
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


@dataclass
class Cell:
    """A cell, what it has printed, and the PNG files that it has drawn."""

    is_text: bool
    source: str
    printed: str = ""
    images: list[bytes] = field(default_factory=list)

    def page(self, stem: str, number: int) -> str:
        """The cell in Markdown; its images are files by the name of the notebook and the number of the cell."""
        if self.is_text:
            return self.source
        parts = [f"```python\n{self.source}\n```"]
        if self.printed:
            parts.append(f"```text\n{self.printed.rstrip()}\n```")
        parts += [f"![What this cell draws]({stem}_{number}_{place}.png)" for place in range(len(self.images))]
        return "\n\n".join(parts)

    def jupyter(self, number: int) -> dict[str, Any]:
        """The cell in Jupyter's format 4.5."""
        common = {"id": f"cell-{number}", "metadata": {}, "source": self.source}
        if self.is_text:
            return {"cell_type": "markdown"} | common
        outputs: list[dict[str, Any]] = []
        if self.printed:
            outputs.append({"output_type": "stream", "name": "stdout", "text": self.printed})
        for image in self.images:
            data = {"image/png": b64encode(image).decode()}
            outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
        return {"cell_type": "code", "execution_count": number, "outputs": outputs} | common


def cells_of(script: str) -> list[Cell]:
    """The cells of a script."""
    parts = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)[1:]
    cells = []
    for kind, source in zip(parts[::2], parts[1::2], strict=True):
        is_text = kind.strip() == "[markdown]"
        source = re.sub(r"^# ?" if is_text else r"^# (?=!)", "", source, flags=re.MULTILINE)
        cells.append(Cell(is_text, source.strip()))
    return cells


def run(cells: list[Cell]) -> None:
    """Run cells in order, as Jupyter does: the value of a last expression is shown, and so are figures."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        if not cell.is_text:
            printed = io.StringIO()
            with redirect_stdout(printed):
                value = _command(cell.source[1:]) if cell.source.startswith("!") else _value(cell.source, names)
                if hasattr(value, "_repr_png_"):
                    cell.images.append(value._repr_png_())
                elif value is not None:
                    print(repr(value))
            for figure in map(pyplot.figure, pyplot.get_fignums()):
                drawn = io.BytesIO()
                figure.savefig(drawn, format="png", bbox_inches="tight", dpi=100)
                cell.images.append(drawn.getvalue())
            pyplot.close("all")
            cell.printed = printed.getvalue()


def _value(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last line, if that is an expression."""
    statements = ast.parse(source).body
    last = statements.pop() if isinstance(statements[-1], ast.Expr) else None
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def _command(line: str) -> None:
    """Run a command of this environment, and print what it prints."""
    settings = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", "COLUMNS": "100"}
    print(subprocess.run(shlex.split(line), env=settings, check=True, text=True, stdout=subprocess.PIPE).stdout, end="")


def main(notebook: Path, folder: Path, is_run: bool) -> None:
    cells = cells_of(notebook.read_text(encoding="utf-8"))
    if is_run:
        run(cells)
    stem = notebook.stem
    for number, cell in enumerate(cells, 1):
        for place, image in enumerate(cell.images):
            (folder / f"{stem}_{number}_{place}.png").write_bytes(image)
    page = "\n\n".join(cell.page(stem, number) for number, cell in enumerate(cells, 1))
    page += f"\n\nThis page is also a [notebook of Jupyter]({stem}.ipynb) and a [script in cells]({stem}.py).\n"
    (folder / f"{stem}.md").write_text(page, encoding="utf-8")
    content = {"cells": [cell.jupyter(number) for number, cell in enumerate(cells, 1)], "metadata": {}}
    content |= {"nbformat": 4, "nbformat_minor": 5}
    (folder / f"{stem}.ipynb").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), is_run="--unrun" not in sys.argv)
