"""A ranking loss of given logits, with the errors, the primary terms and the gradient of each positive.

Legend: M candidates (all logits), P positives, K candidates whose single terms are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rankdet.losses import alrp_loss, ap_loss, error_terms, rank_sort_loss
from rankdet.losses.alrp import EPSILON, lrp_terms
from rankdet.losses.average_precision import imprecision_terms, interpolated
from rankdet.losses.error_driven import Definition
from rankdet.losses.rank_sort import ranking_terms, sorting_terms
from rankdet.structures import InputError

Values = NDArray[np.float64]
Loss = Literal["rank_sort", "average_precision", "alrp"]

MOST_SHOWN = 30
"""Positives, and negatives, whose single primary terms are kept; of more, as many evenly spaced in the ranking."""
EXAMPLE = "The worked example of figure A.4"
DELTAS: dict[Loss, float] = {"rank_sort": 0.5, "average_precision": 1.0, "alrp": 1.0}
"""Half the width of the soft step of each loss, as published."""


class Part(NamedTuple):
    """A part of a loss that has a gradient of its own: the ranking or the sorting of Rank & Sort Loss.

    name
        What it is called.
    value
        What the loss function returns.
    error, target_error
        (P,): the current error ℓ(i) and the target error ℓ*(i) of each positive.
    terms
        (P, K): the primary terms L_ij, how much of ℓ(i) − ℓ*(i) is the fault of each candidate that is shown.
    rest
        (P,): the sum of L_ij over all other candidates.
    gradient
        (M,): that of ``value`` by autograd.
    """

    name: str
    value: float
    error: Values
    target_error: Values
    terms: Values
    rest: Values
    gradient: Values


class Localization(NamedTuple):
    """The localization of aLRP Loss: its value, and its gradient (P,) by the localization errors (P,)."""

    value: float
    errors: Values
    gradient: Values


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a ranking loss makes of M logits. Rows of positives are in descending order of their logits.

    Parameters
    ----------
    title
        What the logits are.
    loss
        ``"rank_sort"``, ``"average_precision"`` or ``"alrp"``.
    delta
        Half the width of the soft step, in logits.
    logits
        (M,).
    targets
        (M,): −1 ignored, 0 negative, otherwise the quality of a positive. A positive of quality 0 is among
        ``positives``.
    positives
        (P,) int64 places of the positives.
    shown
        (K,) int64 places of the candidates whose terms are kept, in descending order of their logits.
    positive_names, shown_names
        What the P positives and the K candidates are called.
    parts
        The parts of the loss.
    localization
        Of aLRP Loss, and otherwise None.
    """

    title: str
    loss: Loss
    delta: float
    logits: Values
    targets: Values
    positives: NDArray[np.int64]
    shown: NDArray[np.int64]
    positive_names: tuple[str, ...]
    shown_names: tuple[str, ...]
    parts: tuple[Part, ...]
    localization: Localization | None = None

    @property
    def gradient(self) -> Values:
        """(M,): the gradient of all parts together, which moves the logits."""
        return np.sum([part.gradient for part in self.parts], axis=0)

    @property
    def negatives(self) -> NDArray[np.int64]:
        """Places of the negatives, in descending order of their logits."""
        is_negative = self.targets == 0
        is_negative[self.positives] = False
        return _descending(self.logits, np.flatnonzero(is_negative))


