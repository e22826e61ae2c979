"""Commands on recipes and whole experiments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rankdet.cli.options import Changes, DataFolder, Device, RecipeName


def list_recipes() -> None:
    """List the built-in recipes."""
    from rankdet.recipes import RECIPES

    width = max(map(len, RECIPES))
    for name, function in RECIPES.items():
        print(f"{name:<{width}}  {(function.__doc__ or '').splitlines()[0]}")


def show(recipe: RecipeName, changes: Changes = None) -> None:
    """Print a recipe with all its fields, as YAML."""
    from rankdet.recipes import dump, load_recipe

    print(dump(load_recipe(recipe, changes or [])), end="")


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
    """Train for a table of the paper.

    The figures of the paper are printed beside those of runs made here, which are resumed where they stopped.
    """
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
    ending = plan.run(Console())
    print("\n".join(map(str, ending.files)))
    for run, message in ending.failures.items():
        print(f"rankdet: error: {run}: {message}", file=sys.stderr)
    if ending.signal is not None:
        print(f"stopped by signal {ending.signal}; the same command goes on")
        raise typer.Exit(128 + ending.signal)
    if ending.failures:
        raise typer.Exit(2)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo"),
    iterations: Annotated[int | None, typer.Option(min=1, help="Instead of the recipes' iterations.")] = None,
) -> None:
    """Compare the standard and the RS form on `shapes`.

    Trains Faster R-CNN in both: about four minutes on two cores.
    """
    from rankdet.demo import run_demo

    for path in run_demo(out, Console(), iterations):
        print(path)
