"""Pictures in, annotated pictures and COCO JSON out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rankdet.report import draw_detections, write_picture
from rankdet.structures import InputError, Source

from .evaluation import coco_results
from .inference import above, check_pictures, detect_pictures, find_pictures, load_detector
from .runs import write_json


def detect_and_draw(
    checkpoint: Path,
    pictures: Sequence[Path],
    out: Path,
    threshold: float | None,
    device: torch.device,
    report: Callable[[str], None],
) -> Path:
    """Write annotated pictures and ``detections.json`` into ``out``; nothing is written where any input is bad.

    Parameters
    ----------
    checkpoint
        A checkpoint, or a run folder.
    pictures
        Pictures and folders of pictures.
    out
        Folder to write into. ``detections.json`` holds pictures, categories and all detections with their scores.
    threshold
        Score from which detections are drawn; None: each class from its LRP-optimal threshold.
    device
        Where to compute.
    report
        Is told what is drawn.

    Raises
    ------
    InputError
        When the checkpoint or a picture cannot be read; all broken pictures are named at once.
    """
    trained = load_detector(checkpoint, device)
    paths = find_pictures(pictures)
    check_pictures(paths)
    thresholds = trained.drawing_thresholds(threshold)
    if threshold is None and trained.thresholds is None:
        report(f"no evaluation has stored thresholds in {trained.path}; drawing from score {thresholds[0]:g} on")
    names = [name for _, name in trained.categories]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {out}: {error.strerror}") from error
    with tempfile.TemporaryDirectory(dir=out) as beside:
        for number, (path, pixels, detection) in enumerate(detect_pictures(trained, paths), start=1):
            source = Source(number, str(path), (pixels.shape[1], pixels.shape[2]))
            images.append({"id": number, "file_name": str(path), "height": source.size[0], "width": source.size[1]})
            for record in coco_results(source, detection, [category for category, _ in trained.categories]):
                area = record["bbox"][2] * record["bbox"][3]
                annotations.append({"id": len(annotations) + 1, **record, "area": area, "iscrowd": 0})
            drawn = above(detection, thresholds)
            # The number keeps pictures of one name from different folders apart.
            name = path.stem if len({each.stem for each in paths}) == len(paths) else f"{path.stem}_{number}"
            write_picture(Path(beside) / f"{name}.png", draw_detections(pixels, drawn, names))
            report(f"{path}: {len(drawn.scores)} drawn of {len(detection.scores)}")
        for drawing in sorted(Path(beside).iterdir()):
            drawing.replace(out / drawing.name)
    categories = [{"id": category, "name": name} for category, name in trained.categories]
    write_json(out / "detections.json", {"images": images, "categories": categories, "annotations": annotations})
    return out
