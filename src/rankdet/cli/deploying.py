"""Commands that prepare a trained model for its use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rankdet.cli.options import DataFolder, Device, Trust
from rankdet.cli.printing import print_table


def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder.")],
    data: DataFolder = None,
    split: Annotated[str, typer.Option(help="Split of the data folder; not the one of the training.")] = "val",
    annotations: Annotated[
        Path | None, typer.Option(help="Annotations of any format, instead of a data folder and a split.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of the images of --annotations.")] = None,
    method: Annotated[
        Literal["isotonic", "platt"],
        typer.Option(help="A step function, or two numbers for each class, where there are few detections."),
    ] = "isotonic",
    target: Annotated[
        Literal["iou", "precision"],
        typer.Option(
            help="What a score states then: the expected IoU, or how likely the detection is right at IoU 0.5."
        ),
    ] = "iou",
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Store maps and thresholds in the checkpoint.")
    ] = True,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Make scores state how good detections are.

    Finds a map of the scores of each class, which keeps their order and AP, and the LRP-optimal threshold. `rankdet
    detect --calibrated` and `rankdet evaluate --calibrated` use them. The errors that are printed are those of each
    half of the images, with what was found on the other half.
    """
    from rankdet.inference.calibration import FEW, calibrate_on_folder, store_calibration
    from rankdet.inference.loading import load
    from rankdet.runs.processes import joined_world
    from rankdet.structures import InputError, counted

    where = annotations if data is None else data
    if where is None or (data is not None and annotations is not None):
        raise InputError("give CHECKPOINT and --data, or CHECKPOINT and --annotations")
    with joined_world(device) as world:
        with world.together():
            model = load(checkpoint, world.device, trust=trust)
        found = calibrate_on_folder(model, where, split, images, method, target, world)
    if found is None:
        return
    console = Console()
    rows = [["before", *found.before], ["after", *found.after]]
    print_table(console, ["held-out half", *found.before._fields], rows)
    columns = ["class", "detections", "threshold", "calibrated"]
    print_table(console, columns, [[name, *values.values()] for name, values in found.per_class.items()])
    few = [name for name, values in found.per_class.items() if values["detections"] < FEW]
    if few:
        named = ", ".join(few[:10]) + (", …" if len(few) > 10 else "")
        number = counted(len(few), "class has", "classes have")
        print(f"{number} fewer than {FEW} detections from the threshold on, and an uncertain map: {named}")
    if store:
        store_calibration(found.model)
        print(f"stored in {found.model.origin and found.model.origin.path}")
