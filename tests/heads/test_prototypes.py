"""Masks from prototypes: sums, crops, and how scores become pixels; plain transcriptions beside them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rankdet.heads import InstanceHead, PrototypeNetwork, SemanticHead, assemble_masks, canvas_scores

CANVAS = (62, 97)


def cropped(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """One cell at a time."""
    _, height, width = prototypes.shape
    logits = torch.full((len(boxes), height, width), -torch.inf)
    for number, box in enumerate(boxes.tolist()):
        x1, x2 = (value * width / canvas[1] for value in box[0::2])
        y1, y2 = (value * height / canvas[0] for value in box[1::2])
        for row in range(height):
            for column in range(width):
                is_kept = max(0, x1 - 1) <= column < min(width, x2 + 1) and max(0, y1 - 1) <= row < min(height, y2 + 1)
                if is_kept:
                    logits[number, row, column] = (prototypes[:, row, column] * coefficients[number]).sum()
    return logits


def test_a_mask_is_a_sum_of_prototypes_cropped_to_a_box_and_one_cell_around_it() -> None:
    torch.manual_seed(0)
    prototypes, coefficients = torch.rand(5, 16, 24), torch.randn(8, 5).tanh()
    corners = torch.rand(8, 2) * torch.tensor([60.0, 40.0])
    boxes = torch.cat([corners, corners + 30 * torch.rand(8, 2)], dim=1)
    boxes[0] = torch.tensor([0.0, 0.0, 97.0, 62.0])
    boxes[1] = torch.tensor([50.0, 31.0, 51.0, 32.0])
    found = assemble_masks(prototypes, coefficients, boxes, CANVAS)
    torch.testing.assert_close(found, cropped(prototypes, coefficients, boxes, CANVAS))
    assert found[0].isfinite().all()
    assert 4 <= found[1].isfinite().sum() <= 12


def test_gradients_reach_prototypes_and_coefficients_inside_of_the_box_alone() -> None:
    prototypes, coefficients = torch.rand(3, 8, 8, requires_grad=True), torch.rand(1, 3, requires_grad=True)
    logits = assemble_masks(prototypes, coefficients, torch.tensor([[2.0, 2.0, 5.0, 6.0]]), (8, 8))
    logits.sigmoid().sum().backward()
    assert torch.equal(prototypes.grad[0] != 0, logits[0].isfinite())
    assert coefficients.grad.all()


def test_no_masks_leave_the_graph_whole() -> None:
    prototypes, coefficients = torch.rand(3, 8, 8, requires_grad=True), torch.rand(0, 3, requires_grad=True)
    logits = assemble_masks(prototypes, coefficients, torch.zeros(0, 4), (8, 8))
    assert logits.shape == (0, 8, 8)
    logits.sum().backward()
    assert not prototypes.grad.any()


@pytest.mark.parametrize("size", [(62, 97), (31, 48), (120, 130)])
def test_scores_of_a_canvas_become_pixels_as_a_resized_image_does(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(3, 16, 24)
    masks = canvas_scores(logits, CANVAS)
    factors = torch.tensor([size[1] / CANVAS[1], size[0] / CANVAS[0]] * 2)
    placed = type(masks)(masks.scores, masks.regions * factors)
    expected = interpolate(logits.sigmoid()[None], size, mode="bilinear")[0]
    differing = placed.bitmaps(size) != (expected > 0.5)
    assert (expected[differing] - 0.5).abs().sum() < 1e-4


def test_prototypes_are_twice_as_fine_as_their_map_and_never_negative() -> None:
    network = PrototypeNetwork(6, num_prototypes=4, channels=8, num_convolutions=2)
    found = network(torch.randn(2, 6, 5, 7))
    assert found.shape == (2, 4, 10, 14)
    assert found.amin() == 0
    assert found.amax() > 0
    assert PrototypeNetwork(6, channels=8, num_convolutions=0)(torch.randn(1, 6, 3, 3)).shape == (1, 32, 6, 6)
    full = PrototypeNetwork(256)
    assert sum(parameter.numel() for parameter in full.parameters()) == 4 * (9 * 256 + 1) * 256 + 32 * 257


def test_outputs_of_the_head_stand_in_the_order_of_the_anchors() -> None:
    torch.manual_seed(0)
    head = InstanceHead(6, 2, num_per_cell=3, num_prototypes=4, softmax=True)
    maps = [torch.randn(2, 6, 3, 5), torch.randn(2, 6, 2, 2)]
    logits, deltas, coefficients = head(maps)
    assert logits.shape == (2, 57, 3)
    assert deltas.shape == (2, 57, 4)
    assert coefficients.shape == (2, 57, 4)
    hidden = head.convolutions[0](maps[0]).relu()
    for row, column, anchor in ((0, 0, 0), (1, 4, 2), (2, 3, 1)):
        place = 3 * (row * 5 + column) + anchor
        for values, layer, length in (
            (logits, head.classifier(hidden), 3),
            (deltas, head.regressor(hidden), 4),
            (coefficients, head.coefficients(hidden).tanh(), 4),
        ):
            expected = layer[:, anchor * length : (anchor + 1) * length, row, column]
            torch.testing.assert_close(values[:, place], expected)
    scores = head.scores(logits)
    torch.testing.assert_close(scores, logits.softmax(dim=2)[..., :2])
    assert torch.equal(
        InstanceHead(6, 2, num_per_cell=1, num_prototypes=1, softmax=False).scores(scores), scores.sigmoid()
    )


def test_the_semantic_head_has_one_logit_per_class_and_cell() -> None:
    assert SemanticHead(6, 5)(torch.randn(2, 6, 4, 3)).shape == (2, 5, 4, 3)
