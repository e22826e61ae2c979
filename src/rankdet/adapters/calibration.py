"""Scores that a framework's usual threshold fits, for models that learned by a ranking loss.

A ranking loss fixes differences of logits. Where they lie and how far apart, training does not care, so that a default
threshold may keep nothing or everything. Here a scale and a shift of the logits are found on validation images, and
stored in the weights of the classifier. They keep the order of the detections, and with it AP.

Each adapter has a ``calibrate(model, loader)``, which knows where its classifiers are.

Legend: D detections of an image, G objects, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rankdet.losses import box_overlap
from rankdet.metrics.lrp import MATCH_IOU, optimal_lrp
from rankdet.structures import InputError

RECALLS = np.linspace(0, 1, 101)
HIGHEST = 10.0
"""Highest logit after the change: a sigmoid in float32 is 1 from 17 on, and near that it rounds orders away."""


class Matches(NamedTuple):
    """Detections beside objects, of an image or of many.

    logits, labels, ious
        (D,) each: logit of the score, class, and IoU with the matched object, NaN without one.
    objects
        (G,) classes of the objects.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.int64]
    ious: NDArray[np.float64]
    objects: NDArray[np.int64]


class Calibration(NamedTuple):
    """A change of logits, scale · s + shift, and what it makes of the detections of a validation set.

    threshold
        The score below which detections are dropped by default.
    best_threshold
        The score of the LRP-optimal cut over all classes, for those who want few false boxes.
    ap50, kept_ap50
        AP at IoU 0.5, the mean over classes, of all detections and of those above the threshold.
    """

    scale: float
    shift: float
    threshold: float
    best_threshold: float
    ap50: float
    kept_ap50: float


def match(boxes: Tensor, logits: Tensor, labels: Tensor, objects: Tensor, classes: Tensor) -> Matches:
    """Match the detections of an image with the objects of their class, at IoU 0.5 as COCO's AP does.

    Detections take their turn by descending logit, and each takes the object of the largest IoU that is left.

    Parameters
    ----------
    boxes, logits, labels
        (D, 4) boxes (x1, y1, x2, y2) in any unit, (D,) logits of their scores, (D,) int64 classes.
    objects, classes
        (G, 4) boxes and (G,) int64 classes of the objects, without crowd regions.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 4]])
    >>> matches = match(boxes, torch.tensor([1.0, 3, 2]), torch.tensor([1, 1, 2]), boxes[:1], torch.tensor([1]))
    >>> matches.logits, matches.ious
    (array([3., 2., 1.]), array([0.75,  nan,  nan]))
    """
    boxes, logits, objects = boxes.detach(), logits.detach(), objects.detach()
    order = logits.argsort(descending=True, stable=True)
    boxes, logits, labels = boxes[order].double(), logits[order].double(), labels[order]
    overlaps = (box_overlap(boxes[:, None], objects.double()).iou * (labels[:, None] == classes)).cpu().numpy()
    ious = np.full(len(boxes), np.nan)
    for row, own in enumerate(overlaps):
        if own.max(initial=0) >= MATCH_IOU:
            ious[row] = own.max()
            overlaps[row + 1 :, own.argmax()] = 0
    return Matches(logits.cpu().numpy(), labels.cpu().numpy(), ious, classes.cpu().numpy())


def logits_of(scores: Tensor, power: int = 1) -> Tensor:
    """Return the (D,) float64 logits of ``scores ** power``, for frameworks whose detections have scores alone.

    In float32 a score is 1 from a logit of 17 on. Such scores get the logit of the next lower number, 16.6.

    Raises
    ------
    InputError
        When all scores of an image are 1, or all are 0: their order is lost.

    Examples
    --------
    >>> logits_of(torch.tensor([-60.0, 3, 16, 40]).sigmoid())
    tensor([-60.0000,   3.0000,  15.9424,  16.6355], dtype=torch.float64)
    """
    exact = scores.detach().double() ** power
    low, high = float(torch.finfo(torch.float32).tiny), 1 - 2.0**-24
    if len(exact) > 1 and bool((exact >= high).all() | (exact <= low).all()):
        raise InputError(
            "all scores of an image have rounded to 0 or 1, and their order is lost: add a number to the bias of the "
            "classifier that brings its logits near 0"
        )
    return exact.clamp(low, high).logit()


