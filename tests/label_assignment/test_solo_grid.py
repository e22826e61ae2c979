"""The cells of SOLO against a plain transcription of the rules, on scenes that are hard to assign, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankdet.label_assignment import GridAssigner, GridAssignment, MaskShapes, mask_shapes

NUM_CLASSES = 4
CANVAS = (96, 128)
GRIDS = (12, 8, 5)
RANGES = ((1.0, 24.0), (12.0, 48.0), (24.0, 96.0))
KINDS = (
    "few",
    "crowded",
    "tiny",
    "of no level",
    "none",
    "empty masks",
    "lost masks",
    "twice the same",
    "at the border",
)
RULES = pytest.mark.parametrize("one_mask_per_cell", [True, False], ids=["first object", "all objects"])


def make_scene(kind: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels, boxes, masks of the canvas and small masks of one image; masks do not fill their boxes evenly."""
    generator = torch.Generator().manual_seed(seed)
    count = {"none": 0, "crowded": 30}.get(kind, 6)
    low, high = {"tiny": (0.5, 3.0), "of no level": (97.0, 120.0)}.get(kind, (3.0, 60.0))
    sides = low + (high - low) * torch.rand(count, 2, generator=generator)
    sides = torch.minimum(sides, torch.tensor([float(CANVAS[1]), float(CANVAS[0])]))
    if kind == "of no level":
        sides[:] = 97.0
        sides[:, 1] = 96.0
        sides[::2] = 0.5
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor([CANVAS[1], CANVAS[0]]) - sides)
    if kind == "at the border":
        corners[::2] = torch.tensor([CANVAS[1], CANVAS[0]]) - sides[::2]
        corners[1::2] = 0
    boxes = torch.cat([corners, corners + sides], dim=1)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    y, x = torch.arange(CANVAS[0])[:, None] + 0.5, torch.arange(CANVAS[1]) + 0.5
    left, top, right, bottom = boxes[..., None, None].unbind(1)
    masks = (left < x) & (x < right) & (top < y) & (y < bottom)
    masks &= (x - left) * (bottom - top) < (y - top + 4) * (right - left)  # a triangle, and a little more
    small = masks[:, 1::4, 1::4].clone()
    if kind == "empty masks":
        masks[::2] = small[::2] = False
    if kind == "lost masks":
        small[::2] = False
    if kind == "twice the same":
        boxes[1::2], masks[1::2], small[1::2] = boxes[::2].clone(), masks[::2].clone(), small[::2].clone()
    return labels, boxes, masks, small


def assign(scenes: list[tuple[Tensor, Tensor, Tensor, Tensor]], one_mask_per_cell: bool) -> GridAssignment:
    assigner = GridAssigner(GRIDS, RANGES, one_mask_per_cell=one_mask_per_cell)
    shapes = [mask_shapes(masks, small) for _, _, masks, small in scenes]
    return assigner(
        [labels for labels, *_ in scenes],
        torch.cat([boxes for _, boxes, *_ in scenes]),
        MaskShapes(*(torch.cat(parts) for parts in zip(*shapes, strict=True))),
        CANVAS,
        NUM_CLASSES,
    )


