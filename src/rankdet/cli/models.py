"""Commands that train, measure and use models."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from rankdet.cli.options import (
    Annotations,
    AtOperatingPoint,
    Calibrated,
    Changes,
    DataFolder,
    Device,
    Images,
    Split,
    TrainAnnotations,
    TrainImages,
    Trust,
    ValAnnotations,
    ValImages,
    named_files,
)
from rankdet.cli.printing import print_evaluation

if TYPE_CHECKING:
    from rankdet.inference.model import Model


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A name of `rankdet list`, or a YAML file; by default a small one for boxes.")
    ] = None,
    changes: Changes = None,
    data: DataFolder = None,
    train_annotations: TrainAnnotations = None,
    train_images: TrainImages = None,
    val_annotations: ValAnnotations = None,
    val_images: ValImages = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint, or a run folder, whose weights training starts from.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder to go on with; --data where its data have moved, FIELD=VALUE for more."),
    ] = None,
    resume_if_exists: Annotated[
        bool,
        typer.Option(
            "--resume-if-exists", help="Go on with the run in --out, if there is one: the same command, again, goes on."
        ),
    ] = False,
    trust: Trust = False,
) -> None:
    """Train a detector. Under torchrun, with all its processes."""
    from rankdet.recipes.loading import parsed_overrides
    from rankdet.structures import InputError
    from rankdet.training.running import train as run_training

    named = named_files(train_annotations, train_images, val_annotations, val_images)
    if recipe is not None and "=" in recipe and not os.path.exists(recipe):  # the first change, without a recipe
        changes = [recipe, *(changes or [])]
        recipe = None
    if resume is not None and (resume_if_exists or any(option is not None for option in (recipe, out, weights))):
        raise InputError(
            "--resume takes the run's own recipe and folder: give neither RECIPE nor --out nor --weights nor "
            "--resume-if-exists (FIELD=VALUE and --data may say what changes)"
        )
    changed = parsed_overrides(changes or []) | named
    run = run_training(
        recipe,
        data=data,
        out=out,
        changes=changed,
        weights=weights,
        resume=resume,
        resume_if_exists=resume_if_exists,
        trust=trust,
    )
    if is_main_process():
        if run.signal is not None:
            print(f"stopped by signal {run.signal}; go on with: rankdet train --resume {run.folder}")
        else:
            if run.metrics is not None:
                print_evaluation(Console(), run.metrics)
            print(f"run folder: {run.folder}")
    if run.signal is not None:
        raise typer.Exit(128 + run.signal)


def evaluate(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint, or a run folder.")] = None,
    data: DataFolder = None,
    split: Split = "val",
    annotations: Annotations = None,
    images: Images = None,
    detections: Annotated[
        Path | None, typer.Option(help="COCO results, or a file of `rankdet detect`, instead of a checkpoint.")
    ] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="COCO annotations for --detections.")] = None,
    iou_type: Annotated[Literal["bbox", "segm"], typer.Option(help="Boxes, or masks of --detections.")] = "bbox",
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json and detections.json; the run folder by default.")
    ] = None,
    ranking: Annotated[
        bool, typer.Option("--ranking", help="Measure too how well scores order the positives by their IoU.")
    ] = False,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The best detections that count in each image; by default as many as the detector finds, or 100 of "
            "each class (LVIS: 300 of all).",
        ),
    ] = None,
    only_known: Annotated[
        bool, typer.Option("--only-known", help="Leave out --detections of images and classes that are not annotated.")
    ] = False,
    labels_from: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="category_id of --detections counts the annotated classes from 0 or 1 on."),
    ] = None,
    thresholds: Annotated[
        bool, typer.Option("--thresholds/--no-thresholds", help="Store LRP-optimal thresholds in the checkpoint.")
    ] = True,
    calibrated: Calibrated = False,
    operating_point: AtOperatingPoint = True,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Measure AP and oLRP of a model or of detections.

    A checkpoint is measured on a data folder, boxes and masks; or give a file of detections.
    """
    from rankdet.inference.evaluation import evaluate as measure
    from rankdet.structures import InputError

    if detections is not None or ground_truth is not None:
        others = (checkpoint, data, annotations)
        if calibrated:
            raise InputError("--calibrated is for a checkpoint: --detections have the scores that they have")
        if any(given is not None for given in others) or detections is None or ground_truth is None:
            raise InputError("give CHECKPOINT and --data, or --detections and --ground-truth")
        if is_main_process():  # there is nothing to share among processes
            measured = measure(
                detections,
                ground_truth,
                iou_type=iou_type,
                out=out,
                max_detections=max_detections,
                only_known=only_known,
                labels_from=labels_from,
            )
            print_evaluation(Console(), measured)
            if out is not None:
                print(f"written: {out / 'evaluation.json'}")
        return
    where = annotations if data is None else data
    if checkpoint is None or where is None or (data is not None and annotations is not None):
        raise InputError("give CHECKPOINT and --data, CHECKPOINT and --annotations, or --detections and --ground-truth")
    if iou_type != "bbox":
        raise InputError("--iou-type segm is for --detections: of a checkpoint all that it finds is measured")
    if only_known or labels_from is not None:
        raise InputError("--only-known and --labels-from are for --detections: a checkpoint has the ids of its data")
    from rankdet.inference.evaluation import evaluate_on_folder, optimal_thresholds, store_thresholds
    from rankdet.inference.loading import load
    from rankdet.runs.folder import find_checkpoint
    from rankdet.runs.processes import joined_world

    with joined_world(device) as world:
        with world.together():
            path = find_checkpoint(checkpoint)
            model = load(
                path,
                world.device,
                trust=trust,
                max_detections=max_detections,
                calibrated=calibrated,
                operating_point=operating_point,
            )
            tell_operating_point(model)
        folder = out or _folder_of(path)
        metrics = evaluate_on_folder(model, where, split, world, folder, ranking, images)
    if metrics is None:
        return
    print_evaluation(Console(), metrics)
    print(f"written: {folder / 'evaluation.json'}, {folder / 'detections.json'}")
    if not thresholds or calibrated or "per_class" not in metrics:
        return
    try:
        store_thresholds(model, optimal_thresholds(metrics))
        print(f"thresholds stored in {path}")
    except InputError as error:
        print(f"rankdet: warning: thresholds not stored: {error}", file=sys.stderr)