@torch.enable_grad()
def explain(
    logits: ArrayLike | Tensor,
    targets: ArrayLike | Tensor,
    loss: Loss = "rank_sort",
    *,
    delta: float | None = None,
    is_positive: ArrayLike | Tensor | None = None,
    localization_errors: ArrayLike | Tensor | None = None,
    interpolate: bool = True,
    names: Sequence[str] | Callable[[int], str] | None = None,
    title: str = "Logits and targets",
    most_shown: int = MOST_SHOWN,
) -> Explanation:
    r"""Take a ranking loss apart: :math:`L_{ij} = (\ell(i) - \ell^*(i))\, p(j|i)` and the gradient of each logit.

    Parameters
    ----------
    logits
        Raw scores of any shape; float64 is computed in float64, else in float32.
    targets
        Same shape: −1 ignored, 0 negative, (0, 1] localization quality of a positive.
    loss
        ``"rank_sort"``, ``"average_precision"`` or ``"alrp"``: see :func:`rankdet.losses.rank_sort_loss`,
        :func:`rankdet.losses.ap_loss` and :func:`rankdet.losses.alrp_loss`.
    delta
        δ, half the width of the soft step, in logits; 0 is the hard step. None: 0.5 of Rank & Sort, otherwise 1.
    is_positive
        Bool, same shape: the positives, also those of target 0. None: those with a target above 0.
    localization_errors
        (P,) E ≥ 0 of the positives for aLRP Loss, in their order in ``targets``. None: 1 − target.
    interpolate
        Whether AP Loss interpolates the precision.
    names
        What each logit is called, or a function of its place in the flat logits; None: the place itself.
    title
        What the logits are, for a page.
    most_shown
        Positives, and negatives, of which single terms L_ij are kept. Of more, as many are taken evenly from the
        ranking; of negatives only those that a positive reaches. All others are in `Part.rest`.

    Returns
    -------
    Explanation
        Values and gradients are those of the loss functions; errors and terms are those of their dense definitions.

    Raises
    ------
    InputError
        When shapes do not fit, numbers are not finite or out of range, or there is no such loss.

    Notes
    -----
    Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021, arXiv:2107.11669,
    section 3 and figures A.4 and A.5.

    Examples
    --------
    The third positive of figure A.4 has two negatives above it, which share its error:

    >>> logits, targets = [3.0, 2, 1, 0, -1, -2, -3, -4], [0.9, 0.4, 0, 0, 0.8, 0, 0.1, 0]
    >>> found = explain(logits, targets, delta=0)
    >>> ranking, sorting = found.parts
    >>> print(f"{ranking.value:.4f} {sorting.value:.4f}")
    0.2071 0.0375
    >>> ranking.error.round(3), ranking.terms[2].round(3)
    (array([0.   , 0.   , 0.4  , 0.429]), array([0. , 0. , 0.2, 0.2, 0. , 0. , 0. , 0. ]))
    >>> sorting.error.round(2), sorting.target_error.round(2)
    (array([0.1 , 0.35, 0.3 , 0.45]), array([0.1 , 0.35, 0.15, 0.45]))
    """
    if loss not in get_args(Loss):
        raise InputError(f"loss must be one of {', '.join(get_args(Loss))}, not {loss!r}")
    scores, marks = _tensor(logits, "logits"), _tensor(targets, "targets")
    if scores.shape != marks.shape:
        raise InputError(f"logits {tuple(scores.shape)} and targets {tuple(marks.shape)} must have one shape")
    if not scores.numel():
        raise InputError("there are no logits")
    shape, scores, marks = scores.shape, scores.flatten(), marks.flatten().to(scores.dtype)
    mask = marks > 0
    if is_positive is not None:
        mask = torch.as_tensor(is_positive)
        if mask.shape != shape or mask.dtype != torch.bool:
            raise InputError(f"is_positive must be bool of shape {tuple(shape)}, got {mask.dtype} {tuple(mask.shape)}")
        mask = mask.detach().cpu().flatten()
    delta = DELTAS[loss] if delta is None else float(delta)
    _check(scores, marks, mask, delta)
    if names is not None and not callable(names) and len(names) != len(scores):
        raise InputError(f"{len(names)} names for {len(scores)} logits")
    places = mask.nonzero().squeeze(1)
    # The best first; of equal logits the last, as in the definitions.
    order = scores[places].argsort(stable=True).flip(0)
    roles = marks.clamp(max=0).masked_fill(mask, 1)
    problem = _Problem(scores, roles, marks[places], delta, _shown(scores, roles, delta, most_shown))
    localization = None
    if loss == "rank_sort":
        parts = _rank_sort(problem)
    elif loss == "average_precision":
        parts = _average_precision(problem, interpolate)
    else:
        parts, localization = _alrp(problem, _localization_errors(localization_errors, marks[places]), order)

    def name(place: int) -> str:
        return str(place) if names is None else names(place) if callable(names) else str(names[place])

    positives = places[order]
    return Explanation(
        title=title,
        loss=loss,
        delta=delta,
        logits=_array(scores),
        targets=_array(marks),
        positives=positives.numpy(),
        shown=problem.shown.numpy(),
        positive_names=tuple(map(name, positives.tolist())),
        shown_names=tuple(map(name, problem.shown.tolist())),
        parts=parts,
        localization=localization,
    )


