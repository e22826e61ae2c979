"""The command line. torch is imported inside of the commands that need it, so that ``--help`` answers at once."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table as RichTable

from rankdet import __version__
from rankdet.recipes import RECIPES, dump, load_recipe

if TYPE_CHECKING:
    from rankdet.report import Table

_MOST_CLASSES = 200
"""That are printed one by one."""

app = typer.Typer(
    help="Object detectors trained with ranking-based losses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A name of `rankdet list`, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Changes, for example optimizer.lr=0.01")
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: a GPU if there is one.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="A folder in COCO or LVIS format.")]


def main() -> None:
    """Run a command; bad input becomes one line on standard error and exit status 2, or 3 where training diverged."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal need not know every character of a file name
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except SystemExit as status:
        if isinstance(status.__context__, BrokenPipeError):
            _end_of_pipe()
        raise
    except BrokenPipeError:
        _end_of_pipe()
    except (OSError, ValueError) as error:
        from rankdet.structures import InputError

        if not isinstance(error, OSError | InputError):
            raise
        print(f"rankdet: error: {_process()}{' '.join(str(error).split())}", file=sys.stderr)
        if isinstance(error, OSError):
            _discard_output()
        sys.exit(error.exit_status if isinstance(error, InputError) else 2)


def _end_of_pipe() -> NoReturn:
    """The reader of the output has gone, as ``head`` does: nothing to complain about."""
    _discard_output()
    sys.exit(141)


def _discard_output() -> None:
    """What is still buffered cannot be written: Python must not try once more at its end."""
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _process() -> str:
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


def _console() -> Console:
    return Console(stderr=False)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A name of `rankdet list`, or a YAML file.")] = None,
    overrides: Overrides = None,
    data: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint, or a run folder, whose weights training starts from.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
) -> None:
    """Train a detector. Under torchrun, with all its processes."""
    from rankdet.structures import InputError
    from rankdet.training.running import train as run_training

    if resume is not None and any(option is not None for option in (recipe, overrides, data, out, weights)):
        raise InputError(
            "--resume takes the run's own recipe: give neither RECIPE nor fields, --data, --out, --weights"
        )
    if resume is None and recipe is None:
        raise InputError("name a RECIPE (`rankdet list` shows them), or --resume RUN")
    console = _console()
    run = run_training(
        recipe, data=data, out=out, changes=overrides or [], weights=weights, resume=resume, console=console
    )
    if os.environ.get("RANK", "0") == "0":
        if run.signal is not None:
            print(f"stopped by signal {run.signal}; go on with: rankdet train --resume {run.folder}")
        else:
            if run.metrics is not None:
                _print_evaluation(console, run.metrics)
            print(f"run folder: {run.folder}")
    if run.signal is not None:
        raise typer.Exit(128 + run.signal)