def report(
    found: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders, and files of detections of any tool; several are compared."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="A data folder, or an annotation file; by default what the recipe of each run names."),
    ] = None,
    split: Split = "val",
    images: Annotated[Path | None, typer.Option(help="The folder of the images of an annotation file.")] = None,
    iou_type: Annotated[
        Literal["bbox", "segm"] | None,
        typer.Option(help="Whether curves compare boxes or masks; by default masks, where all have them."),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1, help="The best detections of a file that count: 100 of each class in an image, LVIS 300 of all."
        ),
    ] = None,
    only_known: Annotated[
        bool, typer.Option("--only-known", help="Leave out detections of images and classes that are not annotated.")
    ] = False,
    labels_from: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="category_id of detections counts the annotated classes from 0 or 1 on."),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Most classes whose curves are drawn.")] = 80,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """Write one HTML page about runs, or about detections of any tool.

    Numbers, precision and LRP curves of each class, errors, learning curves. A run is shown as it was last evaluated.
    """
    from rankdet.review import write_report

    write_report(
        found,
        out,
        data=data,
        split=split,
        images=images,
        iou_type=iou_type,
        max_detections=max_detections,
        only_known=only_known,
        labels_from=labels_from,
        classes=classes,
    )
    print(f"written: {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _folder_of(checkpoint: Path) -> Path:
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def detect(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder.")],
    images: Annotated[list[Path], typer.Argument(help="Images, folders of images, or patterns like 'a/**/*.jpg'.")],
    out: Annotated[Path, typer.Option(help="Folder for annotated images and detections.json.")] = Path("detections"),
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into folders of folders, too.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Draw from this score on; by default from each class's LRP-optimal threshold."),
    ] = None,
    drawings: Annotated[
        bool, typer.Option("--drawings/--no-drawings", help="Write annotated images, or detections.json alone.")
    ] = True,
    class_agnostic: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Leave out what a better detection of any class overlaps by more than this IoU."
        ),
    ] = None,
    tiles: Annotated[
        int | None, typer.Option(min=1, help="For large images: detect in tiles of so many pixels, and merge.")
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.9, help="Share of a tile's side that it has in common with the next; 0.25 by default."
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images of one size, or tiles, per pass through the network.")
    ] = 8,
    calibrated: Calibrated = False,
    operating_point: AtOperatingPoint = True,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Detect objects in images. Under torchrun its processes share the images.

    Writes annotated images and COCO JSON, with masks where the detector finds them. Images that cannot be read are left
    out and named at the end; the exit status is 1 then.
    """
    from rankdet.coco import grouped
    from rankdet.inference.drawing import detect_and_draw
    from rankdet.inference.files import find_images
    from rankdet.inference.loading import load
    from rankdet.inference.tiles import Tiles
    from rankdet.runs.processes import joined_world
    from rankdet.structures import InputError, counted

    if overlap is not None and tiles is None:
        raise InputError("--overlap is that of --tiles: give both")
    tiling = None if tiles is None else Tiles(tiles) if overlap is None else Tiles(tiles, overlap)
    with joined_world(device) as world:
        with world.together():
            model = load(checkpoint, world.device, trust=trust, calibrated=calibrated, operating_point=operating_point)
            tell_operating_point(model)
            files = find_images(images, recursive)
        done = detect_and_draw(
            model,
            files,
            out,
            threshold,
            print,
            world,
            batch_size=batch_size,
            tiles=tiling,
            class_agnostic=class_agnostic,
            drawings=drawings,
        )
    if world.is_main:
        print(f"written: {out}, {counted(done.images, 'image')}")
        if done.cut:
            said = "cut by borders of tiles, and no tile holds them whole (is_cut in detections.json): give a larger"
            number = counted(done.cut, "detection")
            print(f"rankdet: warning: {number} from the threshold on {said} --overlap or --tiles", file=sys.stderr)
        for line in grouped(done.unreadable):
            print(f"rankdet: {line}", file=sys.stderr)
        if done.unreadable:
            raise typer.Exit(1)


def import_foreign(
    checkpoint: Annotated[Path, typer.Argument(help="A file of mmdetection or torchvision.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")],
    recipe: Annotated[
        str | None, typer.Option(help="A name of `rankdet list`, or a YAML file; by default one is found that fits.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder in COCO format: the checkpoint gets its categories, matched by name.")
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option("--ema/--no-ema", help="Averaged weights, or those as trained; by default those of plain names."),
    ] = None,
) -> None:
    """Convert a checkpoint of mmdetection or torchvision.

    The result is one to evaluate, to detect with, and to train on.
    """
    from rankdet.importing import import_checkpoint

    imported = import_checkpoint(checkpoint, out, recipe, data, ema)
    print("\n".join(imported.describe()))
    print(f"written: {out}")


def tell_operating_point(model: Model) -> None:
    """Say on standard error where a model detects, if that is not by its recipe."""
    if model.operating_point is not None and is_main_process():
        print(f"at the stored operating point: {model.operating_point}", file=sys.stderr)


def is_main_process() -> bool:
    """Whether this process speaks for all those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"
