"""Rank & Sort Loss: published numbers, its two parts, its two forms, what it refuses, and the module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from rankdet.losses import (
    GivenQuality,
    RankSortLoss,
    RankSortValues,
    Tasks,
    alrp_loss,
    ap_loss,
    box_overlap,
    rank_sort,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)
from rankdet.structures import Candidates, Matched

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["reference", "torch", "auto"])
V1 = ([3.0, 2, 1, 0, -1, -2, -3, -4], [0.9, 0.4, 0, 0, 0.8, 0, 0.1, 0])
V2 = ([0.30, 0.10, -0.20, 0.25, 0.05, 0.60, -0.60, 2.00, -0.90], [0.70, 0, 0.50, 0.90, 0, 0, 0.60, -1, 0])
PUBLISHED = {
    "V1, hard": (V1, 0.0, 0.207143, 0.037500, [0, 0.0375, 0.085714, 0.085714, -0.1375, 0.035714, -0.107143, 0]),
    "V1, soft": (V1, 0.5, 0.226496, 0.046667, [0, 0.046667, 0.094017, 0.094017, -0.157778, 0.038462, -0.115385, 0]),
    "V2, hard": (
        V2, 0.0, 0.440476, 0.039583,
        [-0.1, 0.077381, -0.110417, -0.108333, 0.077381, 0.285714, -0.121726, 0, 0],
    ),
    "V2, soft": (
        V2, 0.5, 0.537182, 0.046751,
        [-0.119656, 0.143357, -0.105332, -0.173776, 0.130664, 0.255586, -0.138418, 0, 0.007576],
    ),
}  # fmt: skip
NAN, INF = torch.nan, torch.inf


def total(parts: RankSortValues) -> Tensor:
    return parts.ranking + parts.sorting


def gradient_of(scalar: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(scalar, logits, retain_graph=True)[0]


def check_numbers(
    logits: list[float],
    targets: list[float],
    delta: float,
    expected: tuple[float, float],
    gradient: list[float],
    implementation: rank_sort.Implementation,
) -> None:
    scores = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    parts = rank_sort_loss(scores, torch.tensor(targets).double(), delta, implementation=implementation)
    assert parts.ranking.item() == pytest.approx(expected[0], abs=1e-6)
    assert parts.sorting.item() == pytest.approx(expected[1], abs=1e-6)
    assert gradient_of(total(parts), scores).tolist() == pytest.approx(gradient, abs=1.1e-6)


@IMPLEMENTATIONS
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_vectors_come_out(name: str, implementation: rank_sort.Implementation) -> None:
    (logits, targets), delta, ranking, sorting, gradient = PUBLISHED[name]
    check_numbers(logits, targets, delta, (ranking, sorting), gradient, implementation)


@IMPLEMENTATIONS
def test_the_tables_of_the_paper_come_out(
    shared: Callable[..., Path], implementation: rank_sort.Implementation
) -> None:
    tables = yaml.safe_load(shared("spec", "paper_tables.yaml").read_text())
    example = tables["worked_example_fig_A4"]
    for delta, name in ((0.0, "recomputed_hard_step"), (0.5, "recomputed_delta_0_5")):
        row = example[name]
        values = row["rank_loss_mean"], row["sort_loss_mean"]
        check_numbers(example["logits"], example["labels"], delta, values, row["gradient"], implementation)
        assert sum(values) == pytest.approx(row["rs_loss"], abs=2e-6)
    vector = tables["extra_test_vector_V2"]
    for delta, name in ((0.5, "rs_delta_0_5"), (0.0, "rs_delta_0")):
        row = vector[name]
        values = row["rank"], row["sort"]
        check_numbers(vector["logits"], vector["labels"], delta, values, row["gradient"], implementation)


@IMPLEMENTATIONS
def test_the_errors_of_each_positive_of_the_worked_example_come_out(
    shared: Callable[..., Path], implementation: rank_sort.Implementation
) -> None:
    """A positive's own ranking gradient is its ranking error; only 4 is sorted wrong, and 1 gets all of it."""
    example = yaml.safe_load(shared("spec", "paper_tables.yaml").read_text())["worked_example_fig_A4"]
    labels = torch.tensor(example["labels"]).double()
    for delta, name in ((0.0, "recomputed_hard_step"), (0.5, "recomputed_delta_0_5")):
        row = example[name]
        logits = torch.tensor(example["logits"], dtype=torch.float64, requires_grad=True)
        parts = rank_sort_loss(logits, labels, delta, implementation=implementation)
        ranks, sorts = (4 * gradient_of(part, logits) for part in parts)
        sorting = {i: row["current_sorting_error"][i] - row["target_sorting_error"][i] for i in example["positive_ids"]}
        for i in example["positive_ids"]:
            assert -ranks[i].item() == pytest.approx(row["current_ranking_error"][i], abs=1e-6)
            assert -ranks[i].item() + sorting[i] == pytest.approx(row["total_loss"][i], abs=2e-6)
        assert sorts.tolist() == pytest.approx([0, sorting[4], 0, 0, -sorting[4], 0, 0, 0], abs=1e-6)
        assert 4 * parts.sorting.item() == pytest.approx(sum(sorting.values()), abs=1e-6)
        if delta == 0:  # the figure prints two decimals, cut off; its sorting errors of positive 6 are misprints
            printed = example["printed"]
            for i in example["positive_ids"]:
                assert -ranks[i].item() == pytest.approx(printed["ranking_loss"][i], abs=0.01)
                assert sorting[i] == pytest.approx(printed["sorting_loss"][i], abs=0.01)
            assert total(parts).item() == pytest.approx(printed["rs_loss"], abs=0.01)