@app.command()
def evaluate(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint, or a run folder.")] = None,
    data: DataFolder = None,
    split: Annotated[str, typer.Option(help="Split of the data folder.")] = "val",
    detections: Annotated[Path | None, typer.Option(help="COCO results, instead of a checkpoint.")] = None,
    ground_truth: Annotated[Path | None, typer.Option(help="COCO annotations for --detections.")] = None,
    iou_type: Annotated[Literal["bbox", "segm"], typer.Option(help="Boxes, or masks of --detections.")] = "bbox",
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json and detections.json; the run folder by default.")
    ] = None,
    ranking: Annotated[
        bool, typer.Option("--ranking", help="Measure too how well scores order the positives by their IoU.")
    ] = False,
    thresholds: Annotated[
        bool, typer.Option("--thresholds/--no-thresholds", help="Store LRP-optimal thresholds in the checkpoint.")
    ] = True,
    device: Device = "auto",
) -> None:
    """Measure AP and oLRP of a checkpoint on a data folder, of boxes and masks, or of a detections file."""
    from rankdet.structures import InputError

    if detections is not None or ground_truth is not None:
        if checkpoint is not None or data is not None or detections is None or ground_truth is None:
            raise InputError("give CHECKPOINT and --data, or --detections and --ground-truth")
        if os.environ.get("RANK", "0") == "0":  # there is nothing to share among processes
            _evaluate_files(detections, ground_truth, iou_type, out)
        return
    if checkpoint is None or data is None:
        raise InputError("give CHECKPOINT and --data, or --detections and --ground-truth")
    if iou_type != "bbox":
        raise InputError("--iou-type segm is for --detections: of a checkpoint all that it finds is measured")
    from rankdet.inference.evaluation import evaluate_on_folder, optimal_thresholds, store_thresholds
    from rankdet.inference.loading import load
    from rankdet.runs.folder import find_checkpoint
    from rankdet.runs.processes import joined_world

    with joined_world(device) as world:
        with world.together():
            path = find_checkpoint(checkpoint)
            model = load(path, world.device)
        folder = out or _folder_of(path)
        metrics = evaluate_on_folder(model, data, split, world, folder, ranking)
    if metrics is None:
        return
    _print_evaluation(_console(), metrics)
    print(f"written: {folder / 'evaluation.json'}, {folder / 'detections.json'}")
    if not thresholds:
        return
    try:
        store_thresholds(model, optimal_thresholds(metrics))
        print(f"thresholds stored in {path}")
    except InputError as error:
        print(f"rankdet: warning: thresholds not stored: {error}", file=sys.stderr)


def _folder_of(checkpoint: Path) -> Path:
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _evaluate_files(detections: Path, ground_truth: Path, iou_type: Literal["bbox", "segm"], out: Path | None) -> None:
    from rankdet.metrics import evaluate as measure
    from rankdet.runs.folder import output_folder, write_json

    with nullcontext() if out is None else output_folder(out):
        metrics = measure(ground_truth, detections, iou_type)
        if out is not None:
            write_json(out / "evaluation.json", metrics)
    _print_evaluation(_console(), metrics)
    if out is not None:
        print(f"written: {out / 'evaluation.json'}")


def _print_evaluation(console: Console, metrics: Mapping[str, Any]) -> None:
    from rankdet.report import Table

    _print_measures(console, metrics, "boxes" if "masks" in metrics else None)
    if "masks" in metrics:
        _print_measures(console, metrics["masks"], "masks")
    if "ranking" in metrics:
        names = ("spearman", "positives", "negatives")
        quality = metrics["ranking"]
        _print_table(console, Table(["head", *names], [[quality["head"], *(quality[name] for name in names)]]))


def _print_measures(console: Console, metrics: Mapping[str, Any], title: str | None) -> None:
    from rankdet.report import Table, per_class_table

    if title is not None:
        console.print(title)
    for kind in ("AP", "AR", "oLRP"):  # COCO and LVIS do not measure the same
        names = [name for name in metrics if name.startswith(kind)]
        _print_table(console, Table(list(names), [[metrics[name] for name in names]]))
    if len(metrics["per_class"]) <= _MOST_CLASSES:
        _print_table(console, per_class_table(metrics))
    else:
        console.print(f"{len(metrics['per_class'])} classes: their numbers are in evaluation.json")


def _print_table(console: Console, table: Table) -> None:
    from rankdet.report import format_value

    shown = RichTable()
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if place == 0 and len(table.rows) > 1 else "right")
    for row in table.rows:
        shown.add_row(*(format_value(value) for value in row))
    console.print(shown)