def find_calibration(matches: Iterable[Matches], threshold: float, tolerance: float = 0.005) -> Calibration:
    r"""Find the scale a and the shift b of the logits that make a threshold of the scores fit.

    Two cuts through the detections of all classes get scores of their own. :math:`s_k` is the highest cut that keeps
    AP50 up to the tolerance, and :math:`s_o` the one of the least LRP error.

    .. math:: a s_k + b = \mathrm{logit}(t), \qquad a s_o + b = \mathrm{logit}\left(\frac{1 + t}{2}\right)

    The threshold t then drops what AP50 does not need, and the score halfway between t and 1 what is more often wrong
    than right. LRP is that of :func:`rankdet.metrics.optimal_lrp`. Where AP50 needs nothing below :math:`s_o`, this is
    the cut that gets t. Where the highest logit would exceed 10, a is smaller, and so is the score of :math:`s_o`.

    Parameters
    ----------
    matches
        Of each image, or of all.
    threshold
        t in (0, 1), the default threshold of the framework.
    tolerance
        AP50 that detections below the threshold may be worth.

    Raises
    ------
    InputError
        When no detection hits an object, or t is not between 0 and 1.

    Examples
    --------
    Two good detections above two bad ones, and another good one, by logits that any threshold would keep:

    >>> hits = np.array([0.9, 0.8, np.nan, np.nan, 0.7])
    >>> matches = Matches(np.array([9.0, 8.5, 8, 7.5, 7]), np.zeros(5, int), hits, np.zeros(3, int))
    >>> found = find_calibration([matches], threshold=0.05)
    >>> scores = 1 / (1 + np.exp(-found.scale * matches.logits - found.shift))
    >>> scores.round(2), round(found.best_threshold, 3)
    (array([0.84, 0.65, 0.4 , 0.19, 0.08]), 0.525)
    """
    if not 0 < threshold < 1:
        raise InputError(f"a threshold must be between 0 and 1, not {threshold}")
    empty = np.zeros(0)
    nothing = Matches(empty, empty.astype(np.int64), empty, empty.astype(np.int64))
    everything = Matches(*(np.concatenate(each) for each in zip(nothing, *matches, strict=True)))
    best = optimal_lrp(everything.logits, everything.ious, len(everything.objects)).threshold
    if not math.isfinite(best):
        raise InputError(
            "no detection hits an object of its class: nothing can be calibrated before a model has learned"
        )
    cuts = np.unique(everything.logits)
    whole = _ap50(everything, cuts[0])
    low, high = 0, len(cuts) - 1
    while low < high:  # AP never rises with the cut
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _ap50(everything, cuts[middle]) >= whole - tolerance else (low, middle - 1)
    best_cut = _between(cuts, int(np.searchsorted(cuts, best)))
    kept_cut = min(_between(cuts, low), best_cut)
    lowest = _logit(threshold)
    scale = (max(HIGHEST, lowest + 1) - lowest) / (float(cuts[-1]) - kept_cut)
    if kept_cut < best_cut:
        scale = min(scale, (_logit((1 + threshold) / 2) - lowest) / (best_cut - kept_cut))
    shift = lowest - scale * kept_cut
    best_threshold = 1 / (1 + math.exp(-scale * best_cut - shift))
    return Calibration(scale, shift, threshold, best_threshold, whole, _ap50(everything, kept_cut))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode within the context, and in its own mode after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def rescale(weight: Tensor, bias: Tensor, calibration: Calibration, is_class: Tensor | None = None) -> None:
    """Make a classifier return scale · s + shift in place of its logits s.

    Parameters
    ----------
    weight, bias
        (O, …) and (O,), of the last layer of the classifier.
    is_class
        (O,) bool: which outputs are logits of classes. The others, of a background, are scaled alone.

    Examples
    --------
    >>> layer, features = torch.nn.Linear(4, 3), torch.rand(4)
    >>> before = layer(features)
    >>> rescale(layer.weight, layer.bias, Calibration(2.0, -1.0, 0.05, 0.525, 0.9, 0.9))
    >>> torch.allclose(layer(features), 2 * before - 1)
    True
    """
    weight.mul_(calibration.scale)
    bias.mul_(calibration.scale)
    bias.add_(calibration.shift if is_class is None else calibration.shift * is_class)


def _ap50(matches: Matches, cut: float) -> float:
    """AP at IoU 0.5 of the detections from ``cut`` on, the mean over the classes that have objects."""
    values = []
    for label, number in zip(*np.unique(matches.objects, return_counts=True), strict=True):
        own = (matches.labels == label) & (matches.logits >= cut)
        order = np.argsort(-matches.logits[own], kind="stable")
        true = np.cumsum(~np.isnan(matches.ious[own][order]))
        precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
        places = np.searchsorted(true / number, RECALLS)
        values.append(np.append(precision, 0.0)[places].mean())
    return float(np.mean(values))


def _between(cuts: NDArray[np.float64], place: int) -> float:
    """A cut that keeps the logits from ``place`` on, halfway to the next one below."""
    if place:
        return float(cuts[place] + cuts[place - 1]) / 2
    gap = float(cuts[-1] - cuts[0]) / (len(cuts) - 1) if len(cuts) > 1 else 1.0
    return float(cuts[0]) - gap / 2


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
