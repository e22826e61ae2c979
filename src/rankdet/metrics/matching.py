"""Which object each detection finds: the greedy matching of COCO and LVIS, all images and classes at once.

Legend: D detections, O objects (crowd regions among them), P pairs of both, C classes. A cell is an image and a class,
as one number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.lvis import NEGATIVE, NOT_EXHAUSTIVE
from rankdet.metrics.evaluator import Comparison
from rankdet.metrics.lrp import MATCH_IOU
from rankdet.metrics.overlap import LARGEST_AREA, BoxOverlap, MaskOverlap, Overlap

MOST_PAIRS = 2**18
"""Pairs whose overlap is computed at a time."""
LARGEST_TABLE = 2**20
"""Ids below are looked up in a table."""
NUM_COUNTS = 2**20
"""Counts of detections, each for all cells whose numbers have the same remainder."""


class ClassMatches(NamedTuple):
    """The true and the false positives of one class, as `rankdet.metrics.lrp.optimal_lrp` takes them.

    Detections that are neither are left out. The best score is first; of equal scores that in the image of the lowest
    id, and of these the first in the results.

    scores
        (D,)
    ious
        (D,) IoU of a true positive with its object, NaN for a false positive.
    ground_truths
        Objects of the class, crowd regions not counted.
    """

    scores: NDArray[np.float64]
    ious: NDArray[np.float64]
    ground_truths: int

    def above(self, threshold: float) -> ClassMatches:
        """The detections whose score reaches a threshold, none where it is NaN; their matches do not change by that."""
        kept = self.scores >= threshold
        return ClassMatches(self.scores[kept], self.ious[kept], self.ground_truths)


class Matches(NamedTuple):
    """The true and the false positives of all classes, M of them; the best score is first, as in `ClassMatches`.

    Detections that are neither are left out.

    rows
        (M,) int64, rows of the results of the comparison.
    labels
        (M,) int64, the class of each.
    ious
        (M,) IoU of a true positive with its object, NaN for a false positive.
    objects
        (M,) int64, the object of a true positive as a place in the ``rows`` of the comparison, −1 for a false positive.
    object_labels
        (O,) int64, the class of each object.
    is_object
        (O,) bool, whether it is to be found: no crowd region, and of a size that is measured.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    ious: NDArray[np.float64]
    objects: NDArray[np.int64]
    object_labels: NDArray[np.int64]
    is_object: NDArray[np.bool_]


def match_classes(comparison: Comparison, iou: float = MATCH_IOU) -> list[ClassMatches]:
    """Match detections with objects: the matches of each class, by label. See `match`."""
    return by_class(comparison, match(comparison, iou))


def by_class(comparison: Comparison, matches: Matches) -> list[ClassMatches]:
    """The matches of each class, by label."""
    classes = len(comparison.ground_truth.categories)
    order = _stable_order(matches.labels)
    ends = np.cumsum(np.bincount(matches.labels, minlength=classes))[:-1]
    numbers = np.bincount(matches.object_labels[matches.is_object], minlength=classes).tolist()
    columns = (comparison.results.scores[matches.rows[order]], matches.ious[order])
    split = (np.split(column, ends) for column in columns)
    return [ClassMatches(*parts) for parts in zip(*split, numbers, strict=True)] if classes else []