def worked_example(loss: Loss = "rank_sort", delta: float = 0.0) -> Explanation:
    """The worked example of the paper, figure A.4: eight logits, four positives, the hard step.

    Examples
    --------
    >>> worked_example().gradient[1:5].round(4)
    array([ 0.0375,  0.0857,  0.0857, -0.1375])
    """
    logits = np.array([3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
    targets = np.array([0.9, 0.4, 0.0, 0.0, 0.8, 0.0, 0.1, 0.0])
    return explain(logits, targets, loss, delta=delta, title=EXAMPLE)


class _Problem(NamedTuple):
    """(M,) logits and roles (1 positive, 0 negative, −1 ignored), (P,) qualities, δ, and (K,) places that are shown."""

    logits: Tensor
    roles: Tensor
    qualities: Tensor
    delta: float
    shown: Tensor

    def part(
        self,
        name: str,
        value: Tensor,
        variable: Tensor,
        definition: Definition,
        numbers: Tensor,
        epsilon: float = 1e-10,
        refine: Callable[[Tensor], Tensor] | None = None,
    ) -> Part:
        """The value of a loss function, its gradient by ``variable``, and what its definition says of ``numbers``."""
        is_kept = (self.roles == 1) | _reached(self.logits, self.roles, self.delta)
        is_kept[self.shown] = True
        chosen = is_kept.cumsum(0)[self.shown] - 1  # what no positive reaches has no terms
        kept = self.logits[is_kept], self.roles[is_kept]
        found = error_terms(
            *kept, definition, self.delta, chosen=chosen, qualities=numbers, epsilon=epsilon, refine=refine
        )
        (gradient,) = torch.autograd.grad(value, variable, retain_graph=True)
        arrays = map(_array, (*found[1:], gradient))
        return Part(name, value.item(), *arrays)


def _rank_sort(problem: _Problem) -> tuple[Part, ...]:
    own, is_positive = problem.logits.clone().requires_grad_(), problem.roles == 1
    targets = problem.roles.masked_scatter(is_positive, problem.qualities)
    ranking, sorting = rank_sort_loss(own, targets, problem.delta, is_positive=is_positive)
    return (
        problem.part("ranking", ranking, own, ranking_terms, problem.qualities),
        problem.part("sorting", sorting, own, sorting_terms, problem.qualities),
    )


def _average_precision(problem: _Problem, interpolate: bool) -> tuple[Part, ...]:
    own = problem.logits.clone().requires_grad_()
    value = ap_loss(own, problem.roles, problem.delta, interpolate=interpolate)
    refine = interpolated if interpolate else None
    return (problem.part("precision", value, own, imprecision_terms, problem.qualities, refine=refine),)


def _alrp(problem: _Problem, errors: Tensor, order: Tensor) -> tuple[tuple[Part, ...], Localization]:
    own, learned = problem.logits.clone().requires_grad_(), errors.clone().requires_grad_()
    classification, localization = alrp_loss(own, problem.roles, learned, problem.delta)
    part = problem.part("classification", classification, own, lrp_terms, errors, EPSILON)
    (gradient,) = torch.autograd.grad(localization, learned)
    return (part,), Localization(localization.item(), _array(errors[order]), _array(gradient[order]))


def _reached(logits: Tensor, roles: Tensor, delta: float) -> Tensor:
    """(M,) bool: negatives that some positive counts as above it, in part at least."""
    positives = logits[roles == 1]
    lowest = positives.min() - delta if len(positives) else logits.new_tensor(torch.inf)
    return (roles == 0) & (logits >= lowest)


def _shown(logits: Tensor, roles: Tensor, delta: float, most: int) -> Tensor:
    """Places of positives and negatives, in descending order of their logits: at most so many of each."""
    positives, negatives = (roles == 1).nonzero().squeeze(1), (roles == 0).nonzero().squeeze(1)
    if len(negatives) > most:
        negatives = _reached(logits, roles, delta).nonzero().squeeze(1)
    chosen = []
    for places in (positives, negatives):
        ranked = places[logits[places].argsort(stable=True).flip(0)]
        chosen.append(ranked[evenly(len(ranked), most)])
    both = torch.cat(chosen)
    return both[logits[both].argsort(descending=True, stable=True)]


def evenly(count: int, most: int) -> Tensor:
    """At most so many of the places 0 … count − 1, evenly spaced, both ends among them.

    Examples
    --------
    >>> evenly(3, 5).tolist(), evenly(100, 4).tolist()
    ([0, 1, 2], [0, 33, 66, 99])
    """
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most, dtype=torch.float64).round().long()


def _tensor(values: ArrayLike | Tensor, what: str) -> Tensor:
    """The values on the CPU in float64, or in float32 where they are less than that."""
    try:
        found = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers: {error}") from error
    if found.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise InputError(f"{what} must be real numbers, not {found.dtype}")
    return found if found.dtype == torch.float64 else found.double() if not found.is_floating_point() else found.float()


def _array(values: Tensor) -> Values:
    return values.detach().double().numpy()


def _check(logits: Tensor, targets: Tensor, is_positive: Tensor, delta: float) -> None:
    if not delta >= 0:
        raise InputError(f"delta must be at least 0, not {delta:g}")
    if not logits[(targets >= 0) | is_positive].isfinite().all():
        raise InputError("a logit is not finite")
    own = targets[is_positive]
    if not ((targets == -1) | (targets == 0) | is_positive).all() or not ((own >= 0) & (own <= 1)).all():
        raise InputError("a target is neither -1 (ignored) nor 0 (negative) nor in (0, 1] (positive)")


def _localization_errors(given: ArrayLike | Tensor | None, qualities: Tensor) -> Tensor:
    """(P,) localization errors in the order of the targets."""
    if given is None:
        return 1 - qualities
    errors = _tensor(given, "localization_errors").to(qualities.dtype)
    if errors.shape != qualities.shape:
        raise InputError(f"{len(qualities)} positives but localization_errors of shape {tuple(errors.shape)}")
    if not ((errors >= 0) & errors.isfinite()).all():
        raise InputError("a localization error is not a number of at least 0")
    return errors


def _descending(logits: Values, places: NDArray[np.int64]) -> NDArray[np.int64]:
    return places[np.argsort(-logits[places], kind="stable")]
