"""The grids of SOLOv2: towers, mask features, masks by dynamic kernels, peaks of scores, the order of rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rankdet.heads import GridHead, GridOutputs, GridStage, MaskFeatures, MaskFeatureSettings, mask_logits
from rankdet.losses import DiceQuality, RankSortLoss, Tasks, dice_coefficient
from rankdet.structures import Candidates, Outlines, Target

EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def ellipses(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (64, 64)) -> Target:
    corners = torch.tensor(boxes)
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    left, top, right, bottom = corners[..., None, None].unbind(1)
    masks = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 < 1
    return Target(corners, torch.tensor(labels), masks)


APART = ellipses([[2.0, 2, 20, 20], [40, 4, 60, 22], [4, 40, 26, 60], [36, 36, 58, 60]], [0, 2, 1, 0])
OVER_EACH_OTHER = ellipses([[10.0, 10, 40, 40], [12, 12, 42, 42]], [0, 1])


def make_stage(one_mask_per_cell: bool = True, strides: tuple[int, ...] = (4, 8, 16)) -> GridStage:
    torch.manual_seed(1)
    return GridStage(
        8,
        strides,
        3,
        MaskFeatureSettings(channels=4, out_channels=4, groups=2),
        sizes=(8, 6, 4),
        scale_ranges=((1.0, 24.0), (12.0, 40.0), (24.0, 64.0)),
        one_mask_per_cell=one_mask_per_cell,
        convolutions=1,
        channels=8,
        groups=2,
    )


def make_outputs(stage: GridStage, num_images: int) -> GridOutputs:
    """Outputs with logits and kernels that differ everywhere."""
    torch.manual_seed(2)
    return GridOutputs(
        torch.randn(num_images, stage.assigner.num_cells, 3, requires_grad=True),
        torch.randn(num_images, stage.assigner.num_cells, 4, requires_grad=True),
        torch.randn(num_images, 4, 16, 16, requires_grad=True),
    )


def candidates_of(stage: GridStage, targets: list[Target]) -> Candidates:
    return stage.candidates(make_outputs(stage, len(targets)), targets, [(64, 64)] * len(targets))


def test_masks_are_products_of_kernels_and_the_features_of_their_image() -> None:
    features = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    counts = [2, 0, 3]
    found = mask_logits(features, kernels, counts)
    expected = torch.cat(
        [torch.einsum("pd,dhw->phw", k, f) for k, f in zip(kernels.split(counts), features, strict=True)]
    )
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = torch.autograd.grad(found, (features, kernels), upstream)
    for gradient, other in zip(gradients, torch.autograd.grad(expected, (features, kernels), upstream), strict=True):
        torch.testing.assert_close(gradient, other)


def test_masks_of_maps_with_channels_last_are_the_same() -> None:
    features, kernels = torch.randn(2, 4, 5, 6), torch.randn(3, 4)
    found = mask_logits(features.contiguous(memory_format=torch.channels_last), kernels, [1, 2])
    torch.testing.assert_close(found, mask_logits(features, kernels, [1, 2]))


def test_no_masks_are_connected_to_features_and_kernels() -> None:
    features, kernels = torch.randn(2, 4, 5, 6, requires_grad=True), torch.randn(0, 4, requires_grad=True)
    mask_logits(features, kernels, [0, 0]).sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))
    assert kernels.grad.shape == (0, 4)


def test_kernels_see_where_they_are_and_classes_do_not() -> None:
    head = GridHead(4, 2, grids=(12,), kernel_channels=3, num_convolutions=1, channels=8, groups=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    logits, kernels = head([torch.ones(1, 4, 24, 24)])
    inside = torch.arange(144).view(12, 12)[3:9, 3:9].flatten()
    torch.testing.assert_close(logits[0, inside], logits[0, inside[:1]].expand(36, -1))
    assert kernels[0, inside].unique(dim=0).shape[0] == 36


def test_scores_start_at_a_hundredth() -> None:
    logits, _ = GridHead(4, 2, grids=(6,), kernel_channels=3, channels=8, groups=2)([torch.zeros(1, 4, 24, 24)])
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 36, 2), 0.01))


def test_mask_features_have_the_size_of_the_finest_map_whatever_the_others_have() -> None:
    features = MaskFeatures(8, 3, MaskFeatureSettings(channels=4, out_channels=6, groups=2))
    assert [len(level) for level in features.levels] == [1, 1, 2]
    maps = [torch.randn(2, 8, *size) for size in ((13, 21), (7, 11), (4, 6))]
    assert features(maps).shape == (2, 6, 13, 21)


def test_the_outer_maps_are_read_at_the_size_of_their_neighbors() -> None:
    stage = make_stage()
    seen: list[tuple[int, ...]] = []
    stage.head.forward = lambda maps: seen.extend(tuple(each.shape[2:]) for each in maps) or (maps[0], maps[0])  # type: ignore[method-assign]
    stage([torch.zeros(1, 8, *size) for size in ((17, 24), (9, 12), (5, 6))])
    assert seen == [(8, 12), (9, 12), (9, 12)]
    assert stage.cell_strides.tolist() == [8] * 64 + [8] * 36 + [8] * 16


def test_peaks_are_higher_than_their_neighbors_above_and_to_the_left() -> None:
    stage = make_stage()
    logits = torch.randn(2, stage.assigner.num_cells, 3)
    logits[1, :64] = logits[1, :1]  # equal neighbors are all kept
    outputs = GridOutputs(logits, torch.zeros(2, len(logits[0]), 4), torch.zeros(2, 4, 16, 16))
    found, scores = stage.peaks(outputs), logits.sigmoid()
    start = 0
    for size in (8, 6, 4):
        for row in range(size):
            for column in range(size):
                near = [(row - down, column - right) for down in (0, 1) for right in (0, 1)]
                cells = [start + r * size + c for r, c in near if r >= 0 and c >= 0]
                own = start + row * size + column
                is_peak = scores[:, own] == scores[:, cells].amax(dim=1)
                assert torch.equal(found[:, own], scores[:, own].where(is_peak, 0))
        start += size * size


def test_each_cell_has_label_kernel_and_target_of_its_own_object() -> None:
    """Labels and masks are in the order of the cells; in published code masks are in that of the objects."""
    stage = make_stage()
    outputs = make_outputs(stage, 3)
    targets = [APART, EMPTY, OVER_EACH_OTHER]
    found = stage.candidates(outputs, targets, [(64, 64)] * 3)
    positives = (found.labels < 3).nonzero().squeeze(1)
    assert found.masks.rows is None
    assert len(positives) == len(found.masks.predicted) > 10
    masks = torch.cat([APART.masks, OVER_EACH_OTHER.masks])
    small = torch.nn.functional.interpolate(masks[:, None].float(), scale_factor=0.25, mode="bilinear")[:, 0] >= 0.5
    classes = torch.cat([APART.labels, OVER_EACH_OTHER.labels])
    for row, cell in enumerate(positives.tolist()):
        image, inside = divmod(cell, stage.assigner.num_cells)
        logits = torch.einsum("d,dhw->hw", outputs.kernels[image, inside], outputs.features[image])
        torch.testing.assert_close(found.masks.predicted[row], logits)
        number = [n for n, mask in enumerate(small) if torch.equal(mask, found.masks.target[row])]
        assert number
        assert found.labels[cell] in classes[number]
        assert (number[0] >= 4) == (image == 2)


@pytest.mark.parametrize("one_mask_per_cell", [True, False])
def test_the_order_of_objects_does_not_matter_where_they_share_no_cell(one_mask_per_cell: bool) -> None:
    stage = make_stage(one_mask_per_cell)
    values = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        target = Target(APART.boxes[order], APART.labels[order], APART.masks[order])
        found = candidates_of(stage, [target, OVER_EACH_OTHER])
        if one_mask_per_cell:
            values.append(
                list(RankSortLoss(quality=DiceQuality(), tasks=Tasks(dice_epsilon=2e-3))(found).terms.values())
            )
        else:
            dice = dice_coefficient(found.masks.predicted, found.masks.target)
            values.append([dice, found.masks.rows.float()])
    for one, other in zip(*values, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_cell_of_two_objects_learns_both_masks_in_the_standard_form_alone() -> None:
    every, first = (
        candidates_of(make_stage(False), [OVER_EACH_OTHER]),
        candidates_of(make_stage(True), [OVER_EACH_OTHER]),
    )
    assert torch.equal(every.labels < 3, first.labels < 3)
    shared = (every.masks.rows.bincount() == 2).nonzero().squeeze(1)
    assert len(shared)
    positives = (every.labels < 3).nonzero().squeeze(1)
    assert (every.labels[positives[shared]] == 1).all()  # the last object's
    assert (first.labels[positives[shared]] == 0).all()  # the first object's
    for row in shared.tolist():
        pair = every.masks.target[every.masks.rows == row]
        assert not torch.equal(pair[0], pair[1])
        assert torch.equal(first.masks.target[row], pair[0])
        predicted = every.masks.predicted[every.masks.rows == row]
        torch.testing.assert_close(predicted[0], predicted[1])


def test_an_object_that_vanishes_at_the_size_of_the_masks_is_a_negative_as_its_label_of_zero_says() -> None:
    """As where the loss itself finds that label and makes it a negative, but the mask loss is not asked about it."""
    stage = make_stage()
    speck = torch.zeros(1, 64, 64, dtype=torch.bool)
    speck[0, 28, 28] = True
    target = Target(
        torch.cat([torch.tensor([[28.0, 28.0, 29.0, 29.0]]), APART.boxes]),
        torch.cat([torch.tensor([2]), APART.labels]),
        torch.cat([speck, APART.masks]),
    )
    found = candidates_of(stage, [target])
    terms, stats = RankSortLoss(quality=DiceQuality())(found)
    lost = 3 * 8 + 3  # of the finest grid, whose cells have eight pixels
    assert found.labels[lost] == 3
    assert torch.equal(found.labels, candidates_of(stage, [APART]).labels)
    labels = found.labels.clone()
    labels[lost] = 2
    row = int((found.labels[:lost] < 3).sum())
    masks = found.masks._replace(
        predicted=torch.cat([found.masks.predicted[:row], torch.randn(1, 16, 16), found.masks.predicted[row:]]),
        target=torch.cat([found.masks.target[:row], torch.zeros(1, 16, 16).bool(), found.masks.target[row:]]),
    )
    literal = RankSortLoss(quality=DiceQuality(), zero_quality_is_negative=True)(
        replace(found, labels=labels, masks=masks, rows=None)
    )
    torch.testing.assert_close(terms["ranking"], literal.terms["ranking"])
    torch.testing.assert_close(terms["sorting"], literal.terms["sorting"])
    assert stats["mask_error"] < literal.stats["mask_error"]


def test_outlines_serve_as_well_as_bitmaps() -> None:
    left, top, right, bottom = 8.0, 12.0, 36.0, 44.0
    box = torch.tensor([[left, top, right, bottom]])
    around = [
        [left, top, right, top],
        [right, top, right, bottom],
        [right, bottom, left, bottom],
        [left, bottom, left, top],
    ]
    bitmap = torch.zeros(1, 64, 64, dtype=torch.bool)
    bitmap[:, 12:44, 8:36] = True
    one, other = (
        candidates_of(make_stage(), [Target(box, torch.tensor([1]), masks)])
        for masks in (bitmap, Outlines(torch.tensor([around])))
    )
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.masks.target, other.masks.target)


def test_grids_that_do_not_fit_the_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"grids \(8, 6, 4\) .* \(4, 8\)"):
        make_stage(strides=(4, 8))


def test_objects_without_masks_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="4 objects but no masks"):
        candidates_of(make_stage(), [replace(APART, masks=None)])
