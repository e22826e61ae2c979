"""An explanation: its values and gradients are those of the loss functions, and its terms add up to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rankdet.explaining import Explanation, Loss, explain, explain_file, worked_example
from rankdet.losses import alrp_loss, ap_loss, rank_sort_loss
from rankdet.structures import InputError

LOSSES: tuple[Loss, ...] = ("rank_sort", "average_precision", "alrp")


def problem(seed: int, positives: int = 12, negatives: int = 80) -> tuple[Tensor, Tensor]:
    """Logits with ties and targets, some of them ignored, in random order."""
    generator = torch.Generator().manual_seed(seed)
    count = positives + negatives + 7
    logits = (4 * torch.randn(count, generator=generator, dtype=torch.float64)).round() / 4
    targets = torch.zeros(count, dtype=torch.float64)
    targets[:positives] = 0.05 + 0.9 * torch.rand(positives, generator=generator, dtype=torch.float64)
    targets[positives : positives + 7] = -1
    order = torch.randperm(count, generator=generator)
    return logits[order], targets[order]


def autograd(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[float, np.ndarray]:
    own = logits.clone().requires_grad_()
    value = loss(own)
    value.backward()
    assert own.grad is not None
    return value.item(), own.grad.numpy()


def functions(loss: Loss, targets: Tensor, delta: float) -> dict[str, Callable[[Tensor], Tensor]]:
    """The loss function of each part."""
    errors = 1 - targets[targets > 0]
    return {
        "rank_sort": {
            "ranking": lambda own: rank_sort_loss(own, targets, delta).ranking,
            "sorting": lambda own: rank_sort_loss(own, targets, delta).sorting,
        },
        "average_precision": {"precision": lambda own: ap_loss(own, targets, delta)},
        "alrp": {"classification": lambda own: alrp_loss(own, targets, errors, delta).classification},
    }[loss]


def test_the_worked_example_has_the_errors_of_the_paper() -> None:
    """Figure A.4, exactly: the paper cuts 3/7 to 0.42, and prints 0.38 in place of 0.45."""
    found = worked_example()
    ranking, sorting = found.parts
    assert found.positives.tolist() == [0, 1, 4, 6]
    assert ranking.error.tolist() == pytest.approx([0, 0, 0.4, 3 / 7])
    assert ranking.target_error.tolist() == [0, 0, 0, 0]
    assert sorting.error.tolist() == pytest.approx([0.1, 0.35, 0.3, 0.45])
    assert sorting.target_error.tolist() == pytest.approx([0.1, 0.35, 0.15, 0.45])
    assert ranking.value + sorting.value == pytest.approx((0.4 + 3 / 7 + 0.15) / 4)
    assert found.shown.tolist() == list(range(8))
    assert ranking.terms[2].tolist() == pytest.approx([0, 0, 0.2, 0.2, 0, 0, 0, 0])
    assert ranking.terms[3].tolist() == pytest.approx([0, 0, 1 / 7, 1 / 7, 0, 1 / 7, 0, 0])
    assert sorting.terms[2].tolist() == pytest.approx([0, 0.15, 0, 0, 0, 0, 0, 0])
    assert found.gradient.tolist() == pytest.approx([0, 0.0375, 0.6 / 7, 0.6 / 7, -0.1375, 1 / 28, -3 / 28, 0])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_are_those_of_the_loss_functions(loss: Loss, delta: float, seed: int) -> None:
    logits, targets = problem(seed)
    found = explain(logits, targets, loss, delta=delta)
    expected = functions(loss, targets, delta)
    assert [part.name for part in found.parts] == list(expected)
    for part in found.parts:
        value, gradient = autograd(logits, expected[part.name])
        assert part.value == value
        assert (part.gradient == gradient).all()
    assert (found.gradient == sum(part.gradient for part in found.parts)).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("delta", [0.0, 0.5])
@pytest.mark.parametrize("most", [5, 1000])
def test_primary_terms_add_up_to_errors_and_to_gradients(loss: Loss, delta: float, most: int) -> None:
    """What a candidate is at fault for, less what a positive pays, over P; whichever candidates are shown."""
    logits, targets = problem(7)
    found = explain(logits, targets, loss, delta=delta, most_shown=most)
    count = len(found.positives)
    assert len(found.shown) == (10 if most == 5 else (targets >= 0).sum())
    for part in found.parts:
        paid = part.terms.sum(axis=1) + part.rest
        np.testing.assert_allclose(paid, part.error - part.target_error, atol=1e-12)
        gradient = part.terms.sum(axis=0)
        of_positives = {place: row for row, place in enumerate(found.positives.tolist())}
        for column, place in enumerate(found.shown.tolist()):
            gradient[column] -= paid[of_positives[place]] if place in of_positives else 0
        np.testing.assert_allclose(gradient / count, part.gradient[found.shown], atol=1e-12)
        assert (abs(part.rest) < 1e-12).all() == (most == 1000)


def test_interpolation_is_that_of_the_loss() -> None:
    logits, targets = problem(4)
    plain = explain(logits, targets, "average_precision", interpolate=False)
    value, gradient = autograd(logits, lambda own: ap_loss(own, targets, interpolate=False))
    assert plain.parts[0].value == value
    assert (plain.parts[0].gradient == gradient).all()
    better = explain(logits, targets, "average_precision").parts[0].error
    assert (better <= plain.parts[0].error).all()
    assert better.mean() < plain.parts[0].error.mean()


def test_the_localization_of_alrp_loss_has_its_gradient_by_the_errors() -> None:
    logits, targets = problem(5)
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(12, generator=generator, dtype=torch.float64)
    found = explain(logits, targets, "alrp", localization_errors=errors).localization
    assert found is not None
    value, gradient = autograd(errors, lambda own: alrp_loss(logits, targets, own).localization)
    assert found.value == value
    places = (targets > 0).nonzero().squeeze(1)
    order = logits[places].argsort(stable=True).flip(0)
    assert found.errors.tolist() == errors[order].tolist()
    assert found.gradient.tolist() == gradient[order].tolist()


def test_positives_of_quality_0_are_kept_where_they_are_named() -> None:
    logits, targets = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    found = explain(logits, targets, is_positive=torch.tensor([False, True]))
    assert found.positives.tolist() == [1]
    assert found.parts[0].error.tolist() == pytest.approx([1 / 1.5])
    assert found.negatives.tolist() == [0]
    assert not explain(logits, targets).positives.size


@pytest.mark.parametrize("loss", LOSSES)
def test_without_positives_there_is_nothing_to_learn(loss: Loss) -> None:
    found = explain([1.0, 2.0, 0.0], [0, 0, -1], loss)
    assert [part.value for part in found.parts] == [0.0] * len(found.parts)
    assert not found.gradient.any()
    assert found.shown_names == ("1", "0")


def test_single_precision_is_that_of_training() -> None:
    logits, targets = (values.float() for values in problem(1))
    found = explain(logits, targets)
    assert found.parts[0].value == rank_sort_loss(logits, targets).ranking.item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": [1.0]}, "must have one shape"),
        ({"targets": [0.5, 1.5]}, "neither -1"),
        ({"targets": [0.5, -0.5]}, "neither -1"),
        ({"logits": [1.0, float("nan")]}, "a logit is not finite"),
        ({"logits": [], "targets": []}, "there are no logits"),
        ({"logits": ["a", "b"]}, "logits must be numbers"),
        ({"loss": "focal"}, "loss must be one of rank_sort, average_precision, alrp, not 'focal'"),
        ({"delta": -1.0}, "delta must be at least 0, not -1"),
        ({"names": ["one"]}, "1 names for 2 logits"),
        ({"is_positive": [True]}, "is_positive must be bool of shape"),
        ({"loss": "alrp", "localization_errors": [1.0, 2.0]}, "1 positives but localization_errors of shape"),
        ({"loss": "alrp", "localization_errors": [-1.0]}, "a localization error is not a number of at least 0"),
    ],
)
def test_bad_input_is_told(options: dict[str, Any], message: str) -> None:
    given = {"logits": [1.0, 0.0], "targets": [0.0, 0.5]} | options
    with pytest.raises(InputError, match=message):
        explain(**given)


def same(one: Explanation, other: Explanation) -> bool:
    parts = zip(one.parts, other.parts, strict=True)
    return all(a.value == b.value and (a.gradient == b.gradient).all() for a, b in parts)


def write_csv(file: Path, logits: Tensor, targets: Tensor, errors: Tensor, names: list[str]) -> None:
    """As a spreadsheet writes it, with a mark at the beginning and E of positives alone."""
    given = iter(errors.tolist())
    rows = [
        f'{logit!r},{target!r},{next(given) if target > 0 else ""},"{name}"'
        for logit, target, name in zip(logits.tolist(), targets.tolist(), names, strict=True)
    ]
    file.write_text("\n".join(["logit,target,E,name", *rows]), encoding="utf-8-sig")


@pytest.mark.parametrize("loss", LOSSES)
def test_files_say_the_same_as_arrays(tmp_path: Path, loss: Loss) -> None:
    logits, targets = problem(2)
    errors = 2 * (1 - targets[targets > 0])
    names = [f"anchor {place}, right" for place in range(len(logits))]
    given = {
        "logits": logits.tolist(),
        "targets": targets.tolist(),
        "localization_errors": errors.tolist(),
        "names": names,
    }
    (tmp_path / "given.json").write_text(json.dumps(given))
    np.savez(tmp_path / "given.npz", **{name: np.array(values) for name, values in given.items()})
    write_csv(tmp_path / "given.csv", logits, targets, errors, names)
    expected = explain(logits, targets, loss, localization_errors=errors, delta=0.25)
    for suffix in ("json", "npz", "csv"):
        found = explain_file(tmp_path / f"given.{suffix}", loss, 0.25)
        assert same(found, expected)
        assert set(found.positive_names) <= set(names)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "are in a file of .npz, .json, .csv"),
        ("a.json", "[1]", "must be an object with logits and targets"),
        ("a.json", '{"logits": [1]}', "has no targets"),
        ("a.json", '{"logits": [1], "targets": [2]}', "a.json: a target is neither"),
        ("a.csv", "logit,target\n1,x", "column target: could not convert"),
        ("a.csv", "logit\n1", "has no targets"),
        ("a.npz", "no archive", "a.npz: cannot be read"),
        ("none.csv", None, "there is no such file"),
    ],
)
def test_a_file_that_says_something_else_is_told(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        explain_file(tmp_path / name)
