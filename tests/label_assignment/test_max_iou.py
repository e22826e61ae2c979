"""Labels by overlap against a plain transcription of the rules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from rankdet.label_assignment import MaxIoUAssigner, max_iou
from rankdet.structures import Target

NUM_CLASSES = 4
ASSIGNERS = {
    "rpn": MaxIoUAssigner(0.7, 0.3, low_quality_iou=0.3),
    "rcnn": MaxIoUAssigner(0.5, 0.5),
    "mask rcnn": MaxIoUAssigner(0.5, 0.5, low_quality_iou=0.5),
    "first tie only": MaxIoUAssigner(0.5, 0.4, low_quality_iou=0.0, claim_ties=False),
    "any best": MaxIoUAssigner(0.1, 0.1, low_quality_iou=0.0),
}


def assign_plainly(assigner: MaxIoUAssigner, boxes: Tensor, target: Target) -> tuple[list[int], list[int]]:
    """The four steps, one candidate and one object at a time."""
    labels, matched = [-1] * len(boxes), [0] * len(boxes)
    if not len(target.boxes):
        return [NUM_CLASSES] * len(boxes), matched
    iou = box_iou(boxes, target.boxes).tolist()
    classes = target.labels.tolist()
    for row, of_row in enumerate(iou):
        best = max(of_row)
        if best < assigner.negative_iou:
            labels[row] = NUM_CLASSES
        if best >= assigner.positive_iou:
            matched[row] = of_row.index(best)
            labels[row] = classes[matched[row]]
    if assigner.low_quality_iou is not None:
        for index, label in enumerate(classes):
            of_object = [of_row[index] for of_row in iou]
            best = max(of_object)
            if best < assigner.low_quality_iou:
                continue
            tied = [row for row, value in enumerate(of_object) if value == best]
            for row in tied if assigner.claim_ties else tied[:1]:
                labels[row], matched[row] = label, index
    return labels, matched


def make_scene(kind: str, seed: int) -> tuple[Tensor, Target]:
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers make ties likely.
    corners = torch.randint(-8, 40, (60, 2), generator=generator).float()
    boxes = torch.cat([corners, corners + torch.randint(1, 24, (60, 2), generator=generator)], dim=1)
    count = {"crowded": 30, "tiny": 5, "outside": 4, "none": 0}[kind]
    corners = torch.randint(0, 32, (count, 2), generator=generator).float()
    sides = torch.randint(1, 3 if kind == "tiny" else 24, (count, 2), generator=generator)
    objects = torch.cat([corners, corners + sides], dim=1)
    if kind == "outside":
        objects[::2] += 500
    if kind == "crowded":
        objects[5], objects[6] = boxes[0], boxes[0]
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
    return boxes, Target(objects, labels)


@pytest.mark.parametrize("pairs", [2**25, 100], ids=["at once", "in chunks"])
@pytest.mark.parametrize("kind", ["crowded", "tiny", "outside", "none"])
@pytest.mark.parametrize("name", ASSIGNERS)
def test_assignment_equals_a_plain_transcription_of_the_rules(
    name: str, kind: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(max_iou, "MAX_PAIRS", pairs)
    for seed in range(5):
        boxes, target = make_scene(kind, seed)
        labels, matched = ASSIGNERS[name](boxes, target, NUM_CLASSES)
        assert (labels.tolist(), matched.tolist()) == assign_plainly(ASSIGNERS[name], boxes, target)


def test_without_candidates_there_are_no_labels() -> None:
    target = Target(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([0]))
    labels, matched = ASSIGNERS["rpn"](torch.zeros(0, 4), target, NUM_CLASSES)
    assert labels.shape == matched.shape == (0,)


def test_the_last_of_two_equal_objects_claims_their_best_anchor() -> None:
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    target = Target(box.repeat(2, 1), torch.tensor([1, 3]))
    assert ASSIGNERS["rpn"](box, target, NUM_CLASSES).labels.tolist() == [3]
    assert ASSIGNERS["rcnn"](box, target, NUM_CLASSES).labels.tolist() == [1]


def test_without_the_low_quality_step_nothing_is_claimed_and_with_it_only_from_its_iou_on() -> None:
    target = Target(torch.tensor([[0.0, 0.0, 10.0, 10.0], [90.0, 90.0, 95.0, 95.0]]), torch.tensor([1, 2]))
    boxes = torch.tensor([[0.0, 0.0, 10.0, 25.0], [50.0, 50.0, 60.0, 60.0]])  # IoU 0.4 with the first, and nothing
    assert MaxIoUAssigner(0.7, 0.5)(boxes, target, 3).labels.tolist() == [3, 3]
    assert MaxIoUAssigner(0.7, 0.5, low_quality_iou=0.3)(boxes, target, 3).labels.tolist() == [1, 3]