def match(comparison: Comparison, iou: float = MATCH_IOU) -> Matches:
    """Match detections with objects by the rules of COCO or LVIS, from an IoU above 0 on.

    In each cell the better score chooses first. As in COCO's AP, a detection matched with a crowd region is neither a
    true nor a false positive, and a crowd region is no object. As in LVIS's AP, two others are neither: detections of a
    class that was not looked for in the image, and those without a match where the objects of the class are not all
    annotated.
    """
    truth, results, overlap = comparison.ground_truth, comparison.results, overlap_of(comparison)
    if not truth.category_ids:
        nothing = np.zeros(0, dtype=np.int64)
        return Matches(nothing, nothing, np.zeros(0), nothing, nothing, np.zeros(0, dtype=bool))
    # The evaluator numbers images by ascending id; ties follow it.
    image_ids, category_ids = np.sort(truth.image_ids), np.array(truth.category_ids, dtype=np.int64)
    images, has_image = _places(image_ids, results.image_ids)
    by_id = np.argsort(category_ids)
    places, has_class = _places(category_ids[by_id], results.category_ids)
    labels = by_id[places]
    cells = images * len(by_id) + labels

    object_images, _ = _places(image_ids, truth.image_ids[truth.images[comparison.rows]])
    object_labels = truth.labels[comparison.rows]
    object_cells = object_images * len(by_id) + object_labels
    is_ignored = comparison.is_crowd | ~_is_measured(comparison.areas)

    rows = best_first(results.scores, images)
    rows = rows[(has_image & has_class)[rows]]
    rows = rows[_within(cells[rows], comparison.max_detections)]
    counts = np.ones(len(rows), dtype=bool)  # as a false positive, where there is no match
    if truth.federation is not None:
        negative, not_exhaustive = _listed_cells(comparison, image_ids)
        rows = rows[np.isin(cells[rows], np.concatenate([object_cells, negative]))]
        counts = ~np.isin(cells[rows], not_exhaustive)
    counts &= _is_measured(overlap.areas[rows])

    detections, objects, ious = _fitting_pairs(overlap, rows, cells, object_cells, iou)
    chosen = choose(detections, objects, ious, is_ignored, comparison.is_crowd)
    found, owned = np.full(len(rows), np.nan), np.full(len(rows), -1)
    found[detections[chosen]], owned[detections[chosen]] = ious[chosen], objects[chosen]
    counts[detections[chosen]] = ~is_ignored[objects[chosen]]
    kept = np.flatnonzero(counts)
    return Matches(rows[kept], labels[rows[kept]], found[kept], owned[kept], object_labels, ~is_ignored)


