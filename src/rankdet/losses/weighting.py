"""Instance weights of the positives in a localization loss.

A weighting is any callable that takes the candidates, their positives, and the ranking of the positives (None beside a
loss that ranks nothing). It returns (P,) detached weights ≥ 0. Their scale does not matter, because a weighted mean
divides by their sum.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.candidates import Positives
from rankdet.losses.processes import Processes
from rankdet.losses.steps import prefix_sums
from rankdet.ranges import NonNegative, checked
from rankdet.structures import Candidates

MIN_SUM = 1e-10
"""Below this sum of weights nothing is divided (the authors' code)."""


class Ranking(NamedTuple):
    """What a ranking loss has found out about the positives.

    ranks
        (P,) soft rank of each positive among all candidates, detached.
    processes
        The processes whose candidates these ranks are among.
    """

    ranks: Tensor
    processes: Processes


class NoWeights:
    """Every positive counts the same."""

    def __call__(self, candidates: Candidates, positives: Positives, ranking: Ranking | None = None) -> Tensor:
        """(P,) ones."""
        return torch.ones_like(positives.rows, dtype=torch.float32)


class CenternessWeights:
    r"""How central the anchor of a positive lies in its object, as in FCOS and ATSS.

    .. math:: w_i = \sqrt{\frac{\min(l, r)}{\max(l, r)} \frac{\min(t, b)}{\max(t, b)}}

    with the distances from the center of the anchor to the sides of the object; a detector passes them as
    ``Candidates.centerness``.
    """

    def __call__(self, candidates: Candidates, positives: Positives, ranking: Ranking | None = None) -> Tensor:
        """(P,) in [0, 1]; raises ValueError where a head passes no centerness."""
        if candidates.centerness is None:
            raise ValueError(f"head {candidates.head!r} passes no centerness, which its weights need")
        return candidates.centerness.detach().float()


class ScoreWeights:
    """The best score of a positive over all classes; see :func:`score_weights`."""

    def __call__(self, candidates: Candidates, positives: Positives, ranking: Ranking | None = None) -> Tensor:
        """(P,) in (0, 1)."""
        return score_weights(positives.logits)


class IoUWeights:
    """The IoU of a positive's predicted box with its object, as in PAA.

    Where all IoUs are 0, the weights and the loss of the boxes are 0, as in the authors' code of PAA.
    """

    def __call__(self, candidates: Candidates, positives: Positives, ranking: Ranking | None = None) -> Tensor:
        """(P,) in [0, 1]; raises ValueError where a head passes no boxes."""
        if positives.overlap is None:
            raise ValueError(f"head {candidates.head!r} passes no boxes, which its weights need")
        return positives.overlap.iou.detach()


@checked
class RankingWeights:
    r"""The part of a positive in the ranking: it counts in the rank of every positive below it.

    .. math:: w_i = \frac{1}{|P|} \sum_{k \in P} \frac{H(x_{ki})}{rank(k)}, \qquad x_{ki} = s_i - s_k

    (tables A.11 and A.13 of the paper), with s the logit of a positive's own class. O(P log P) time, O(P) memory. Where
    a loss ranks the candidates of all processes in one pool, the sum goes over the positives of all of them.

    Parameters
    ----------
    delta_loc
        Half the width of the linear part of H in the numerator, in logits; 0, the default, is the hard step. The ranks
        are those of the ranking loss, with its own δ.

    Notes
    -----
    With the hard step weights add up to 1 − L_R (but for the δ of the ranks), and the upper positives have most of it.
    Of P that are all ranked right, the r-th has about ln(P / r) / P, and the lower half (1 − ln 2) / 2 = 15 % of all. A
    soft step is nearer to equal weights. Table A.13 of the paper is best with 1.5 (39.9 AP, and 39.5 without), and
    table A.11 has the 39.9.
    """

    def __init__(self, delta_loc: NonNegative = 0.0) -> None:
        self.delta_loc = delta_loc

    def __call__(self, candidates: Candidates, positives: Positives, ranking: Ranking | None = None) -> Tensor:
        """(P,) weights; raises ValueError where the classification loss ranks nothing."""
        if ranking is None:
            raise ValueError(f"head {candidates.head!r}: weights by rank need a loss that ranks")
        num_classes = positives.logits.shape[1]
        own = candidates.labels[positives.rows, None].clamp(0, num_classes - 1)  # rows that are no positives' are NaN
        logits = positives.logits.gather(1, own).squeeze(1)
        gathered, first = ranking.processes.gather(torch.stack([logits.double(), ranking.ranks.double()]))
        return ranking_weights(gathered[0], gathered[1], self.delta_loc)[first : first + len(logits)]


Weighting = NoWeights | CenternessWeights | ScoreWeights | IoUWeights | RankingWeights


def score_weights(logits: Tensor) -> Tensor:
    r"""(P,) weights of positives by its best score, :math:`w_i = \max_c \sigma(s_{ic})`, detached.

    The maximum is over all classes, not the class of the object (the authors' code; the paper writes "scores").

    Examples
    --------
    >>> import torch
    >>> score_weights(torch.tensor([[0.0, -4.0], [-9.0, 0.0]]))
    tensor([0.5000, 0.5000])
    """
    return logits.detach().float().amax(dim=1).sigmoid()


def ranking_weights(logits: Tensor, ranks: Tensor, delta_loc: float = 0.0) -> Tensor:
    r"""Weight of a positive by what it adds to the ranking, :math:`w_i = \frac{1}{|P|} \sum_k H(s_i - s_k) / rank(k)`.

    Logits and ranks are (P,), the ranks those among all candidates. ``delta_loc`` is half the width of the linear part
    of H, in logits; 0 is the hard step. The weights are float32 and detached.

    Examples
    --------
    The higher positive counts in the rank of both:

    >>> import torch
    >>> ranking_weights(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0]))
    tensor([0.6250, 0.1250])
    """
    scores, order = logits.detach().double().sort()
    shares = 1 / ranks.detach().double()[order]
    before = prefix_sums(shares)
    # H is 1 for the k below the window around s_i, linear for those inside.
    last = torch.searchsorted(scores, scores + delta_loc, right=True)
    if delta_loc == 0:
        sums = before[last]
    else:
        first = torch.searchsorted(scores, scores - delta_loc)
        moments = prefix_sums(shares * scores)
        inside = before[last] - before[first]
        linear = (scores * inside - (moments[last] - moments[first])) / (2 * delta_loc) + inside / 2
        sums = before[first] + linear
    weights = torch.empty_like(sums).scatter_(0, order, sums / max(1, len(sums)))
    return weights.float()


def usable_sum(total: Tensor) -> Tensor:
    """A scalar sum of weights by which a weighted sum can be divided: 1 where it is next to nothing."""
    return total.where(~(total < MIN_SUM), 1.0)
