"""Labels of other frameworks, by hand, against plain loops, and on the way to a loss.

Legend: B images, Q queries, C classes, P pairs.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankdet.losses import (
    from_background_last,
    from_background_zero,
    from_pairs,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)


def draw_pairs(sizes: list[int], num_queries: int = 30) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Matches of all objects of each image, in no order, and their classes."""
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randperm(num_queries, generator=generator)[:size], torch.randperm(size, generator=generator))
        for size in sizes
    ]
    return pairs, [torch.randint(9, (size,), generator=generator) for size in sizes]


@pytest.mark.parametrize("sizes", [[3], [2, 0, 4, 1], [0, 0], [0, 5], [5, 0]], ids=str)
def test_pairs_become_places(sizes: list[int]) -> None:
    pairs, labels = draw_pairs(sizes)
    expected = [
        (image, int(query), int(labels[image][found]))
        for image, (queries, objects) in enumerate(pairs)
        for query, found in zip(queries, objects, strict=True)
    ]
    index = from_pairs(pairs, labels)
    assert list(zip(*(part.tolist() for part in index), strict=True)) == expected
    assert all(part.dtype == torch.int64 for part in index)


def test_no_image_has_no_pairs() -> None:
    assert [part.shape for part in from_pairs([], [])] == [(0,)] * 3


def test_one_object_may_have_several_queries_and_another_none() -> None:
    index = from_pairs([(torch.tensor([4, 1, 2]), torch.tensor([1, 1, 3]))], [torch.tensor([5, 6, 7, 8])])
    assert [part.tolist() for part in index] == [[0, 0, 0], [4, 1, 2], [6, 6, 8]]


def test_pairs_of_a_matcher_are_ranked_as_labels_are() -> None:
    pairs, labels = draw_pairs([4, 0, 7])
    generator = torch.Generator().manual_seed(1)
    logits, quality = torch.randn(3, 30, 9, generator=generator), torch.rand(11, generator=generator)
    index = from_pairs(pairs, labels)
    dense = torch.full((3, 30), 9).index_put(index[:2], index[2])
    order = (30 * index[0] + index[1]).argsort()
    expected = rank_sort_loss_of_labels(logits.flatten(0, 1), dense.flatten(), quality[order])
    assert rank_sort_loss_at(logits, index, quality) == expected


@pytest.mark.parametrize("wrong", [2, -1])
def test_an_object_that_is_not_in_its_image_is_refused(wrong: int) -> None:
    """The next image has more of them, whose labels must not be taken."""
    pairs = [(torch.tensor([0, 1]), torch.tensor([0, wrong])), (torch.tensor([0]), torch.tensor([0]))]
    with pytest.raises(ValueError, match=f"object {wrong} of image 0, which has 2"):
        from_pairs(pairs, [torch.tensor([1, 1]), torch.tensor([3, 3, 3])])
    with pytest.raises(ValueError, match="object 0 of image 0, which has 0"):
        from_pairs([(torch.tensor([5]), torch.tensor([0]))], [torch.zeros(0, dtype=torch.int64)])


def test_pairs_of_wrong_lengths_are_refused_also_where_their_sums_agree() -> None:
    pairs = [(torch.tensor([1, 2]), torch.tensor([0])), (torch.tensor([5]), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match="image 0 has 2 matched queries but 1 objects"):
        from_pairs(pairs, [torch.tensor([0, 1]), torch.tensor([2, 3])])


def test_where_nobody_looks_an_object_of_no_image_has_no_class() -> None:
    compiled = torch.compile(from_pairs, backend="eager", fullgraph=True)
    for labels in (torch.zeros(0, dtype=torch.int64), torch.tensor([1, 2])):
        assert compiled([(torch.tensor([5]), torch.tensor([3]))], [labels])[2].tolist() == [-1]


def test_pairs_become_places_in_one_graph() -> None:
    compiled = torch.compile(from_pairs, backend="eager", fullgraph=True)
    pairs, labels = draw_pairs([2, 0, 3])
    assert all(map(torch.equal, compiled(pairs, labels), from_pairs(pairs, labels)))
    pairs[0][1][0] = 2
    assert compiled(pairs, labels)[2].tolist()[0] == -1


def test_images_and_pairs_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="pairs of 1 images but labels of 2"):
        from_pairs([(torch.tensor([0]), torch.tensor([0]))], [torch.tensor([1]), torch.tensor([1])])
    with pytest.raises(ValueError, match="image 0 has 2 matched queries but 1 objects"):
        from_pairs([(torch.tensor([0, 1]), torch.tensor([0]))], [torch.tensor([1])])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32], ids=str)
def test_background_is_zero_in_torchvision(dtype: torch.dtype) -> None:
    labels = torch.tensor([[0, 1, 2], [3, -1, -2]], dtype=dtype)
    found = from_background_zero(labels, 3)
    assert found.dtype == torch.int64
    assert found.tolist() == [[3, 0, 1], [2, -1, -1]]


def test_a_class_beyond_the_last_is_refused() -> None:
    """One above the last would become background without a word."""
    with pytest.raises(ValueError, match="labels must be 1 to 3, 0 or below, got 4"):
        from_background_zero(torch.tensor([0, 4]), 3)
    compiled = torch.compile(from_background_zero, backend="eager", fullgraph=True)
    labels = compiled(torch.tensor([0, 4]), 3)
    with pytest.raises(ValueError, match="labels must lie in"):
        rank_sort_loss_of_labels(torch.zeros(2, 3), labels, torch.zeros(0), check=True)


def test_background_is_last_in_mmdetection() -> None:
    labels, weights = torch.tensor([[0, 80], [79, 80]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert from_background_last(labels, weights).tolist() == [[0, 80], [-1, -1]]
    assert from_background_last(labels, 2 * weights + 0.5).tolist() == labels.tolist()
    with pytest.raises(ValueError, match=r"labels \(2, 2\) and weights \(2,\) must have one shape"):
        from_background_last(labels, weights[0])


def test_labels_are_left_as_they_are() -> None:
    labels = torch.tensor([0, 2, -1])
    from_background_zero(labels, 2)
    from_background_last(labels, torch.zeros(3))
    assert labels.tolist() == [0, 2, -1]