def choose(
    detections: NDArray[np.int64],
    objects: NDArray[np.int64],
    ious: NDArray[np.float64],
    is_ignored: NDArray[np.bool_],
    is_shared: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Let detections choose objects one after the other, each the best that is still free.

    The best is an object that is not ignored; of these the one with the largest IoU, and of equal IoUs the last.

    Parameters
    ----------
    detections, objects
        (P,) the pairs that fit. Detections are ascending, in the order in which they choose.
    ious
        (P,) overlap of each pair.
    is_ignored, is_shared
        (O,) whether an object is a second choice, and whether any number of detections may have it.

    Returns
    -------
    NDArray[np.int64]
        Places of the chosen pairs, one for each detection that got an object.

    Notes
    -----
    All choose at once, and each object keeps the first of those that want it; the others go on to their next best.
    This deferred acceptance (Gale, Shapley, "College Admissions and the Stability of Marriage", 1962) ends in the one
    stable assignment, which is that of choosing in turn, because all objects prefer the same detections.

    Examples
    --------
    Both detections prefer object 1, which the first gets.

    >>> pairs = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    >>> choose(*pairs, np.array([0.6, 0.8, 0.5, 0.9]), np.zeros(2, dtype=bool), np.zeros(2, dtype=bool))
    array([1, 2])
    """
    # The wishes of each detection one after the other, the best first.
    wishes = np.lexsort((-objects, -ious, is_ignored[objects], detections))
    wanted = objects[wishes]
    starts = np.flatnonzero(np.diff(detections, prepend=-1))
    ends = np.append(starts[1:], len(detections))
    owner = np.full(len(is_ignored), len(starts))
    at, asking = starts.copy(), np.arange(len(starts))
    while len(asking):
        alone = asking[~is_shared[wanted[at[asking]]]]
        asked = wanted[at[alone]]
        before = owner[asked]
        np.minimum.at(owner, asked, alone)
        refused = alone[owner[asked] != alone]
        displaced = np.unique(before[(before < len(starts)) & (before != owner[asked])])
        asking = np.concatenate([refused, displaced])
        at[asking] += 1
        asking = asking[at[asking] < ends[asking]]
    return wishes[at[at < ends]]


def overlap_of(comparison: Comparison) -> Overlap:
    """What detections share with objects: boxes or masks, whichever are compared."""
    truth, results = comparison.ground_truth, comparison.results
    if comparison.iou_type == "segm":
        return MaskOverlap(results.known_masks, comparison.masks, comparison.is_crowd, results.boxes, results.pixels)
    return BoxOverlap(results.known_boxes, truth.boxes[comparison.rows], comparison.is_crowd)


def _places(known: NDArray[np.int64], ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The place of each id among the known ones, which are ascending, and whether it is one of them."""
    if not len(known):
        return np.zeros_like(ids), np.zeros(len(ids), dtype=bool)
    largest = int(known[-1])
    if largest < LARGEST_TABLE:  # looked up in a tenth of the time
        table = np.zeros(largest + 1, dtype=np.int64)
        table[known] = np.arange(len(known))
        places = table[np.clip(ids, 0, largest)]
    else:
        places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return places, known[places] == ids


def _is_measured(areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (areas >= 0) & (areas <= LARGEST_AREA)


def best_first(scores: NDArray[np.float64], images: NDArray[np.int64]) -> NDArray[np.int64]:
    """(D,) places by descending score, of equal scores by image, of one image as they are; no score is NaN.

    Examples
    --------
    >>> best_first(np.array([0.5, -0.0, 0.5, 0.0, 2.0, -1.0]), np.array([1, 0, 0, 0, 0, 0]))
    array([4, 2, 0, 1, 3, 5])
    """
    order = _stable_order(images)
    # The bits of a float above zero are a whole number that grows with it, those of one below zero are one that falls.
    # They are sorted two bytes at a time, for NumPy counts numbers of two bytes in place of comparing them.
    bits = (scores[order] + 0.0).astype("<f8").view("<i8")  # −0 becomes 0
    keys = np.where(bits < 0, bits, bits ^ np.int64(2**63 - 1)).view("<u2").reshape(-1, 4)
    by_score = np.argsort(keys[:, 0], kind="stable")
    for key in keys.T[1:]:
        by_score = by_score[np.argsort(key[by_score], kind="stable")]
    return order[by_score]


def _within(cells: NDArray[np.int64], number: int) -> NDArray[np.bool_]:
    """Whether each entry is one of the first ``number`` of its cell."""
    is_within = np.ones(len(cells), dtype=bool)
    # Most cells have fewer, even where several are counted together.
    together = cells % NUM_COUNTS
    rows = np.flatnonzero(np.bincount(together)[together] > number)
    rows = rows[np.argsort(cells[rows], kind="stable")]
    ordered = cells[rows]
    is_within[rows] = np.arange(len(rows)) - np.searchsorted(ordered, ordered) < number
    return is_within


def _stable_order(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of whole numbers from 0 in ascending order, equal ones as they are."""
    # Those of two bytes are sorted without comparisons.
    return np.argsort(numbers.astype(np.min_scalar_type(numbers.max(initial=0))), kind="stable")


def _listed_cells(comparison: Comparison, image_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cells in which objects were looked for in vain, and cells whose objects are not all annotated."""
    truth = comparison.ground_truth
    if truth.federation is None:
        raise ValueError(f"{truth} has no lists of classes")
    labels = {id_: label for label, id_ in enumerate(truth.category_ids)}
    found: dict[str, list[int]] = {NEGATIVE: [], NOT_EXHAUSTIVE: []}
    for place, number in enumerate(np.searchsorted(image_ids, truth.image_ids).tolist()):
        for key, ids in truth.federation.lists_of(place).items():
            found[key] += [number * len(labels) + labels[id_] for id_ in ids if id_ in labels]
    return np.array(found[NEGATIVE], dtype=np.int64), np.array(found[NOT_EXHAUSTIVE], dtype=np.int64)


def _fitting_pairs(
    overlap: Overlap,
    rows: NDArray[np.int64],
    cells: NDArray[np.int64],
    object_cells: NDArray[np.int64],
    iou: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The pairs of a cell whose IoU is large enough: places in ``rows``, which ascend, objects, and their IoU."""
    by_cell = np.argsort(object_cells, kind="stable")
    occupied, starts, sizes = np.unique(object_cells[by_cell], return_index=True, return_counts=True)
    place, is_occupied = _places(occupied, cells)
    candidates = np.flatnonzero(is_occupied[rows])
    first, number = starts[place[rows[candidates]]], sizes[place[rows[candidates]]]
    ends = np.cumsum(number)
    parts = []
    for part in np.split(np.arange(len(candidates)), np.flatnonzero(np.diff(ends // MOST_PAIRS)) + 1):
        nth = np.arange(number[part].sum()) - np.repeat(np.cumsum(number[part]) - number[part], number[part])
        detections = np.repeat(candidates[part], number[part])
        objects = by_cell[np.repeat(first[part], number[part]) + nth]
        ious = overlap.ious(rows[detections], objects)
        fits = np.flatnonzero(ious >= iou)
        parts.append((detections[fits], objects[fits], ious[fits]))
    detections, objects, ious = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detections, objects, ious