def transcribed(
    scene: tuple[Tensor, Tensor, Tensor, Tensor], one_mask_per_cell: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Labels of the cells of one image, and (cell, object) of each mask, as the rules read."""
    classes, boxes, masks, small = scene
    labels = [NUM_CLASSES] * sum(size * size for size in GRIDS)
    pairs: list[tuple[int, int]] = []
    start = 0
    for size, (low, high) in zip(GRIDS, RANGES, strict=True):
        owned = set()
        for number, (x1, y1, x2, y2) in enumerate(boxes.double().tolist()):
            ys, xs = masks[number].nonzero().double().unbind(1)
            if not low <= math.sqrt((x2 - x1) * (y2 - y1)) <= high or not len(xs):
                continue
            ranges = []
            for center, half, length in (
                (float(ys.sum() / len(ys)), 0.1 * (y2 - y1), CANVAS[0]),
                (float(xs.sum() / len(xs)), 0.1 * (x2 - x1), CANVAS[1]),
            ):
                cells = [math.floor((value / length) / (1 / size)) for value in (center - half, center, center + half)]
                ranges.append(range(max(0, cells[0], cells[1] - 1), min(size - 1, cells[2], cells[1] + 1) + 1))
            for row in ranges[0]:
                for column in ranges[1]:
                    cell = start + row * size + column
                    if one_mask_per_cell and cell in owned:
                        continue
                    owned.add(cell)
                    if one_mask_per_cell and not small[number].any():
                        continue  # its label would be 0
                    labels[cell] = int(classes[number])
                    pairs.append((cell, number))
        start += size * size
    return labels, sorted(pairs)


@RULES
@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_masks_are_those_of_the_rules(kind: str, one_mask_per_cell: bool) -> None:
    """Three images in one call, the second always without objects."""
    for seed in range(4):
        scenes = [make_scene(kind, seed), make_scene("none", seed), make_scene("few", seed + 50)]
        found = assign(scenes, one_mask_per_cell)
        labels, pairs, counts, objects = [], [], [], 0
        for image, scene in enumerate(scenes):
            own_labels, own_pairs = transcribed(scene, one_mask_per_cell)
            pairs += [(image * len(own_labels) + cell, objects + number) for cell, number in own_pairs]
            labels += own_labels
            counts.append(len(own_pairs))
            objects += len(scene[0])
        assert found.labels.tolist() == labels
        assert list(zip(found.cells.tolist(), found.objects.tolist(), strict=True)) == pairs
        assert found.per_image == counts
        positives = [cell for cell, label in enumerate(labels) if label < NUM_CLASSES]
        if one_mask_per_cell:
            assert found.rows is None
            assert found.cells.tolist() == positives
        else:
            assert [positives[row] for row in found.rows.tolist()] == found.cells.tolist()


def test_crowded_scenes_have_cells_that_several_objects_want() -> None:
    """So that the test above sees both rules at work."""
    every = assign([make_scene("crowded", 0)], one_mask_per_cell=False)
    first = assign([make_scene("crowded", 0)], one_mask_per_cell=True)
    assert len(every.cells) > len(first.cells) > 20
    assert not torch.equal(every.labels, first.labels)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> tuple[Tensor, Tensor]:
    mask = torch.zeros(1, *CANVAS, dtype=torch.bool)
    mask[:, y1:y2, x1:x2] = True
    return torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32), mask


def test_an_object_whose_size_is_in_two_ranges_is_on_both_levels_worked_out_by_hand() -> None:
    """20 × 20 pixels from (30, 26): center (39.5, 35.5) in indices, reach 2; cells of 10⅔ × 8 and of 16 × 12 pixels."""
    box, mask = rectangle(30, 26, 50, 46)
    found = assign([(torch.tensor([1]), box, mask, mask[:, 1::4, 1::4])], one_mask_per_cell=True)
    rows, columns = (4,), (3,)  # 33.5 … 37.5 and 37.5 … 41.5 of cells 32 … 40 and 32 … 42.7
    expected = {row * 12 + column for row in rows for column in columns}
    expected |= {144 + row * 8 + column for row in (2, 3) for column in (2,)}  # rows of 12, columns of 16 pixels
    assert set(found.cells.tolist()) == expected


def test_a_large_center_region_is_cut_to_three_by_three_cells() -> None:
    box, mask = rectangle(8, 4, 104, 92)
    assigner = GridAssigner((20,), ((1.0, 200.0),), center_size=0.9)
    found = assigner([torch.tensor([0])], box, mask_shapes(mask, mask), CANVAS, NUM_CLASSES)
    assert len(found.cells) == 9
    assert found.cells.tolist()[4] == 9 * 20 + 8  # that of the center (55.5, 47.5)


def test_both_ends_of_a_range_belong_to_it() -> None:
    box, mask = rectangle(30, 26, 46, 42)
    for ranges, expected in (((1, 16), True), ((16, 99), True), ((1, 15.9), False), ((16.1, 99), False)):
        found = GridAssigner((8,), (ranges,))([torch.tensor([0])], box, mask_shapes(mask, mask), CANVAS, NUM_CLASSES)
        assert bool(len(found.cells)) == expected


def test_a_lost_first_object_still_keeps_its_cells_from_others() -> None:
    """Its cells are its own; that it cannot be learned makes them negatives, not those of the next object."""
    box, mask = rectangle(30, 26, 50, 46)
    masks, boxes = mask.repeat(2, 1, 1), box.repeat(2, 1)
    small = masks[:, 1::4, 1::4].clone()
    small[0] = False
    found = assign([(torch.tensor([1, 2]), boxes, masks, small)], one_mask_per_cell=True)
    assert (found.labels == NUM_CLASSES).all()
    assert not len(found.cells)
    every = assign([(torch.tensor([1, 2]), boxes, masks, small)], one_mask_per_cell=False)
    assert len(every.cells) == 2 * len(every.cells.unique())


def test_the_center_is_that_of_the_mask_not_of_the_box() -> None:
    mask = torch.zeros(2, 6, 9, dtype=torch.bool)
    mask[0, 1, 2] = mask[0, 3, 2] = mask[0, 1, 5] = True
    shapes = mask_shapes(mask, mask)
    assert shapes.centers[0].tolist() == pytest.approx([3, 5 / 3])
    assert shapes.is_empty.tolist() == shapes.is_lost.tolist() == [False, True]
    assert shapes.centers[1].isfinite().all()


def test_grids_and_ranges_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 grids but 1 ranges"):
        GridAssigner((4, 2), ((1.0, 2.0),))
