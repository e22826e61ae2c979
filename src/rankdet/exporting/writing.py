"""Files of models that run without rankdet: ONNX, and programs of `torch.export`."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rankdet import __version__
from rankdet.data.transforms import FixedSize, KeepRatio
from rankdet.exporting.fixed import CANDIDATES
from rankdet.exporting.graph import NAMES, Graph
from rankdet.exporting.preparation import Prepared
from rankdet.inference.loading import load
from rankdet.inference.model import Model
from rankdet.structures import InputError

OPSET = 20
"""Version of the operators of ONNX."""
EXAMPLE = (352, 416)
"""Size of the images that a graph of any size is traced with: none of its maps is as large as a grid of SOLOv2."""
METADATA = "rankdet"
"""The key of the metadata in an ONNX file; ``rankdet.json`` in a program of torch."""

Size = tuple[int, int] | Literal["dynamic"]


def export(
    model: Model | str | PathLike[str],
    out: str | PathLike[str],
    *,
    format: Literal["onnx", "torch"] = "onnx",
    size: Size | None = None,
    batch: int | Literal["dynamic"] = 1,
    preprocessing: bool = False,
    trust: bool = False,
) -> Path:
    """Write a model as one file with its network, the decoding of boxes and non-maximum suppression.

    Inputs of the file are ``images`` (B, 3, H, W), uint8 RGB, each resized as the metadata say and in the upper left
    corner of its canvas; and ``sizes`` (B, 2), int64, height and width of each image there. Outputs are ``boxes``
    (B, D, 4), xyxy in pixels of the canvas, ``scores`` (B, D) and ``labels`` (B, D), best score first. Rows of score 0
    are none. Detectors of masks also have ``masks`` (B, D, h, w), scores of small grids, and ``regions`` (B, D, 4), the
    rectangle that each grid covers. Arithmetic is float32, and the model detects at its operating point:
    ``rankdet.load(path, "cpu", operating_point=False)`` is one without. Scores are calibrated where those of the model
    are: ``rankdet.load(path, "cpu", calibrated=True)``.

    Parameters
    ----------
    model
        A model, a checkpoint or a run folder.
    out
        The file.
    format
        ``"onnx"``, which the extra ``export`` writes; ``"torch"`` is a program of `torch.export`, which torch and
        torchvision load.
    size
        Height and width of the canvas, or ``"dynamic"``: any. None: what the model resizes images to where that is one
        size, else any; with ``preprocessing`` the square that all resized images fit in.
    batch
        B, or ``"dynamic"``: any.
    preprocessing
        Whether resizing is in the file. It then takes one ``image`` (h, w, 3), uint8 RGB, of any size, and finds boxes
        in pixels of that image. Size and batch are fixed.
    trust
        For a checkpoint: see `rankdet.load`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the checkpoint cannot be loaded, its network is no detector of rankdet or detects in a way of its own, or
        the options do not fit.
    ImportError
        When the packages of the extra ``export`` are missing.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from rankdet.recipes import load_recipe
    >>> network = load_recipe("rs_atss_shapes").detector.build(2, pretrained=False)
    >>> with TemporaryDirectory() as folder:
    ...     export(Model(network, [(1, "cat"), (2, "dog")]), f"{folder}/cats.pt2", format="torch", size=(64, 64)).name
    'cats.pt2'
    """
    if format not in ("onnx", "torch"):
        raise InputError(f"format must be 'onnx' or 'torch', not {format!r}")
    if format == "onnx" and (absent := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]):
        raise ImportError(f"{', '.join(absent)} not installed: pip install 'rankdet[export]'")
    loaded = model if isinstance(model, Model) else load(model, "cpu", trust=trust)
    place = Path(out)
    if not place.parent.is_dir():
        raise InputError(f"{place.parent} is no folder")
    program, names = traced(loaded, size, batch, preprocessing)
    text = json.dumps(metadata(loaded, preprocessing))
    if format == "torch":
        torch.export.save(program, place, extra_files={f"{METADATA}.json": text})
        return place
    with _silence():
        written = torch.onnx.export(
            program,
            (),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=names,
            output_names=NAMES[: len(program.graph_signature.user_outputs)],
        )
    assert written is not None  # as it is where dynamo is True
    written.model.metadata_props[METADATA] = text
    written.save(place)
    return place


def traced(
    model: Model, size: Size | None, batch: int | Literal["dynamic"], preprocessing: bool
) -> tuple[ExportedProgram, list[str]]:
    """Return the graph of a model with the names of its inputs; see :func:`export`."""
    with model.evaluating():  # at its operating point
        graph, resize = Graph(model.network, model.calibration), model.transforms.resize
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise InputError(f"batch must be a number of at least 1, or 'dynamic', not {batch!r}")
    if size not in (None, "dynamic") and not _is_size(size):
        raise InputError(f"size must be height and width, two numbers of at least 1, or 'dynamic', not {size!r}")
    module: nn.Module
    if preprocessing:
        canvas = size or _canvas(resize)
        if canvas is None or canvas == "dynamic" or batch != 1:
            raise InputError("a file with preprocessing has a size of its own and takes one image: give size, no batch")
        if isinstance(resize, FixedSize) and (resize.height > canvas[0] or resize.width > canvas[1]):
            wanted = f"{resize.height}x{resize.width}"
            raise InputError(f"a canvas of {canvas[0]}x{canvas[1]} has no room: the model resizes images to {wanted}")
        module = Prepared(graph, resize, canvas)
        image = torch.zeros(*EXAMPLE, 3, dtype=torch.uint8)
        return _exported(module, (image,), {"image": {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}}), ["image"]
    if size is None:
        size = (resize.height, resize.width) if isinstance(resize, FixedSize) else "dynamic"
    height, width = EXAMPLE if size == "dynamic" else size
    number = 2 if batch == "dynamic" else batch
    images = torch.zeros(number, 3, height, width, dtype=torch.uint8)
    free = ([0] if batch == "dynamic" else []), ([2, 3] if size == "dynamic" else [])
    shapes = {
        "images": dict.fromkeys([*free[0], *free[1]], Dim.DYNAMIC),
        "sizes": dict.fromkeys(free[0], Dim.DYNAMIC),
    }
    return _exported(graph, (images, torch.tensor([[height, width]] * number)), shapes), ["images", "sizes"]


def metadata(model: Model, preprocessing: bool) -> dict[str, Any]:
    """Return what a user of the file must know, in the forms of JSON."""
    resize = None if model.transforms.resize is None else model.transforms.resize.for_detection()
    recipe = None if model.origin is None else model.origin.recipe.name
    calibration = model.calibration
    states = None if calibration is None else {"target": calibration.target, "iou_type": calibration.iou_type}
    return {
        "version": __version__,
        "recipe": recipe,
        "detector": type(model.network).__name__,
        "classes": model.names,
        "category_ids": [number for number, _ in model.categories],
        "thresholds": model.drawing_thresholds(),
        "calibration": states,
        "resize": None if resize is None else {"type": type(resize).__name__} | asdict(resize),
        "significant_bits": model.transforms.significant_bits,
        "operating_point": None if model.operating_point is None else model.operating_point.state(),
        "preprocessing": preprocessing,
        "candidates": CANDIDATES,
    }


@contextmanager
def _silence() -> Iterator[None]:
    """Without what the exporter to ONNX warns of, which is about itself."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_size(size: object) -> bool:
    return isinstance(size, tuple) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)


def _canvas(resize: KeepRatio | FixedSize | None) -> tuple[int, int] | None:
    if isinstance(resize, KeepRatio):
        return resize.long, resize.long
    return None if resize is None else (resize.height, resize.width)


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], shapes: dict[str, Any]) -> ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`create_unbacked_symint`", FutureWarning)  # of torchvision, within
        return torch.export.export(
            module.eval(),
            inputs,
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
