"""Commands on data folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[Path, typer.Argument(help="A folder in COCO or LVIS format.")],
    masks: Annotated[bool, typer.Option(help="Check segmentations too.")] = False,
    images: Annotated[bool, typer.Option(help="Decode every image.")] = False,
) -> None:
    """Check a data folder before training.

    Exit status 2 where training would stop.
    """
    from rankdet.data import check_folder, grouped

    findings = check_folder(folder, with_masks=masks, images=images)
    for line in grouped(findings):
        print(line)
    counts = Counter(finding.severity for finding in findings)
    print(f"{folder}: {counts['error']} errors, {counts['warning']} warnings, {counts['note']} notes")
    if counts["error"]:
        raise typer.Exit(2)


def make_shapes(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    train: Annotated[
        int | None, typer.Option(show_default="400, or 600 with --long-tailed", help="Training images.")
    ] = None,
    val: Annotated[
        int | None, typer.Option(show_default="100, or 200 with --long-tailed", help="Validation images.")
    ] = None,
    test: Annotated[int, typer.Option(help="Test images.")] = 0,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 128,
    seed: Annotated[int, typer.Option(help="The same seed makes the same images everywhere.")] = 0,
    long_tailed: Annotated[
        bool, typer.Option("--long-tailed", help="21 classes, frequent to rare, in LVIS format.")
    ] = False,
) -> None:
    """Make the data set `shapes`.

    An ordinary COCO folder, or one with a long tail in LVIS format.
    """
    from rankdet.data import make_long_tailed_shapes
    from rankdet.data import make_shapes as make

    given = {name: number for name, number in (("train", train), ("val", val)) if number is not None}
    maker = make_long_tailed_shapes if long_tailed else make
    print(maker(folder, test=test, size=size, seed=seed, progress=True, **given))
