"""Rank & Sort Loss in Roboflow's rfdetr 1.11.

    with rank_sort():
        model.train(dataset_dir=folder)

The criterion of RF-DETR is built at the start of a training, and no argument names another one. :func:`rank_sort` puts
one that ranks in its place for as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rfdetr import RFDETR
from rfdetr.models import lwdetr
from rfdetr.models.criterion import SetCriterion
from torch import Tensor

from rankdet.adapters.calibration import Calibration, find_calibration, logits_of, match, rescale
from rankdet.adapters.detr import Boxes, Indices, RankSort, RankSortLabels, Targets
from rankdet.losses import Sync


class RankSortCriterion(RankSortLabels, SetCriterion):
    """The criterion of rfdetr, whose classification is Rank & Sort Loss.

    Arguments are those of ``rfdetr.models.criterion.SetCriterion``. Which of its classification losses they choose has
    no effect.

    Raises
    ------
    ValueError
        When keypoints are to be learned. Their training divides all terms by a number of objects afterwards, by which
        the terms of a ranking loss are divided already.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "keypoints" in self.losses:
            raise ValueError(
                "rank_sort: a training of keypoints divides all terms by the number of objects, a ranking loss too: "
                "train detection or segmentation"
            )

    def positives(self, targets: Targets, indices: Indices) -> Indices:
        """Return the pairs whose object is none of those that fill the targets of an image up to a fixed number."""
        if not targets or "valid" not in targets[0]:
            return indices
        # Matchers leave their pairs in the memory of the host.
        valid = [
            target["valid"].bool().to(objects.device) for target, (_, objects) in zip(targets, indices, strict=True)
        ]
        kept = [mask[objects] for mask, (_, objects) in zip(valid, indices, strict=True)]
        return [(queries[keep], objects[keep]) for keep, (queries, objects) in zip(kept, indices, strict=True)]


@contextmanager
def rank_sort(
    delta: float = 0.5, boxes: Boxes = "theirs", sync: Sync = False, *, weight: float = 1.0
) -> Iterator[None]:
    """Let trainings of rfdetr that begin in this context learn their classes by Rank & Sort Loss.

    Models of boxes and of masks, of any size, new or with weights. Matching, boxes, masks, auxiliary layers and groups
    of queries stay those of rfdetr, checkpoints too. The log has ``train/ranking`` and ``train/sorting`` of each layer.

    Parameters
    ----------
    delta, boxes, sync, weight
        See :class:`rankdet.adapters.detr.RankSort`.

    Raises
    ------
    ValueError
        When a number is out of range, or, at the start of a training, when it is one of keypoints.
    RuntimeError
        At the end, when no training has begun in the context, which would have had the loss of rfdetr elsewhere.

    Notes
    -----
    Weights know no loss: a training that goes on from a checkpoint needs the context again.

    Examples
    --------
    >>> with rank_sort():
    ...     pass
    Traceback (most recent call last):
    RuntimeError: no training of rfdetr began inside of rank_sort(): model.train(...) belongs there
    """
    settings = RankSort(delta, weight, boxes, sync)
    made: list[RankSortCriterion] = []

    def criterion(*args: Any, **kwargs: Any) -> RankSortCriterion:
        made.append(RankSortCriterion(*args, **kwargs))
        made[-1].rank_sort = settings
        return made[-1]

    theirs, lwdetr.SetCriterion = lwdetr.SetCriterion, criterion
    try:
        yield
    finally:
        lwdetr.SetCriterion = theirs
    if not made:
        raise RuntimeError("no training of rfdetr began inside of rank_sort(): model.train(...) belongs there")


def calibrate(
    model: RFDETR,
    validation: Iterable[tuple[Any, Tensor, Tensor]],
    threshold: float = 0.5,
    tolerance: float = 0.005,
) -> Calibration:
    """Store a scale and a shift of the logits in the classifier, so that a threshold fits: :func:`find_calibration`.

    The classifier of the decoder changes. Those of the encoder, which choose queries by their order, stay. So does the
    order of the detections.

    Parameters
    ----------
    model
        A model that has learned inside of :func:`rank_sort`, before ``inference`` optimizes it.
    validation
        Of each image what ``model.predict`` takes for one, the (G, 4) boxes (x1, y1, x2, y2) of its objects in pixels,
        and their (G,) int64 classes, as ``predict`` counts them.
    threshold
        The threshold of ``predict``.
    tolerance
        AP50 that the detections below the threshold may be worth.

    Raises
    ------
    InputError
        When no detection hits an object, the threshold is not between 0 and 1, or scores have lost their order.
    """
    matches = []
    for image, boxes, classes in validation:
        found = model.predict(image, threshold=0.0, include_source_image=False)
        logits = logits_of(torch.from_numpy(found.confidence))
        labels = torch.from_numpy(found.class_id).long()
        matches.append(match(torch.from_numpy(found.xyxy), logits, labels, boxes.cpu(), classes.cpu()))
    calibration = find_calibration(matches, threshold, tolerance)
    layer = model.model.model.class_embed
    rescale(layer.weight, layer.bias, calibration)
    return calibration
