"""A detector over a data set: detections in the files' own coordinates and ids, their AP and oLRP, ranking quality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from rankdet.data import CocoDataset, build_test_loader
from rankdet.losses import box_overlap, dice_coefficient
from rankdet.metrics import encode_masks, evaluate, spearman_correlation
from rankdet.recipes import Recipe
from rankdet.runs.processes import World
from rankdet.structures import Batch, Candidates, Detection, Images, Source


class Detector(Protocol):
    """What evaluation asks of a detector."""

    training: bool

    def __call__(self, batch: Batch) -> list[Candidates]:
        """What each head hands to its loss."""
        ...

    def train(self, mode: bool = True) -> object:
        """As of any module."""
        ...

    def detect(self, images: Images) -> list[Detection]:
        """Detections of each image in its own pixels."""
        ...


class Evaluation(NamedTuple):
    """Numbers of `rankdet.metrics.evaluate` and the COCO results they belong to.

    From a detector that finds masks, those of the masks stand under ``masks`` among those of the boxes.
    """

    metrics: dict[str, Any]
    detections: list[dict[str, Any]]


def prepare(images: Images, recipe: Recipe, device: torch.device) -> Images:
    """Images on the device, in the memory layout of the recipe."""
    moved = images.to(device)
    if recipe.runtime.channels_last:
        return Images(moved.pixels.contiguous(memory_format=torch.channels_last), moved.sizes)
    return moved


def precision_context(recipe: Recipe, device: torch.device) -> torch.autocast | nullcontext[None]:
    """Autocast where the recipe asks for it. The losses leave it again by themselves."""
    if recipe.runtime.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def detect_batch(detector: Detector, batch: Batch, recipe: Recipe, device: torch.device) -> list[Detection]:
    """Detections of each image, in pixels of its file, on the CPU."""
    with precision_context(recipe, device):
        detections = detector.detect(prepare(batch.images, recipe, device))
    return [
        on_cpu(detection).scaled(size, source.size)
        for detection, size, source in zip(detections, batch.images.sizes, batch.sources, strict=True)
    ]


def on_cpu(detection: Detection) -> Detection:
    """The same detections in host memory, float32."""
    return Detection(
        detection.boxes.float().cpu(),
        detection.scores.float().cpu(),
        detection.labels.cpu(),
        None if detection.masks is None else detection.masks.to("cpu"),
    )


def coco_results(source: Source, detection: Detection, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """One COCO record per detection, in pixels of ``source``; with a run-length mask where there are masks.

    Examples
    --------
    >>> found = Detection(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.5]), torch.tensor([1]))
    >>> coco_results(Source(7, "a.jpg", (10, 10)), found, [3, 9])
    [{'image_id': 7, 'category_id': 9, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}]
    """
    boxes = detection.boxes.clone()
    boxes[:, 2:] -= boxes[:, :2]
    records: list[dict[str, Any]] = [
        {"image_id": source.image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(boxes.tolist(), detection.scores.tolist(), detection.labels.tolist(), strict=True)
    ]
    if detection.masks is not None:
        for record, code in zip(records, encode_masks(detection.masks, source.size), strict=True):
            record["segmentation"] = code
    return records


def evaluate_detector(detector: Detector, dataset: CocoDataset, recipe: Recipe, world: World) -> Evaluation | None:
    """Detect in all images and measure; every process takes its share, and only the main one gets an answer.

    Raises
    ------
    InputError
        When an image cannot be read by any process. No process is left waiting.
    """
    was_training = detector.training
    detector.train(False)
    loader = build_test_loader(
        dataset,
        batch_size=recipe.evaluation.batch_size,
        workers=recipe.data.workers,
        rank=world.rank,
        world_size=world.size,
    )
    own: list[dict[str, Any]] = []
    with world.together():
        for batch in loader:
            detections = detect_batch(detector, batch, recipe, world.device)
            for source, detection in zip(batch.sources, detections, strict=True):
                own += coco_results(source, detection, dataset.category_ids)
    detector.train(was_training)
    gathered = world.gather(own)
    if not world.is_main:
        return None
    found = sorted((record for part in gathered for record in part), key=lambda record: record["image_id"])
    limit = recipe.detector.testing.per_image
    metrics = evaluate(dataset.ground_truth, found, max_detections=limit)
    if recipe.detector.has_masks:
        # Without boxes, for the evaluator would take the sizes of the detections from these.
        masks = [{name: value for name, value in record.items() if name != "bbox"} for record in found]
        metrics = metrics | {"masks": evaluate(dataset.ground_truth, masks, "segm", max_detections=limit)}
    return Evaluation(metrics, found)


def optimal_thresholds(metrics: dict[str, Any]) -> list[float]:
    """The LRP-optimal score threshold of each class, by label, from `rankdet.metrics.evaluate`."""
    return [numbers["threshold"] for numbers in metrics["per_class"].values()]


def rank_qualities(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Scores and localization qualities of the positives of one head.

    Parameters
    ----------
    candidates
        A head's output with P positives and decoded boxes, or masks where it has no boxes.

    Returns
    -------
    tuple
        (P,) score of the class of the matched object and (P,) IoU of the decoded box with it, or Dice coefficient of
        the mask, once for each mask where a positive has several.
    """
    pairs = candidates.masks if candidates.boxes is None else candidates.boxes
    if pairs is None:
        raise ValueError(f"head {candidates.head!r} has neither boxes nor masks")
    rows = candidates.is_positive if candidates.rows is None else candidates.rows
    labels, logits = candidates.labels[rows], candidates.logits[rows].float()
    if pairs.rows is not None:
        labels, logits = labels[pairs.rows], logits[pairs.rows]
    # One logit more than classes: softmax with the background last.
    scores = logits.softmax(1) if logits.shape[1] > candidates.num_classes else logits.sigmoid()
    if candidates.boxes is None:
        quality = dice_coefficient(pairs.predicted, pairs.target)
    else:
        quality = box_overlap(pairs.predicted, pairs.target).iou
    return scores.gather(1, labels[:, None])[:, 0], quality


@torch.no_grad()
def ranking_quality(
    detector: Detector,
    losses: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    recipe: Recipe,
    device: torch.device,
    head: str = "rcnn",
) -> dict[str, float]:
    """How well a head's scores order its positives, and how many negatives they stand against.

    Returns
    -------
    dict
        ``spearman`` (rank correlation of localization quality and score over all positives of all batches),
        ``positives`` and ``negatives`` (means per batch of what the loss of the head sees).

    Notes
    -----
    The positives are those of training, so appended objects are among the RoIs.
    """
    scores, ious, positives, negatives = [], [], 0.0, 0.0
    num_batches = 0
    for batch in batches:
        moved = batch.to(device)
        with precision_context(recipe, device):
            heads = {candidates.head: candidates for candidates in detector(moved)}
        stats = losses[head](heads[head]).stats
        score, iou = rank_qualities(heads[head])
        scores.append(score.cpu())
        ious.append(iou.cpu())
        positives, negatives = positives + float(stats["positives"]), negatives + float(stats["negatives"])
        num_batches += 1
    return {
        "spearman": spearman_correlation(torch.cat(ious), torch.cat(scores)),
        "positives": positives / num_batches,
        "negatives": negatives / num_batches,
    }
