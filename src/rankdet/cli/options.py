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
Split = Annotated[str, typer.Option(help="Split of the data folder.")]
Annotations = Annotated[
    Path | None, typer.Option(help="Annotations of any format, instead of a data folder and a split.")
]
Images = Annotated[Path | None, typer.Option(help="The folder of the images of --annotations.")]
TrainAnnotations = Annotated[Path | None, typer.Option(help="Annotations to learn from, of any format.")]
TrainImages = Annotated[Path | None, typer.Option(help="The folder of their images.")]
ValAnnotations = Annotated[Path | None, typer.Option(help="Annotations to evaluate on.")]
ValImages = Annotated[Path | None, typer.Option(help="The folder of their images.")]
Calibrated = Annotated[
    bool, typer.Option("--calibrated", help="Use the calibrated scores that `rankdet calibrate` has stored.")
]
AtOperatingPoint = Annotated[
    bool,
    typer.Option(
        "--operating-point/--no-operating-point",
        help="Detect at the operating point that `rankdet sweep` has stored, if it has.",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Import what the checkpoint names by import path, which runs its code.")
]


def named_files(
    train_annotations: Path | None, train_images: Path | None, val_annotations: Path | None, val_images: Path | None
) -> dict[str, str]:
    """The fields of a recipe that name files, with those that options give."""
    files = {
        "data.train_annotations": train_annotations,
        "data.train_images": train_images,
        "data.validation_annotations": val_annotations,
        "data.validation_images": val_images,
    }
    return {field: str(path) for field, path in files.items() if path is not None}
