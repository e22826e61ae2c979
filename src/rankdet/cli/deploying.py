"""Commands that prepare a trained model for its use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rankdet.cli.models import is_main_process, tell_operating_point
from rankdet.cli.options import Annotations, AtOperatingPoint, Calibrated, DataFolder, Device, Images, Trust
from rankdet.cli.printing import print_table

HeldOutSplit = Annotated[str, typer.Option(help="Split of the data folder; not the one of the training.")]
Compared = Annotated[
    Literal["bbox", "segm"] | None,
    typer.Option("--iou-type", help="Compare boxes or masks; by default masks, where the detector finds them."),
]


def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder.")],
    data: DataFolder = None,
    split: HeldOutSplit = "val",
    annotations: Annotations = None,
    images: Images = None,
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
    iou_type: Compared = None,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Store maps and thresholds in the checkpoint.")
    ] = True,
    operating_point: AtOperatingPoint = True,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Make scores state how good detections are.

    Finds a map of the scores of each class, which keeps their order and AP, and the LRP-optimal threshold. `rankdet
    detect --calibrated` and `rankdet evaluate --calibrated` use them. The errors that are printed are those of each
    half of the images, with what was found on the other half.
    """
    from rankdet.inference.calibration import FEW, calibrate_on_folder
    from rankdet.inference.loading import load
    from rankdet.runs.processes import joined_world
    from rankdet.structures import counted

    where = _one_of(data, annotations)
    with joined_world(device) as world:
        with world.together():
            model = load(checkpoint, world.device, trust=trust, operating_point=operating_point)
            tell_operating_point(model)
        found = calibrate_on_folder(model, where, split, images, method, target, iou_type, store, world)
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
        print(f"stored in {found.model.origin and found.model.origin.path}")


