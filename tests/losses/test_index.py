"""Ranking losses of logits of which the positives are named: the form for matchers, which know them.

Their laws, operators, processes and graphs are tested with those of the other forms. Here is what only this form has.

Legend: B images, Q queries, C classes, P positives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rankdet.losses import (
    alrp_loss,
    alrp_loss_at,
    alrp_loss_of_labels,
    ap_loss,
    ap_loss_at,
    ap_loss_of_labels,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)

SHAPE = B, Q, C = 3, 40, 5
by_implementation = pytest.mark.parametrize("implementation", ["torch", "reference"])


class Matches(NamedTuple):
    """(B, Q, C) logits, (P,) image, query and class of the matched queries in no order, and their qualities."""

    logits: Tensor
    index: tuple[Tensor, Tensor, Tensor]
    quality: Tensor

    @property
    def flat(self) -> Tensor:
        image, query, label = self.index
        return (image * Q + query) * C + label

    def reordered(self, order: Tensor) -> Matches:
        image, query, label = self.index
        return Matches(self.logits, (image[order], query[order], label[order]), self.quality[order])

    @property
    def targets(self) -> Tensor:
        return torch.zeros(SHAPE, dtype=self.quality.dtype).index_put(self.index, self.quality)

    @property
    def labels(self) -> Tensor:
        return torch.full((B, Q), C).index_put(self.index[:2], self.index[2])


def draw(seed: int = 0, num: int = 25, ties: bool = True) -> Matches:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    quality = 0.01 + 0.99 * torch.rand(num, generator=generator, dtype=torch.float64)
    if ties:
        logits, quality = (4 * logits).round() / 4, (5 * quality).ceil() / 5
    rows = torch.randperm(B * Q, generator=generator)[:num]
    return Matches(logits, (rows // Q, rows % Q, torch.randint(C, (num,), generator=generator)), quality)


LOSSES: dict[str, Callable[..., Sequence[Tensor]]] = {
    "rank & sort": lambda logits, index, quality, **options: rank_sort_loss_at(logits, index, quality, **options),
    "average precision": lambda logits, index, quality, **options: [ap_loss_at(logits, index, **options)],
    "average precision, plain": lambda logits, index, quality, **options: [
        ap_loss_at(logits, index, interpolate=False, **options)
    ],
    "alrp": lambda logits, index, quality, **options: alrp_loss_at(logits, index, 1 - quality, **options),
}
DENSE: dict[str, Callable[[Tensor, Matches], Sequence[Tensor]]] = {
    "rank & sort": lambda logits, matches: rank_sort_loss(logits, matches.targets),
    "average precision": lambda logits, matches: [ap_loss(logits, matches.targets)],
    "average precision, plain": lambda logits, matches: [ap_loss(logits, matches.targets, interpolate=False)],
    "alrp": lambda logits, matches: alrp_loss(logits, matches.targets, 1 - matches.quality[matches.flat.argsort()]),
}
LABELED: dict[str, Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]] = {
    "rank & sort": rank_sort_loss_of_labels,
    "average precision": lambda logits, labels, quality: [ap_loss_of_labels(logits, labels)],
    "average precision, plain": lambda logits, labels, quality: [ap_loss_of_labels(logits, labels, interpolate=False)],
    "alrp": lambda logits, labels, quality: alrp_loss_of_labels(logits, labels, 1 - quality),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def graded(evaluate: Callable[[Tensor], Sequence[Tensor]], logits: Tensor) -> list[Tensor]:
    """Values, and the gradient of their weighted sum."""
    logits = logits.detach().clone().requires_grad_()
    values = evaluate(logits)
    (gradient,) = torch.autograd.grad(sum((k + 1) * value for k, value in enumerate(values)), logits)
    return [*(value.detach() for value in values), gradient]


def of(name: str, matches: Matches, index: object = None, **options: object) -> list[Tensor]:
    index = matches.index if index is None else index
    return graded(lambda logits: LOSSES[name](logits, index, matches.quality, **options), matches.logits)


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@every_loss
@by_implementation
@pytest.mark.parametrize("ties", [False, True], ids=["random", "ties"])
def test_it_is_the_dense_form_and_the_labeled_form(name: str, implementation: str, ties: bool) -> None:
    matches = draw(ties=ties)
    found = of(name, matches, implementation=implementation)
    assert_close(found, graded(lambda logits: DENSE[name](logits, matches), matches.logits))
    quality = matches.quality[matches.flat.argsort()]
    labeled = graded(
        lambda logits: LABELED[name](logits.flatten(0, 1), matches.labels.flatten(), quality), matches.logits
    )
    assert_close(found, labeled)
    assert found[-1].any()


@every_loss
@by_implementation
def test_the_order_of_the_index_changes_no_bit(name: str, implementation: str) -> None:
    matches = draw(ties=True)
    found = of(name, matches, implementation=implementation)
    for seed in range(5):
        order = torch.randperm(len(matches.quality), generator=torch.Generator().manual_seed(seed))
        again = of(name, matches.reordered(order), implementation=implementation)
        assert all(map(torch.equal, again, found))


@by_implementation
def test_errors_get_their_gradients_in_the_order_of_the_index(implementation: str) -> None:
    matches = draw()
    errors = (1 - matches.quality).requires_grad_()
    alrp_loss_at(matches.logits, matches.index, errors, implementation=implementation).localization.backward()
    ascending = matches.flat.argsort()
    expected = (1 - matches.quality[ascending]).requires_grad_()
    alrp_loss(matches.logits, matches.targets, expected).localization.backward()
    torch.testing.assert_close(errors.grad[ascending], expected.grad, rtol=1e-12, atol=1e-12)


@every_loss
@by_implementation
def test_places_are_flat_or_of_every_dimension(name: str, implementation: str) -> None:
    matches = draw()
    found = of(name, matches, implementation=implementation)
    assert_close(of(name, matches, matches.flat, implementation=implementation), found, 0)
    assert_close(of(name, matches, list(matches.index), implementation=implementation), found, 0)


@every_loss
def test_logits_may_lie_in_memory_as_they_like(name: str) -> None:
    matches = draw()
    expected = of(name, matches)
    stored = matches.logits.permute(2, 0, 1).contiguous()
    found = graded(lambda logits: LOSSES[name](logits.permute(1, 2, 0), matches.index, matches.quality), stored)
    assert_close([*found[:-1], found[-1].permute(1, 2, 0)], expected, 0)


@every_loss
def test_levels_are_read_one_after_another(name: str) -> None:
    matches = draw()
    expected = of(name, matches)
    flat = matches.logits.flatten()
    found = graded(
        lambda logits: LOSSES[name]([logits[:7], logits[7:7], logits[7:].view(-1, 1)], matches.flat, matches.quality),
        flat,
    )
    assert_close([*found[:-1], found[-1].view(SHAPE)], expected, 0)


def test_an_object_may_have_several_classes() -> None:
    """Labels cannot say this, dense targets can."""
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.tensor([[0.9, 0.0, 0.8], [0.0, 0.0, 0.0], [0.3, 0.6, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    index = torch.tensor([0, 2, 2, 0]), torch.tensor([2, 1, 0, 0])
    found = graded(lambda logits: rank_sort_loss_at(logits, index, targets[index]), logits)
    assert_close(found, graded(lambda logits: rank_sort_loss(logits, targets), logits))


@by_implementation
def test_a_positive_of_quality_zero_stays_one(implementation: str) -> None:
    matches = draw()
    quality = matches.quality.clone()
    quality[::3] = 0
    matches = matches._replace(quality=quality)
    found = of("rank & sort", matches, implementation=implementation)
    expected = graded(
        lambda logits: rank_sort_loss_of_labels(
            logits.flatten(0, 1), matches.labels.flatten(), quality[matches.flat.argsort()]
        ),
        matches.logits,
    )
    assert_close(found, expected)
    assert found[0] != graded(lambda logits: rank_sort_loss(logits, matches.targets), matches.logits)[0]


@every_loss
@by_implementation
@pytest.mark.parametrize("shape", [SHAPE, (0, 40, 5), (0,)], ids=str)
def test_without_positives_it_is_a_connected_zero(name: str, implementation: str, shape: tuple[int, ...]) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    for index in (empty, (empty,) * len(shape)):
        *values, gradient = graded(
            lambda logits: LOSSES[name](logits, index, torch.zeros(0), implementation=implementation),  # noqa: B023
            torch.ones(shape),
        )
        assert not any(values)
        assert torch.equal(gradient, torch.zeros(shape))


@every_loss
@by_implementation
def test_what_is_ignored_is_neither_positive_nor_negative(name: str, implementation: str) -> None:
    matches = draw()
    rows = torch.rand(B, Q, generator=torch.Generator().manual_seed(2)) < 0.4
    rows[matches.index[:2]] = False
    assert rows.any()
    spoiled = matches._replace(logits=matches.logits.masked_fill(rows[..., None], torch.nan))
    found = of(name, spoiled, ignored=rows, implementation=implementation)
    kept = ~rows[..., None].expand(SHAPE).flatten()
    index = kept.cumsum(0)[matches.flat] - 1
    *values, gradient = graded(
        lambda logits: LOSSES[name](logits, index, matches.quality), matches.logits.flatten()[kept]
    )
    assert_close([*found[:-1], found[-1].flatten()[kept]], [*values, gradient])
    assert not found[-1].flatten()[~kept].any()
    # Of single logits, and in memory that begins anywhere.
    single = torch.cat([torch.zeros(1, B, Q, C, dtype=torch.bool), rows[None, ..., None].expand(1, *SHAPE)])[1]
    assert_close(of(name, spoiled, ignored=single, implementation=implementation), found, 0)
    shifted = torch.cat([rows.flatten()[:1], rows.flatten()])[1:].view(B, Q)
    assert_close(of(name, spoiled, ignored=shifted, implementation=implementation), found, 0)


def test_all_classes_of_an_object_but_its_own_can_be_ignored() -> None:
    matches = draw()
    ignored = torch.zeros(SHAPE, dtype=torch.bool)
    ignored[matches.index[:2]] = True
    ignored[matches.index] = False
    found = of("rank & sort", matches, ignored=ignored)
    expected = graded(lambda logits: rank_sort_loss(logits, matches.targets.masked_fill(ignored, -1)), matches.logits)
    assert_close(found, expected)


@every_loss
@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_not_finite_makes_it_nan(name: str, fault: float) -> None:
    for place in (draw().flat[3], torch.tensor(11)):
        logits = draw().logits.flatten().index_fill(0, place, fault).view(SHAPE)
        assert all(part.isnan().all() for part in of(name, draw()._replace(logits=logits)))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_logits_of_every_dtype_keep_it_in_their_gradient(name: str, dtype: torch.dtype) -> None:
    matches = draw()
    low = matches._replace(logits=matches.logits.to(dtype))
    *values, gradient = of(name, low)
    *expected, exact = of(name, matches._replace(logits=low.logits.double()))
    assert gradient.dtype == dtype
    for mine, theirs in zip(values, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-6, atol=1e-6)
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), exact, rtol=4 * epsilon, atol=max(1e-7, epsilon / 64))


@pytest.mark.parametrize("check", [False, True])
@by_implementation
@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([5, 7, 5], r"index names logits more than once: .*logits \(2, 3, 2\)"),
        ([5, -1, 7], "outside of them"),
        ([5, 12, 7], "outside of them"),
        ([5, 0, 7], "that are ignored"),
        ([12, 12, 0], "outside of them and more than once and that are ignored"),
        (([0, 0, 1], [0, 2, 0], [1, 2, 0]), "outside of them"),  # classes from 1 to 2
        (([0, 0, 1], [1, 2, -1], [1, 0, 0]), "outside of them"),
    ],
    ids=str,
)
def test_a_wrong_index_is_refused(
    index: list[int] | tuple[list[int], ...], message: str, implementation: str, check: bool
) -> None:
    places = tuple(map(torch.tensor, index)) if isinstance(index, tuple) else torch.tensor(index)
    ignored = torch.zeros(2, 3, dtype=torch.bool)
    ignored[0, 0] = True
    with pytest.raises(ValueError, match=message):
        rank_sort_loss_at(
            torch.zeros(2, 3, 2), places, torch.ones(3), ignored=ignored, check=check, implementation=implementation
        )


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([1.0]), r"must be \(P,\) int64"),
        (torch.tensor([True]), r"must be \(P,\) int64"),
        (torch.tensor([[1]]), r"must be \(P,\) int64"),
        ((torch.tensor([0]), torch.tensor([0]), torch.tensor([0, 1])), r"must be \(P,\) int64"),
        ((torch.tensor([0]), torch.tensor([0])), r"tuple of 2 indices needs one tensor .* \(2, 3, 2\)"),
        ((), "tuple of 0 indices"),
        (torch.tensor([0, 1]), "2 positives among the index but qualities of shape"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(index: Tensor | tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_sort_loss_at(torch.zeros(2, 3, 2), index, torch.ones(1))


@pytest.mark.parametrize("ignored", [torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool)], ids=str)
def test_what_is_ignored_must_be_said_for_every_row_or_logit(ignored: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be bool, of the shape of the logits \(2, 3, 2\) or without"):
        rank_sort_loss_at(torch.zeros(2, 3, 2), torch.tensor([1]), torch.ones(1), ignored=ignored)


def test_levels_have_flat_places_and_are_ignored_alike() -> None:
    levels, quality = [torch.zeros(2, 3), torch.zeros(1, 3)], torch.ones(1)
    with pytest.raises(ValueError, match="tuple of 2 indices needs one tensor"):
        rank_sort_loss_at(levels, (torch.tensor([0]), torch.tensor([0])), quality)
    mixed = [torch.zeros(2, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)]
    with pytest.raises(ValueError, match="alike in all levels"):
        rank_sort_loss_at(levels, torch.tensor([1]), quality, ignored=mixed)


def test_check_looks_at_qualities_and_logits() -> None:
    logits, index = torch.zeros(2, 2), torch.tensor([1])
    with pytest.raises(ValueError, match=r"quality must lie in \[0, 1\]"):
        rank_sort_loss_at(logits, index, torch.tensor([1.5]), check=True)
    with pytest.raises(ValueError, match="1 of 4 logits are NaN or infinite"):
        ap_loss_at(torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), index, check=True)