@app.command()
def detect(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder for annotated images and detections.json.")] = Path("detections"),
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Draw from this score on; by default from each class's LRP-optimal threshold."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Detect objects: annotated images and COCO JSON, with masks where the detector finds them."""
    from rankdet.inference.drawing import detect_and_draw
    from rankdet.runs.processes import joined_world

    with joined_world(device) as world:
        written = detect_and_draw(checkpoint, images, out, threshold, world.device, report=print)
    print(f"written: {written}")


@app.command(name="import")
def import_foreign(
    checkpoint: Annotated[Path, typer.Argument(help="A file of mmdetection or torchvision.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")],
    recipe: Annotated[
        str | None, typer.Option(help="A name of `rankdet list`, or a YAML file; by default one is found that fits.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder in COCO format: the checkpoint gets its categories, matched by name.")
    ] = None,
) -> None:
    """Turn a checkpoint of mmdetection or torchvision into one to evaluate, detect with and train on."""
    from rankdet.importing import import_checkpoint

    imported = import_checkpoint(checkpoint, out, recipe, data)
    print("\n".join(imported.describe()))
    print(f"written: {out}")


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="A folder in COCO or LVIS format.")],
    masks: Annotated[bool, typer.Option(help="Check segmentations too.")] = False,
    images: Annotated[bool, typer.Option(help="Decode every image.")] = False,
) -> None:
    """Check a data folder before training; exit status 2 where training would stop."""
    from rankdet.data import check_folder

    findings = check_folder(folder, with_masks=masks, images=images)
    for finding in findings:
        print(f"{finding.severity}: {finding}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{folder}: {errors} errors, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(2)


@app.command()
def reproduce(
    table: Annotated[str | None, typer.Argument(help="1 to 10, A.11 to A.20, or sorting; without it, a list.")] = None,
    scale: Annotated[
        Literal["small", "full"],
        typer.Option(
            help="small: a small network on `shapes`, or on the folder --data; full: the paper's, on COCO, LVIS."
        ),
    ] = "small",
    rows: Annotated[str | None, typer.Option(help="Names of rows, with commas; all that have a recipe.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, with commas; 0,1,2, or 0 at full scale.")] = None,
    lrs: Annotated[str | None, typer.Option(help="Learning rates that each row chooses from, with commas.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of the recipes' iterations.")] = None,
    equal_time: Annotated[
        str | None, typer.Option(metavar="ROW", help="Train all rows for the seconds of this one, too.")
    ] = None,
    data: DataFolder = None,
    out: Annotated[Path, typer.Option(help="Folder for runs and tables.")] = Path("runs/reproduce"),
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one process; 1 where --jobs is more.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes of one training, under torchrun.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print commands, and what is missing on disk.")] = False,
) -> None:
    """Make a table of the paper: its figures beside those of runs made here, resumed where they stopped."""
    from rankdet.reproduce import make_plan, overview

    if table is None:
        print("\n".join(overview()))
        return
    plan = make_plan(
        table,
        full=scale == "full",
        rows=rows,
        seeds=seeds,
        learning_rates=lrs,
        iterations=iterations,
        equal_time=equal_time,
        data=data,
        out=out,
        device=device,
        threads=threads,
        jobs=jobs,
        processes=processes,
    )
    if dry_run:
        print("\n".join(plan.describe()))
        return
    ending = plan.run(_console())
    print("\n".join(map(str, ending.files)))
    for run, message in ending.failures.items():
        print(f"rankdet: error: {run}: {message}", file=sys.stderr)
    if ending.signal is not None:
        print(f"stopped by signal {ending.signal}; the same command goes on")
        raise typer.Exit(128 + ending.signal)
    if ending.failures:
        raise typer.Exit(2)


@app.command(name="list")
def list_recipes() -> None:
    """All built-in recipes."""
    width = max(map(len, RECIPES))
    for name, function in RECIPES.items():
        print(f"{name:<{width}}  {(function.__doc__ or '').splitlines()[0]}")


@app.command()
def show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """A recipe with everything resolved, as YAML that can be trained."""
    print(dump(load_recipe(recipe, overrides or [])), end="")


@app.command()
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
    """Make the data set `shapes` as an ordinary COCO folder, or with a long tail in LVIS format."""
    from rankdet.data import make_long_tailed_shapes
    from rankdet.data import make_shapes as make

    given = {name: number for name, number in (("train", train), ("val", val)) if number is not None}
    maker = make_long_tailed_shapes if long_tailed else make
    print(maker(folder, test=test, size=size, seed=seed, progress=True, **given))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo"),
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of the recipes' iterations.")] = None,
) -> None:
    """Train the standard and the RS Faster R-CNN on `shapes` and compare them: about four minutes on two cores."""
    from rankdet.demo import run_demo

    for path in run_demo(out, _console(), iterations):
        print(path)
