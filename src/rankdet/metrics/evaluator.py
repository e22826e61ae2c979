"""Ground truth and detections as the evaluator, hotcoco, takes them.

Legend: A annotations of a data set, D detections in it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from rankdet.coco import Federation, GroundTruth, Results
from rankdet.coco.segmentations import compressed, mask_areas, to_rle

IouType = Literal["bbox", "segm"]
OUTSIDE = -1.0
"""An area outside of all ranges: what has it is neither found nor missed."""


class Comparison(NamedTuple):
    """Detections beside the objects that they are compared with.

    The cap ``max_detections`` is for each class of an image. In LVIS it is for all classes together, and results beyond
    it are left out already.

    rows
        (O,) int64, the annotations of the ground truth that count: all, or those with a mask where masks are compared.
    areas
        (O,) float64, the area that an object is measured by; `OUTSIDE` of all ranges where it is not measured by.
    is_crowd
        (O,) bool, crowd regions.
    masks
        O run-length objects where masks are compared, otherwise none.
    """

    ground_truth: GroundTruth
    results: Results
    iou_type: IouType
    max_detections: int
    rows: NDArray[np.int64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    masks: list[dict[str, Any]]

    @property
    def federation(self) -> Federation | None:
        """What LVIS has beyond COCO, and its rules then hold; None for COCO."""
        return self.ground_truth.federation

    def evaluator(self) -> COCOeval:
        """A new evaluator under the rules of COCO or LVIS."""
        objects = _objects(self)
        detections = (
            _masks(objects, self.results) if self.iou_type == "segm" else objects.load_res(_table(self.results))
        )
        return COCOeval(objects, detections, self.iou_type, lvis_style=self.federation is not None)


def compare(ground_truth: GroundTruth, results: Results, iou_type: IouType, max_detections: int) -> Comparison:
    """Choose what is compared.

    A missing area of an object is that of its box, or of its mask where masks are compared. LVIS has no crowds, and
    does not measure by what is flagged ``ignore``. Where masks are compared, the area of a detection is that of its
    mask, or, as in pycocotools, that of its box if it has one. Objects without a mask are left out then, and the mask
    of a crowd without one is its box.
    """
    truth, is_federated = ground_truth, ground_truth.federation is not None
    if is_federated:
        results = results.select(_best_of_images(results, max_detections))
    masks: list[dict[str, Any]] = []
    rows = np.arange(len(truth.labels))
    if iou_type == "segm":
        if truth.segmentations is None:
            raise ValueError(f"{truth} was read without masks")
        known = truth.sizes[truth.images].all(axis=1)
        rows = np.flatnonzero(truth.has_mask | (truth.is_crowd & known & (not is_federated)))
        masks = _codes(truth, rows)
    boxes, areas = truth.boxes[rows], truth.areas[rows]
    unknown = np.isnan(areas)
    areas[unknown] = boxes[unknown, 2] * boxes[unknown, 3]
    if iou_type == "segm":
        areas[unknown] = mask_areas([masks[row] for row in np.flatnonzero(unknown).tolist()])
    if is_federated:
        areas[truth.is_ignored[rows]] = OUTSIDE
    is_crowd = truth.is_crowd[rows] & (not is_federated)
    return Comparison(truth, results, iou_type, max_detections, rows, areas, is_crowd, masks)


def _best_of_images(results: Results, number: int) -> NDArray[np.int64]:
    """Ascending rows of each image's ``number`` best detections; of equal scores the first rows."""
    by_image = np.lexsort((-results.scores, results.image_ids))
    image_ids = results.image_ids[by_image]
    place_in_image = np.arange(len(results)) - np.searchsorted(image_ids, image_ids)
    return np.sort(by_image[place_in_image < number])


def _objects(comparison: Comparison) -> COCO:
    """The ground truth in the evaluator."""
    truth, rows = comparison.ground_truth, comparison.rows
    # The evaluator sees what it measures by, and no odd license or capture date, which it would refuse.
    images: list[dict[str, Any]] = [{"id": id_} for id_ in truth.image_ids.tolist()]
    classes: list[dict[str, Any]] = [{"id": id_, "name": name} for id_, name in truth.categories]
    if comparison.iou_type == "segm":
        for image, (height, width) in zip(images, truth.sizes.tolist(), strict=True):
            image |= {"height": height, "width": width}
    if truth.federation is not None:
        for place, image in enumerate(images):
            image |= truth.federation.lists_of(place)
        for category, frequency in zip(classes, truth.federation.frequencies.tolist(), strict=True):
            category["frequency"] = frequency
    columns = {
        "image_id": truth.image_ids[truth.images[rows]],
        "category_id": np.array(truth.category_ids, dtype=np.int64)[truth.labels[rows]],
        "bbox": truth.boxes[rows],
        "id": truth.annotation_ids[rows],
        "area": comparison.areas,
        "iscrowd": comparison.is_crowd.astype(np.int64),
    }
    if hasattr(COCO, "from_arrays"):  # from hotcoco 1.2 on
        image_ids, category_ids, boxes, ids, areas, is_crowd = columns.values()
        masks: Any = comparison.masks or None
        return COCO.from_arrays(
            images, classes, image_ids, category_ids, boxes, ids=ids, area=areas, iscrowd=is_crowd, segmentation=masks
        )
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    annotations: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in values]
    for annotation, mask in zip(annotations, comparison.masks, strict=comparison.iou_type == "segm"):
        annotation["segmentation"] = mask
    return COCO({"images": images, "categories": classes, "annotations": annotations})


def _codes(truth: GroundTruth, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The run lengths of annotations, of a crowd without a mask those of its box."""
    codes = []
    for row, segmentation in zip(rows.tolist(), truth.segmentations_of(rows), strict=True):
        if segmentation is None:
            left, top, width, height = truth.boxes[row].tolist()
            right, bottom = left + width, top + height
            segmentation = [[left, top, right, top, right, bottom, left, bottom]]
        codes.append(to_rle(segmentation, truth.size(int(truth.images[row]))))
    return codes


def _table(results: Results) -> Any:
    """(D, 7) numbers, or records where the ids are too large for numbers of 53 bits."""
    ids = np.column_stack([results.image_ids, results.category_ids])
    if ids.max(initial=0) <= 2**53:
        return np.column_stack([results.image_ids, results.known_boxes, results.scores, results.category_ids])
    return Results(results.image_ids, results.category_ids, results.scores, results.boxes).records()


def _masks(objects: COCO, results: Results) -> COCO:
    """Detections of masks in the evaluator, where one without a box is measured by its pixels."""
    masks: Any = results.known_masks
    boxed = results if results.boxes is not None else replace(results, boxes=np.zeros((len(results), 4)))
    table = _table(boxed)
    if not hasattr(COCO, "from_arrays") or isinstance(table, list):  # before hotcoco 1.2
        # hotcoco 1.0 does not know the area of a mask whose counts are a list.
        records = [row | {"segmentation": compressed(row["segmentation"])} for row in results.records()]
        return objects.load_res(records)
    detections = objects.load_res(table, segmentation=masks)
    if results.boxes is None:
        areas = mask_areas(masks) if results.pixels is None else results.pixels
        detections.update_anns(ids=np.arange(1, len(results) + 1), area=areas.astype(np.float64))
    return detections
