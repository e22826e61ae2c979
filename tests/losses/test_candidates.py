"""What a loss finds among candidates before it starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rankdet.losses import find_positives
from rankdet.losses.candidates import static_rows
from rankdet.structures import Candidates, Matched


def make_candidates(labels: list[int], num_boxes: int | None = None, num_masks: int | None = None) -> Candidates:
    """Three classes; as many boxes and masks as are asked for."""
    generator = torch.Generator().manual_seed(0)
    boxes = None
    if num_boxes is not None:
        corner = torch.rand(2, num_boxes, 2, generator=generator)
        boxes = Matched(*(torch.cat([part, part + 1], dim=1) for part in corner))
    masks = None
    if num_masks is not None:
        logits = torch.randn(num_masks, 5, 4, generator=generator)
        masks = Matched(logits, torch.rand(num_masks, 5, 4, generator=generator) > 0.5)
    logits = torch.randn(len(labels), 3, generator=generator)
    return Candidates("head", logits, torch.tensor(labels, dtype=torch.int64), 3, boxes=boxes, masks=masks)


def test_positives_are_the_candidates_with_a_class() -> None:
    candidates = make_candidates([3, 0, -1, 2, 3, 2], num_boxes=3, num_masks=3)
    positives = find_positives(candidates)
    assert positives.rows.tolist() == [1, 3, 5]
    assert torch.equal(positives.logits, candidates.logits[[1, 3, 5]])
    assert positives.overlap is not None
    assert positives.overlap.iou.shape == (3,)
    assert positives.dice is not None
    assert positives.dice.shape == (3,)


def test_what_a_head_does_not_hand_is_none() -> None:
    positives = find_positives(make_candidates([3, 0]))
    assert positives.rows.tolist() == [1]
    assert positives.overlap is None
    assert positives.dice is None


@pytest.mark.parametrize("labels", [[], [3, -1, 3], [-1]])
def test_no_positives_are_no_error(labels: list[int]) -> None:
    positives = find_positives(make_candidates(labels, num_boxes=0, num_masks=0))
    assert positives.rows.shape == (0,)
    assert positives.logits.shape == (0, 3)


@pytest.mark.parametrize(("num_boxes", "num_masks", "field"), [(1, None, "boxes"), (None, 3, "masks"), (2, 1, "masks")])
def test_pairs_that_are_not_one_per_positive_are_refused(
    num_boxes: int | None, num_masks: int | None, field: str
) -> None:
    with pytest.raises(ValueError, match=f"head 'head': 2 positives but . pairs of {field}"):
        find_positives(make_candidates([3, 0, 1], num_boxes, num_masks))


def test_masks_of_a_part_of_the_positives_are_no_error() -> None:
    candidates = make_candidates([0, 1, 2], num_masks=1)
    assert candidates.masks is not None
    some = Candidates(
        "head", candidates.logits, candidates.labels, 3, masks=candidates.masks._replace(rows=torch.tensor([2]))
    )
    positives = find_positives(some)
    assert positives.rows.tolist() == [0, 1, 2]
    assert positives.dice is not None
    assert positives.dice.shape == (1,)


@pytest.mark.parametrize("labels", [[3, 0, -1, 2], [0], [], [3, 3], [1, 1, 1]])
def test_rows_found_without_waiting_are_those_found_by_counting(labels: list[int]) -> None:
    candidates = make_candidates(labels)
    expected = find_positives(candidates).rows
    rows, is_wrong = static_rows(candidates, len(expected))
    assert torch.equal(rows, expected)
    assert not is_wrong


@pytest.mark.parametrize("num_positives", [0, 1, 3, 9])
def test_a_wrong_number_of_positives_is_noticed_without_waiting(num_positives: int) -> None:
    rows, is_wrong = static_rows(make_candidates([3, 0, -1, 2]), num_positives)
    assert is_wrong
    assert rows.shape == (num_positives,)
    assert ((rows >= 0) & (rows < 4)).all()


@pytest.mark.parametrize("labels", [[3, 0, -1, 2], [0], [], [3, 3], [1, 1, 1]])
def test_rows_of_a_head_that_knows_them_are_those_found_by_counting(labels: list[int]) -> None:
    candidates = make_candidates(labels)
    expected = find_positives(candidates).rows
    found = find_positives(replace(candidates, rows=expected))
    assert torch.equal(found.rows, expected)
    assert torch.equal(found.logits, candidates.logits[expected])


@pytest.mark.parametrize("rows", [[1], [1, 2], [3, 1], [1, 1], [1, 3, 3], [1, 4], [-1, 3], []])
def test_rows_that_are_not_those_of_the_positives_are_refused(rows: list[int]) -> None:
    wrong = replace(make_candidates([3, 0, -1, 2]), rows=torch.tensor(rows, dtype=torch.int64))
    with pytest.raises(ValueError, match="head 'head': rows are not those of the positives"):
        find_positives(wrong)


@pytest.mark.parametrize("rows", [torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)])
def test_rows_are_int64_numbers_of_candidates(rows: Tensor) -> None:
    with pytest.raises(ValueError, match="head 'head': rows"):
        replace(make_candidates([0, 1]), rows=rows)


@pytest.mark.parametrize("centerness", [torch.rand(3), torch.rand(2, 1), torch.rand(())])
def test_centerness_is_one_number_per_positive(centerness: Tensor) -> None:
    candidates = make_candidates([0, 1, 3], num_boxes=2)
    with pytest.raises(ValueError, match="'head': centerness"):
        Candidates("head", candidates.logits, candidates.labels, 3, boxes=candidates.boxes, centerness=centerness)
    Candidates("head", candidates.logits, candidates.labels, 3, boxes=candidates.boxes, centerness=torch.rand(2))
