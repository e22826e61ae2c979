"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A name of `rankdet list`, or a YAML file.")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes, for example optimizer.lr=0.01")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: a GPU if there is one.")]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="A data folder of any layout that docs/formats.md lists.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import what the checkpoint names by import path, which runs its code.")
]