def soft(difference: Tensor, delta: float) -> Tensor:
    return (difference >= 0).double() if delta == 0 else (difference / (2 * delta) + 0.5).clamp(0, 1)


def by_pairs(logits: Tensor, targets: Tensor, delta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both values and both gradients from the whole matrix of pairs: independent of the library."""
    positives, negatives = (targets > 0).nonzero()[:, 0], (targets == 0).nonzero()[:, 0]
    quality = targets[positives]
    above = soft(logits[positives] - logits[positives][:, None], delta)
    false = soft(logits[negatives] - logits[positives][:, None], delta)
    better = above * (quality >= quality[:, None])
    worse = above * (quality < quality[:, None])
    false_positives = false.sum(1)
    ranking = false_positives / (above.sum(1) + false_positives)
    sorting = (above @ (1 - quality)) / above.sum(1) - (better @ (1 - quality)) / better.sum(1)
    ranks, sorts = torch.zeros_like(logits), torch.zeros_like(logits)
    ranks[negatives] = (ranking / false_positives.clamp(min=1e-10)) @ false
    ranks[positives] = -ranking
    active = worse.sum(1) > 1e-10
    sorts[positives] = (sorting * active / worse.sum(1).clamp(min=1e-10)) @ worse - sorting * active
    return ranking.mean(), sorting.mean(), ranks / len(positives), sorts / len(positives)


@IMPLEMENTATIONS
@pytest.mark.parametrize("delta", [0.0, 0.3, 2.0])
def test_each_part_back_propagates_its_own_gradient(delta: float, implementation: rank_sort.Implementation) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.cat([torch.rand(15, generator=generator).double(), torch.zeros(40), -torch.ones(5)])
    parts = rank_sort_loss(logits, targets, delta, implementation=implementation)
    ranking, sorting, ranks, sorts = by_pairs(logits.detach(), targets, delta)
    torch.testing.assert_close(parts, RankSortValues(ranking, sorting))
    torch.testing.assert_close(gradient_of(parts.ranking, logits), ranks)
    torch.testing.assert_close(gradient_of(parts.sorting, logits), sorts)
    torch.testing.assert_close(gradient_of(total(parts), logits), ranks + sorts)
    torch.testing.assert_close(gradient_of(0.2 * parts.ranking - 3 * parts.sorting, logits), 0.2 * ranks - 3 * sorts)


@IMPLEMENTATIONS
def test_two_backward_passes_one_per_part_add_up(implementation: rank_sort.Implementation) -> None:
    logits, targets = (torch.tensor(values) for values in V2)
    together, apart = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total(rank_sort_loss(together, targets, implementation=implementation)).backward()
    for part in (0, 1):
        rank_sort_loss(apart, targets, implementation=implementation)[part].backward()
    torch.testing.assert_close(apart.grad, together.grad)


@IMPLEMENTATIONS
def test_equal_qualities_never_punish_each_other(implementation: rank_sort.Implementation) -> None:
    logits = torch.linspace(-1, 1, 40).requires_grad_()
    parts = rank_sort_loss(logits, torch.tensor([0.7, 0.0]).repeat(20), implementation=implementation)
    assert parts.sorting == 0
    assert not gradient_of(parts.sorting, logits).any()


@IMPLEMENTATIONS
@pytest.mark.parametrize("shape", [(), (1,), (12,), (3, 4), (2, 3, 2), (1, 1, 12, 1)], ids=str)
def test_any_shape_will_do(shape: tuple[int, ...], implementation: rank_sort.Implementation) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator).requires_grad_()
    targets = torch.rand(shape, generator=generator)
    targets = targets.where(targets > 0.5, 0.0)
    parts = rank_sort_loss(logits, targets, implementation=implementation)
    flat = logits.detach().flatten().requires_grad_()
    expected = rank_sort_loss(flat, targets.flatten(), implementation="reference")
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(gradient_of(total(parts), logits), gradient_of(total(expected), flat).view(shape))


@IMPLEMENTATIONS
@pytest.mark.parametrize("shape", [(0,), (0, 5), (4, 0)], ids=str)
def test_empty_tensors_are_no_error(shape: tuple[int, ...], implementation: rank_sort.Implementation) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    parts = rank_sort_loss(logits, torch.zeros(shape), implementation=implementation)
    assert parts == (0, 0)
    assert gradient_of(total(parts), logits).shape == shape
    labels, quality = torch.full(shape[:1], shape[-1]), torch.zeros(0)
    if len(shape) == 2:
        parts = rank_sort_loss_of_labels(logits, labels, quality, implementation=implementation)
        assert gradient_of(total(parts), logits).shape == shape


@IMPLEMENTATIONS
def test_logits_need_not_be_contiguous(implementation: rank_sort.Implementation) -> None:
    generator = torch.Generator().manual_seed(2)
    wide = torch.randn(5, 2, 12, generator=generator)
    logits = wide.transpose(0, 2)[:, 1].requires_grad_()  # (12, 5), strides (1, 24)
    targets = torch.rand(5, 12, generator=generator).t()
    targets = targets.where(targets > 0.6, 0.0)
    assert not logits.is_contiguous()
    parts = rank_sort_loss(logits, targets, implementation=implementation)
    copy = logits.detach().contiguous().requires_grad_()
    expected = rank_sort_loss(copy, targets.contiguous(), implementation="reference")
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(gradient_of(total(parts), logits), gradient_of(total(expected), copy))


@IMPLEMENTATIONS
@pytest.mark.parametrize("shape", [(80,), (4, 20), (2, 8, 5)], ids=str)
def test_a_target_of_zero_can_be_a_positive(implementation: rank_sort.Implementation, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    is_positive = torch.rand(shape, generator=generator) < 0.3
    targets = (is_positive * (torch.rand(shape, generator=generator) - 0.4)).clamp(min=0).double()
    targets[~is_positive & (torch.rand(shape, generator=generator) < 0.1)] = -1
    assert (is_positive & (targets == 0)).any()
    assert (targets == -1).any()
    before = targets.clone()
    parts = rank_sort_loss(logits, targets, is_positive=is_positive, implementation=implementation)
    expected = rank_sort_loss_at(logits, is_positive.nonzero().unbind(1), targets[is_positive], ignored=targets < 0)
    torch.testing.assert_close(parts, expected, rtol=1e-12, atol=1e-12)
    gradients = (gradient_of(total(values), logits) for values in (parts, expected))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert parts.ranking != rank_sort_loss(logits, targets, implementation=implementation).ranking
    assert torch.equal(targets, before)


def test_positives_are_those_that_are_named_and_no_others() -> None:
    logits, targets = torch.randn(9, generator=torch.Generator().manual_seed(4)), torch.full((9,), 0.5)
    is_positive = torch.arange(9) < 4
    found = rank_sort_loss(logits, targets, is_positive=is_positive)
    assert found == rank_sort_loss(logits, targets * is_positive)
    levels = logits.split([3, 0, 6]), targets.split([3, 0, 6]), is_positive.split([3, 0, 6])
    assert found == rank_sort_loss(levels[0], levels[1], is_positive=levels[2])


def test_positives_must_be_named_in_the_shape_of_the_targets() -> None:
    with pytest.raises(ValueError, match=r"targets \[\(3,\)\] and is_positive \[\(2,\)\] must have the same shapes"):
        rank_sort_loss(torch.zeros(3), torch.zeros(3), is_positive=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"quality must lie in \[0, 1\]"):
        rank_sort_loss(torch.zeros(2), torch.tensor([-1.0, 0]), is_positive=torch.tensor([True, False]), check=True)
    with pytest.raises(ValueError, match=r"is_positive must be bool, got torch\.int64"):
        rank_sort_loss(torch.zeros(2), torch.zeros(2), is_positive=torch.tensor([1, 0]))
    ignored = rank_sort_loss(
        torch.tensor([1.0, 0, -1]), torch.tensor([-1.0, 0, 0.5]), is_positive=torch.tensor([True, False, True])
    )
    assert ignored.sorting.isnan()


# --- labels instead of dense targets ---


def problem_with_labels() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (M, C), labels with background and ignored rows, qualities, and the dense targets of the same."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 7, (50,), generator=generator)
    rows = ((labels >= 0) & (labels < 6)).nonzero()[:, 0]
    quality = (8 * torch.rand(len(rows), generator=generator, dtype=torch.float64)).ceil() / 8
    targets = torch.zeros_like(logits)
    targets[labels == -1] = -1
    targets[rows, labels[rows]] = quality
    return logits, labels, quality, targets


@IMPLEMENTATIONS
@pytest.mark.parametrize("chunk", [1, 32, 1 << 17])
def test_labels_equal_dense_targets(
    implementation: rank_sort.Implementation, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankdet.losses.negatives.CHUNK", chunk)
    logits, labels, quality, targets = problem_with_labels()
    dense, sparse = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = rank_sort_loss(dense, targets, implementation="reference")
    parts = rank_sort_loss_of_labels(sparse, labels, quality, implementation=implementation)
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(gradient_of(total(parts), sparse), gradient_of(total(expected), dense))
    assert not gradient_of(total(parts), sparse)[labels == -1].any()


@IMPLEMENTATIONS
def test_a_positive_without_overlap_stays_a_positive(implementation: rank_sort.Implementation) -> None:
    logits = torch.tensor([[0.0], [2.0], [1.0]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    parts = rank_sort_loss_of_labels(logits, labels, torch.tensor([0.8, 0.0]), 0, implementation=implementation)
    # Positive 0 (0.8) has one negative and one worse positive above it: 1/3, and 1.2/2 − 0.2.
    torch.testing.assert_close(parts.ranking.item(), (1 / 3 + 0) / 2)
    torch.testing.assert_close(parts.sorting.item(), (0.6 - 0.2 + 0) / 2)
    gradient = gradient_of(total(parts), logits).flatten()
    torch.testing.assert_close(gradient, torch.tensor([-1 / 6 - 0.2, 0.2, 1 / 6]).double())


@IMPLEMENTATIONS
def test_to_the_letter_of_the_paper_a_positive_without_overlap_is_a_negative(
    implementation: rank_sort.Implementation,
) -> None:
    logits, labels, quality, targets = problem_with_labels()
    quality[::3] = 0
    rows = ((labels >= 0) & (labels < 6)).nonzero()[:, 0]
    targets[rows, labels[rows]] = quality
    dense, sparse = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = rank_sort_loss(dense, targets)
    parts = rank_sort_loss_of_labels(
        sparse, labels, quality, zero_quality_is_negative=True, implementation=implementation
    )
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(gradient_of(total(parts), sparse), gradient_of(total(expected), dense))
    kept = rank_sort_loss_of_labels(sparse, labels, quality, implementation=implementation)
    assert not torch.isclose(kept.ranking, parts.ranking)


@IMPLEMENTATIONS
def test_to_the_letter_of_the_paper_no_overlap_at_all_is_no_positive(implementation: rank_sort.Implementation) -> None:
    logits, labels, quality, _ = problem_with_labels()
    logits.requires_grad_()
    parts = rank_sort_loss_of_labels(
        logits, labels, torch.zeros_like(quality), zero_quality_is_negative=True, implementation=implementation
    )
    assert parts == (0, 0)
    assert torch.equal(gradient_of(total(parts), logits), torch.zeros_like(logits))


@IMPLEMENTATIONS
def test_qualities_and_targets_receive_no_gradient(implementation: rank_sort.Implementation) -> None:
    logits, labels, quality, targets = (tensor.clone() for tensor in problem_with_labels())
    quality.requires_grad_(), targets.requires_grad_(), logits.requires_grad_()
    total(rank_sort_loss_of_labels(logits, labels, quality, implementation=implementation)).backward()
    total(rank_sort_loss(logits, targets, implementation=implementation)).backward()
    assert quality.grad is None
    assert targets.grad is None


# --- bad input ---


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [0, 1], ids=["positive", "negative"])
def test_checks_name_logits_that_are_not_finite(bad: float, place: int) -> None:
    logits = torch.tensor([[0.5], [0.2], [0.1]])
    logits[place] = bad
    with pytest.raises(ValueError, match="1 of 3 logits are NaN or infinite"):
        rank_sort_loss(logits[:, 0], torch.tensor([0.7, 0.0, 0.0]), check=True)
    with pytest.raises(ValueError, match="1 of 3 logits are NaN or infinite"):
        rank_sort_loss_of_labels(logits, torch.tensor([0, 1, 1]), torch.tensor([0.7]), check=True)


@pytest.mark.parametrize("far", [1.1e10, -3e30])
@pytest.mark.parametrize("place", [0, 1], ids=["positive", "negative"])
def test_checks_name_logits_that_are_too_far_for_delta(far: float, place: int) -> None:
    logits, targets = torch.tensor([0.5, 0.2, 0.1]), torch.tensor([0.7, 0.0, 0.0])
    logits[place] = far
    with pytest.raises(ValueError, match=r"1 of 3 logits, up to .*e\+.*, are beyond 1e\+10"):
        rank_sort_loss(logits, targets, 0.5, check=True)
    for delta in (0.0, 1e21):  # no sum of logits, and wide enough steps
        assert rank_sort_loss(logits, targets, delta, check=True) == rank_sort_loss(logits, targets, delta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_moved", [True, False])
def test_losses_up_to_the_limit_of_the_check_are_right(dtype: torch.dtype, is_moved: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(300, generator=generator, dtype=torch.float64)
    logits = (logits + 0.99e10 if is_moved else logits * 0.99e10 / logits.abs().max()).to(dtype)
    targets = torch.where(torch.arange(300) % 15 == 0, torch.rand(300, generator=generator), 0.0)
    far, exact = (each.clone().requires_grad_() for each in (logits, logits.double()))
    found = sum(rank_sort_loss(far, targets, 0.5, check=True))
    expected = sum(rank_sort_loss(exact, targets, 0.5, implementation="reference"))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    found.backward(), expected.backward()
    torch.testing.assert_close(far.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [NAN, 1.1, -1.1])
def test_checks_name_targets_out_of_range(bad: float) -> None:
    with pytest.raises(ValueError, match=r"targets must lie in \[-1, 1\]"):
        rank_sort_loss(torch.zeros(3), torch.tensor([0.7, bad, 0.0]), check=True)


@pytest.mark.parametrize("bad", [NAN, 1.1, -0.1])
def test_checks_name_qualities_out_of_range(bad: float) -> None:
    with pytest.raises(ValueError, match=r"quality must lie in \[0, 1\]"):
        rank_sort_loss_of_labels(torch.zeros(2, 2), torch.tensor([0, 2]), torch.tensor([bad]), check=True)


@pytest.mark.parametrize("bad", [3, -2])
def test_checks_name_labels_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[-1, 2\]"):
        rank_sort_loss_of_labels(torch.zeros(2, 2), torch.tensor([0, bad]), torch.tensor([0.5]), check=True)


def test_checks_pass_good_input() -> None:
    logits, labels, quality, targets = problem_with_labels()
    expected = rank_sort_loss(logits, targets)
    assert rank_sort_loss(logits, targets, check=True) == expected
    torch.testing.assert_close(rank_sort_loss_of_labels(logits, labels, quality, check=True), expected)


@pytest.mark.parametrize("implementation", ["torch", "auto"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [0, 1, 3], ids=["first positive", "negative", "second positive"])
def test_without_checks_a_logit_that_is_not_finite_makes_the_loss_nan(
    implementation: rank_sort.Implementation, bad: float, place: int
) -> None:
    logits = torch.tensor([0.5, 0.2, 0.1, 0.3])
    logits[place] = bad
    targets = torch.tensor([0.7, 0.0, 0.0, 0.4])
    assert rank_sort_loss(logits, targets, implementation=implementation).ranking.isnan()
    labels = torch.tensor([0, 1, 1, 0])
    parts = rank_sort_loss_of_labels(logits[:, None], labels, targets[[0, 3]], implementation=implementation)
    assert parts.ranking.isnan()


@IMPLEMENTATIONS
def test_without_checks_a_target_that_is_no_number_makes_the_loss_nan(
    implementation: rank_sort.Implementation,
) -> None:
    logits = torch.tensor([0.5, 0.2, 0.1])
    parts = rank_sort_loss(logits, torch.tensor([0.7, NAN, 0.0]), implementation=implementation)
    assert total(parts).isnan()
    labels, quality = torch.tensor([0, 0, 1]), torch.tensor([0.7, NAN])
    for literal in (False, True):
        parts = rank_sort_loss_of_labels(
            logits[:, None], labels, quality, zero_quality_is_negative=literal, implementation=implementation
        )
        assert total(parts).isnan()


def test_a_nan_among_many_negatives_is_not_lost_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankdet.losses.negatives.CHUNK", 64)
    for place in (1, 63, 64, 500, 999):
        logits = torch.linspace(-1, 1, 1000)
        logits[place] = NAN
        targets = torch.zeros(1000)
        targets[333] = 0.5
        assert rank_sort_loss(logits, targets).ranking.isnan()


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        rank_sort_loss(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"must be \(M, C\) and \(M,\)"):
        rank_sort_loss_of_labels(torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.zeros(3))
    with pytest.raises(ValueError, match=r"must be \(M, C\) and \(M,\)"):
        rank_sort_loss_of_labels(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), torch.zeros(2))
    with pytest.raises(ValueError, match="2 positives among the labels but 3 qualities"):
        rank_sort_loss_of_labels(torch.zeros(3, 2), torch.tensor([0, 1, 2]), torch.zeros(3))
    with pytest.raises(ValueError, match="delta must be finite and not negative"):
        rank_sort_loss(torch.zeros(3), torch.zeros(3), -0.1)
    for delta in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="delta must be finite"):
            rank_sort_loss(torch.zeros(3), torch.ones(3), delta)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch makes its first jvp by it
def test_transforms_of_functions_work_or_raise() -> None:
    targets = torch.tensor([0.5, 0.0, 0.0])

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return rank_sort_loss(logits, targets).ranking

    logits = torch.tensor([0.0, 0.3, -0.2])
    through_autograd = logits.clone().requires_grad_()
    loss(through_autograd).backward()
    assert torch.equal(torch.func.grad(loss)(logits), through_autograd.grad)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(loss, (logits,), (torch.ones(3),))
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(loss)(torch.zeros(2, 3))


# --- the module ---

OBJECTS = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]])


def make_candidates(boxes: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Candidates:
    """Two classes; positives in row 0 (class 1) and row 2 (class 0), row 1 background, row 3 ignored."""
    logits = torch.tensor([[-3.0, 0.0], [3.0, -3.0], [-1.0, 1.0], [9.0, 9.0]], dtype=dtype, requires_grad=True)
    if boxes is None:
        boxes = torch.tensor([[0.0, 0, 4, 2], [0, 0, 2, 3]], requires_grad=True)
    return Candidates("rcnn", logits, torch.tensor([1, 2, 0, -1]), 2, boxes=Matched(boxes, OBJECTS))


def test_the_module_gives_the_terms_and_statistics_worked_out_by_hand() -> None:
    terms, stats = RankSortLoss(delta=0.5)(make_candidates())
    # Positives 0 (IoU 1/2) and −1 (IoU 2/3); negatives −3, 3, −3, 1. Above 0: 3, 1. Above −1: 3, 1 and positive 0.
    ranking = (2 / (0.5 + 2) + 2 / (1.5 + 2)) / 2
    # The better one (−1) has the worse one above it: (1/2 · 1/3 + 1 · 1/2) / (3/2) − 1/3.
    sorting = ((1 / 6 + 1 / 2) / 1.5 - 1 / 3) / 2
    weights = torch.tensor([0.0, 1.0]).sigmoid()  # the best score of any class, not that of the object's class
    localization = (weights * torch.tensor([1 / 2, 1 / 3])).sum() / weights.sum()
    assert set(terms) == {"ranking", "sorting", "localization"}
    assert set(stats) == {"positives", "background", "negatives", "localization_error", "balance"}
    assert terms["ranking"].item() == pytest.approx(ranking)
    assert terms["sorting"].item() == pytest.approx(sorting)
    assert terms["localization"].item() == pytest.approx(ranking + sorting)
    assert stats["localization_error"].item() == pytest.approx(localization.item())
    assert stats["balance"].item() == pytest.approx((ranking + sorting) / localization.item())
    assert [stats[name].item() for name in ("positives", "background", "negatives")] == [2, 1, 4]
    assert all(not value.requires_grad and value.ndim == 0 for value in stats.values())
    assert all(value.requires_grad and value.ndim == 0 for value in terms.values())


def test_the_boxes_get_the_ranking_error_times_the_gradient_of_the_logarithm() -> None:
    candidates = make_candidates()
    terms, _ = RankSortLoss()(candidates)
    boxes = candidates.boxes.predicted
    found = gradient_of(terms["localization"], boxes)
    copy = boxes.detach().requires_grad_()
    weights = torch.tensor([0.0, 1.0]).sigmoid()
    error = (weights * (1 - box_overlap(copy, OBJECTS).giou)).sum() / weights.sum()
    expected = gradient_of(error.log(), copy) * (terms["ranking"] + terms["sorting"]).detach()
    torch.testing.assert_close(found, expected)
    assert found.any()


def test_ranking_and_sorting_do_not_move_boxes_and_localization_does_not_move_logits() -> None:
    candidates = make_candidates()
    terms, _ = RankSortLoss()(candidates)
    for term, leaf in (
        ("ranking", candidates.boxes.predicted),
        ("sorting", candidates.boxes.predicted),
        ("localization", candidates.logits),
    ):
        (gradient,) = torch.autograd.grad(terms[term], leaf, retain_graph=True, allow_unused=True)
        assert gradient is None or not gradient.any()


def test_perfect_boxes_leave_nothing_to_balance() -> None:
    candidates = make_candidates(OBJECTS.clone().requires_grad_())
    terms, stats = RankSortLoss()(candidates)
    assert terms["ranking"] > 0
    assert terms["localization"] == 0
    assert stats["balance"] == 0
    sum(terms.values()).backward()
    assert candidates.boxes.predicted.grad.isfinite().all()
    assert candidates.logits.grad.isfinite().all()


def test_a_head_without_boxes_and_masks_learns_its_classification_alone() -> None:
    head, quality = make_candidates(), torch.tensor([0.5, 0.2])
    bare = replace(head, boxes=None, quality=quality)
    terms, stats = RankSortLoss(quality=GivenQuality(), tasks=Tasks(box_loss=None))(bare)
    assert terms == rank_sort_loss_of_labels(head.logits, head.labels, quality)._asdict()
    assert set(stats) == {"positives", "background", "negatives"}
    with pytest.raises(ValueError, match="passes no boxes, which the quality IoU needs; GivenQuality takes one"):
        RankSortLoss(tasks=Tasks(box_loss=None))(bare)
    with pytest.raises(ValueError, match="passes neither boxes nor masks"):
        RankSortLoss(quality=GivenQuality())(bare)


def test_boxes_that_others_learn_still_are_the_quality() -> None:
    head = make_candidates()
    terms, _ = RankSortLoss(tasks=Tasks(box_loss=None))(head)
    iou = box_overlap(*head.boxes[:2]).iou
    assert terms == rank_sort_loss_of_labels(head.logits, head.labels, iou)._asdict()


def test_without_positives_all_terms_are_zeros_connected_to_logits_and_boxes() -> None:
    logits, boxes = torch.randn(3, 2).requires_grad_(), torch.zeros(0, 4, requires_grad=True)
    head = Candidates("rpn", logits, torch.tensor([2, -1, 2]), 2, boxes=Matched(boxes, torch.zeros(0, 4)))
    terms, stats = RankSortLoss()(head)
    assert [value.item() for value in terms.values()] == [0, 0, 0]
    assert (stats["positives"], stats["negatives"], stats["balance"], stats["localization_error"]) == (0, 4, 0, 0)
    sum(terms.values()).backward()
    assert torch.equal(logits.grad, torch.zeros(3, 2))
    assert boxes.grad.shape == (0, 4)


def test_without_candidates_all_terms_are_connected_zeros() -> None:
    logits, boxes = torch.zeros(0, 2, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.int64)
    terms, _ = RankSortLoss()(Candidates("rcnn", logits, labels, 2, boxes=Matched(boxes, torch.zeros(0, 4))))
    sum(terms.values()).backward()
    assert logits.grad.shape == (0, 2)
    assert boxes.grad.shape == (0, 4)


def test_bfloat16_logits_work_under_autocast() -> None:
    exact, _ = RankSortLoss()(make_candidates())
    with torch.autocast("cpu", torch.bfloat16):
        candidates = make_candidates(dtype=torch.bfloat16)
        terms, stats = RankSortLoss()(candidates)
    for name, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name])
    assert stats["balance"].dtype == torch.float32
    sum(terms.values()).backward()
    assert candidates.logits.grad.dtype == torch.bfloat16
    assert candidates.logits.grad.any()


def test_options_of_the_module_reach_the_loss() -> None:
    far = torch.tensor([[8.0, 8, 9, 9], [0, 0, 2, 3]], requires_grad=True)
    kept, _ = RankSortLoss()(make_candidates(far))
    literal, _ = RankSortLoss(zero_quality_is_negative=True)(make_candidates(far))
    assert literal["sorting"] == 0  # one positive is left
    assert kept["sorting"] > 0
    assert literal["localization"].item() == pytest.approx(literal["ranking"].item())
    hard, _ = RankSortLoss(delta=0, implementation="reference")(make_candidates())
    assert hard["ranking"].item() == pytest.approx((2 / 3 + 2 / 4) / 2)
    broken = make_candidates()
    broken.logits.data[0, 0] = NAN
    with pytest.raises(ValueError, match="NaN or infinite"):
        RankSortLoss(check=True)(broken)


def test_a_head_that_does_not_pair_its_boxes_is_refused() -> None:
    candidates = make_candidates()
    with pytest.raises(ValueError, match="'rcnn' passes no boxes"):
        RankSortLoss()(Candidates("rcnn", candidates.logits, candidates.labels, 2))
    one = Matched(OBJECTS[:1], OBJECTS[:1])
    with pytest.raises(ValueError, match="'rcnn': 2 positives but 1 pairs of boxes"):
        RankSortLoss()(Candidates("rcnn", candidates.logits, candidates.labels, 2, boxes=one))


def test_a_head_that_classifies_by_softmax_is_refused() -> None:
    candidates = make_candidates()
    logits = torch.zeros(4, 3)
    with pytest.raises(ValueError):
        RankSortLoss()(Candidates("rcnn", logits, candidates.labels, 2, boxes=candidates.boxes))


def test_an_implementation_that_does_not_exist_is_no_silent_fallback() -> None:
    with pytest.raises(ValueError, match=r"implementation must be one of .* got 'cuda'"):
        rank_sort_loss(torch.zeros(2), torch.ones(2), implementation="cuda")
    with pytest.raises(ValueError, match=r"'triton' needs tensors on CUDA .* these are on cpu"):
        rank_sort_loss(torch.zeros(2), torch.ones(2), implementation="triton")


def test_a_negative_far_above_a_single_positive_costs_its_share_of_the_rank() -> None:
    for delta, expected in ((0.5, 1 / 1.5), (0.0, 1 / 2)):
        ranking, sorting = rank_sort_loss(torch.tensor([-50.0, 50.0]), torch.tensor([0.7, 0.0]), delta)
        torch.testing.assert_close(ranking, torch.tensor(expected))
        assert sorting == 0


def test_the_reference_refuses_to_rank_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankdet.losses.processes.Processes.size", 2)
    logits, targets = torch.zeros(2), torch.tensor([1.0, 0.0])
    labels = torch.tensor([0, 1])
    for call in (
        lambda: rank_sort_loss(logits, targets, sync=True, implementation="reference"),
        lambda: ap_loss(logits, targets, sync=True, implementation="reference"),
        lambda: alrp_loss(logits, targets, torch.zeros(1), sync=True, implementation="reference"),
        lambda: rank_sort_loss_of_labels(logits[:, None], labels, torch.ones(1), sync=True, implementation="reference"),
    ):
        with pytest.raises(ValueError, match="sync must be False"):
            call()
