"""Commands on data folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankdet.cli.options import Changes, TrainAnnotations, TrainImages, ValAnnotations, ValImages, named_files

if TYPE_CHECKING:
    from rankdet.recipes import Recipe


def doctor(
    folder: Annotated[Path | None, typer.Argument(help="A data folder of any layout in docs/formats.md.")] = None,
    changes: Changes = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Check for this recipe, a name of `rankdet list` or a YAML file; by default that of `rankdet train`."
        ),
    ] = None,
    train_annotations: TrainAnnotations = None,
    train_images: TrainImages = None,
    val_annotations: ValAnnotations = None,
    val_images: ValImages = None,
    masks: Annotated[
        bool | None, typer.Option(help="Whether masks are to be learned; by default as the recipe says.")
    ] = None,
    images: Annotated[bool, typer.Option(help="Decode every image, and compare their content.")] = False,
    fix: Annotated[Path | None, typer.Option(help="Write a cleaned copy of FOLDER here, with changes.json.")] = None,
) -> None:
    """Check a data folder before training.

    Does what a training does, and has exit status 2 exactly where it would stop before its first iteration; then looks
    closer, at all splits. With --fix the exit status is that of the copy.
    """
    from rankdet.recipes import load_recipe
    from rankdet.recipes.default import BOXES
    from rankdet.recipes.loading import parsed_overrides
    from rankdet.structures import InputError, counted

    if folder is not None and "=" in str(folder) and not folder.exists():  # the first change, without a folder
        changes, folder = [str(folder), *(changes or [])], None
    if fix is not None and folder is None:
        raise InputError("--fix copies a data folder: name FOLDER")
    changed = parsed_overrides(changes or [])
    files = named_files(train_annotations, train_images, val_annotations, val_images)
    own = {} if folder is None else {"data.folder": str(folder.resolve())}
    loaded = load_recipe(recipe or BOXES, changed | files | own)
    is_sound = _examine(loaded, masks, images)
    if fix is not None and folder is not None:
        from rankdet.data.fixing import CHANGES, fix_folder

        made = fix_folder(folder, fix, voc_first_pixel=loaded.data.voc_first_pixel)
        print(f"{fix}: a copy with {counted(len(made), 'change')}, listed in {fix / CHANGES}")
        copied = load_recipe(recipe or BOXES, changed | {"data.folder": str(fix.resolve())})
        is_sound = _examine(copied, masks, images)
    if not is_sound:
        raise typer.Exit(2)


def _examine(recipe: Recipe, masks: bool | None, images: bool) -> bool:
    """Print what doctor says of the data of a recipe; returns whether a training would begin."""
    from rankdet.coco.findings import SEVERITIES
    from rankdet.recipes.doctor import diagnose
    from rankdet.structures import counted

    with_masks = recipe.detector.has_masks if masks is None else masks
    diagnosis = diagnose(recipe.data, with_masks, recipe.evaluation, images)
    print(diagnosis.describe())
    counts = Counter(finding.severity for finding in diagnosis.findings)
    print(", ".join(counted(counts[severity], severity) for severity in SEVERITIES))
    return not counts["error"]


def look(
    data: Annotated[
        Path | None,
        typer.Argument(help="A data folder of any layout that docs/formats.md lists, or one annotation file."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A name of `rankdet list`, or a YAML file, whose anchors are tried.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Most images that are shown.")] = 500,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("look.html"),
    split: Annotated[list[str] | None, typer.Option(help="This split alone; may be given several times.")] = None,
    train_annotations: TrainAnnotations = None,
    train_images: TrainImages = None,
    val_annotations: ValAnnotations = None,
    val_images: ValImages = None,
) -> None:
    """Look at a data set on one HTML page.

    Suspicious images come first, with boxes and outlines; then classes, sizes, how splits differ, copies.
    """
    from rankdet.look import write_look
    from rankdet.recipes import load_recipe
    from rankdet.structures import InputError

    given = {"train": (train_annotations, train_images), "val": (val_annotations, val_images)}
    files = {name: (file, folder) for name, (file, folder) in given.items() if file is not None}
    if data is None and not files:
        raise InputError("name a data folder or an annotation file, or --train-annotations, --val-annotations")
    for name, (_, folder) in given.items():
        if folder is not None and name not in files:
            raise InputError(f"--{name}-images is the folder of the images of --{name}-annotations: give both")
    named = None if recipe is None else load_recipe(recipe)
    write_look(data, out, recipe=named, images=images, splits=split or (), files=files, progress=True)
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")


def convert(
    folder: Annotated[
        Path, typer.Argument(metavar="IN", help="A data folder of any layout that docs/formats.md lists.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The COCO folder to write, which must be empty or not be there.")
    ],
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy images; otherwise they are hard links, where that is possible.")
    ] = False,
    voc_first_pixel: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Number of the first pixel in Pascal VOC; by default as boxes show."),
    ] = None,
) -> None:
    """Write a data folder as a COCO folder.

    Annotations go to annotations/instances_SPLIT.json, images to images/SPLIT.
    Exit status 2 where nothing in the folder can be used.
    """
    from rankdet.data import convert_folder, grouped
    from rankdet.structures import counted

    found = convert_folder(folder, out, copy=copy, progress=True, voc_first_pixel=voc_first_pixel)
    print(f"{found.layout} data in {folder}, written as COCO to {out}:")
    for split, one in found.splits.items():
        counts = [counted(one.images, "image"), counted(one.objects, "object")]
        counts += [f"{one.masks} of them with a mask"] if one.masks else []
        counts += [counted(one.crowds, "crowd")] if one.crowds else []
        counts += [f"{counted(one.missing, 'image file')} missing"] if one.missing else []
        print(f"  {split}: {', '.join(counts)} ({one.annotations.relative_to(out)})")
    for line in grouped(found.findings):
        print(line)


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