def sweep(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder.")],
    data: DataFolder = None,
    split: HeldOutSplit = "val",
    annotations: Annotations = None,
    images: Images = None,
    thresholds: Annotated[
        str | None,
        typer.Option(
            help="Score thresholds before NMS, with commas; 0.05 to 0.8, beside the network's own, by default."
        ),
    ] = None,
    nms: Annotated[
        str | None,
        typer.Option(help="IoU thresholds of NMS, with commas; the network's own and 0.1 around it by default."),
    ] = None,
    iou_type: Compared = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass through the network.")] = 1,
    store: Annotated[
        bool, typer.Option("--store/--no-store", help="Store the recommended point in the checkpoint.")
    ] = True,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Find the operating point that is fast and costs no AP.

    Measures AP, oLRP and images per second at many score thresholds before NMS and IoU thresholds of NMS.
    Recommended is the highest score threshold that costs at most 0.0005 AP. What is stored, `rankdet detect` and all
    other commands use from then on.
    """
    from rankdet.inference.loading import load
    from rankdet.inference.sweep import SCORE_THRESHOLDS
    from rankdet.inference.sweep import sweep as measure
    from rankdet.runs.processes import find_device

    where = _one_of(data, annotations)
    tried = SCORE_THRESHOLDS if thresholds is None else _numbers(thresholds, "--thresholds")
    ious = None if nms is None else _numbers(nms, "--nms")
    if not is_main_process():  # speeds are those of one process
        return
    model = load(checkpoint, find_device(device), trust=trust, operating_point=False)
    found = measure(
        model,
        where,
        split=split,
        images=images,
        score_thresholds=tried,
        nms_ious=ious,
        iou_type=iou_type,
        batch_size=batch_size,
        store=store,
    )
    columns = ["threshold", "NMS", "AP", "oLRP", "images/s", "detections"]
    rows = []
    for each in found.points:
        iou = None if each.point.nms_iou is None else f"{each.point.nms_iou:g}"
        measures = (f"{each.AP:.4f}", f"{each.oLRP:.4f}", f"{each.images_per_second:.1f}", f"{each.detections:.1f}")
        rows.append([f"{each.point.score_threshold:g}", iou, *measures])
    print_table(Console(), columns, rows)
    first, best = found.points[0], found.recommended
    print(
        f"recommended: {best.point}: AP {best.AP:.4f} and {best.images_per_second:.1f} images/s; "
        f"{first.point}: AP {first.AP:.4f} and {first.images_per_second:.1f} images/s"
    )
    if store:
        print(f"stored in {model.origin and model.origin.path}")


def _one_of(data: Path | None, annotations: Path | None) -> Path:
    from rankdet.structures import InputError

    where = annotations if data is None else data
    if where is None or (data is not None and annotations is not None):
        raise InputError("give CHECKPOINT and --data, or CHECKPOINT and --annotations")
    return where


def _numbers(text: str, option: str) -> list[float]:
    from rankdet.structures import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} is numbers with commas, not {text!r}") from error


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder.")],
    out: Annotated[Path | None, typer.Option(help="The file; model.onnx or model.pt2 by default.")] = None,
    format: Annotated[
        Literal["onnx", "torch"], typer.Option(help="ONNX, or a program that torch and torchvision load.")
    ] = "onnx",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW|dynamic",
            help="Height and width of the images, as in 480x640, or any; by default those of the recipe.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N|dynamic", help="Images at a time, or any number.")] = "1",
    preprocessing: Annotated[
        bool, typer.Option("--preprocessing", help="The file resizes, too: it takes one image of any size.")
    ] = False,
    calibrated: Calibrated = False,
    operating_point: AtOperatingPoint = True,
    trust: Trust = False,
) -> None:
    """Write a detector as one file that runs without rankdet.

    The network, the decoding of boxes and non-maximum suppression are in it.
    """
    from rankdet.exporting.writing import export as write
    from rankdet.inference.loading import load
    from rankdet.structures import InputError

    sides = None if size in (None, "dynamic") else size.split("x")
    if sides is not None and not (len(sides) == 2 and all(side.isdecimal() for side in sides)):
        raise InputError(f"--size {size}: give height and width as in 480x640, or dynamic")
    if batch != "dynamic" and not batch.isdecimal():
        raise InputError(f"--batch {batch}: give a number, or dynamic")
    model = load(checkpoint, "cpu", trust=trust, calibrated=calibrated, operating_point=operating_point)
    tell_operating_point(model)
    written = write(
        model,
        out or Path("model.onnx" if format == "onnx" else "model.pt2"),
        format=format,
        size=None if size is None else "dynamic" if sides is None else (int(sides[0]), int(sides[1])),
        batch="dynamic" if batch == "dynamic" else int(batch),
        preprocessing=preprocessing,
    )
    print(f"written: {written}")


def explain(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN|FILE]",
            help="A run folder or a checkpoint, or an .npz, .json or .csv file with logits and targets; by default the "
            "worked example of the paper.",
        ),
    ] = None,
    loss: Annotated[
        Literal["rank_sort", "average_precision", "alrp"] | None,
        typer.Option(help="The loss of a file, rank_sort by default; a run has its own."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(min=0, help="Half the width of the soft step of a file; as published by default.")
    ] = None,
    image: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Place of an image in the split, once for each image of the batch."),
    ] = None,
    head: Annotated[list[str] | None, typer.Option(help="A head of the detector; by default all.")] = None,
    data: DataFolder = None,
    split: Annotated[str | None, typer.Option(help="Split of the data folder; by default that of evaluations.")] = None,
    annotations: Annotations = None,
    images: Images = None,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("explanation.html"),
    png: Annotated[Path | None, typer.Option(help="Draw it into this file, too: .png, .svg or .pdf.")] = None,
    device: Device = "auto",
    trust: Trust = False,
) -> None:
    """Show a ranking loss at work: the errors of each positive, whose fault they are, and every gradient.

    Of a run the losses of each head are explained, on a batch of images of its data.
    """
    from rankdet.explaining import (
        draw_explanations,
        explain_file,
        explain_run,
        summary,
        worked_example,
        write_explanations,
    )
    from rankdet.runs.folder import output_folder
    from rankdet.structures import InputError

    if out.is_dir():
        raise InputError(f"{out} is a folder: --out is the HTML file to write")
    if png is not None and png.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--png {png}: the file must end in .png, .svg or .pdf")
    is_run = source is not None and (source.is_dir() or source.suffix == ".pt")
    if not is_run and any(given is not None for given in (data, split, annotations, images, image, head)):
        raise InputError("--data, --split, --annotations, --images, --image and --head are for a run")
    if is_run and (loss is not None or delta is not None):
        raise InputError("--loss and --delta are for a file: a run has losses of its own")
    if data is not None and annotations is not None:
        raise InputError("give --data or --annotations, not both")
    notes: list[str] = []
    if source is None:
        found = [worked_example(loss or "rank_sort", 0.0 if delta is None else delta)]
    elif is_run:
        found, notes = explain_run(
            source,
            image,
            data=annotations if data is None else data,
            split=split,
            image_folder=images,
            heads=head,
            device=device,
            trust=trust,
        )
    else:
        found = [explain_file(source, loss or "rank_sort", delta)]
    with output_folder(out.absolute().parent):
        write_explanations(found, out, notes)
    if png is not None:
        with output_folder(png.absolute().parent):
            draw_explanations(png, found)
    for one in found:
        print(f"{one.title}: {summary(one)}")
    print(f"written: {out}" + ("" if png is None else f", {png}"))
