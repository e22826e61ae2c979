"""Which evaluation of a run was the best, and when a training no longer waits for a better one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run, read_log, with_nan
from rankdet.structures import InputError


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run so far, as its checkpoints keep it.

    Parameters
    ----------
    metric
        The number by which evaluations are compared. Errors, whose names begin with ``oLRP``, are better where they are
        lower, and all others where they are higher.
    value
        That of the best evaluation; None before any has one.
    iteration
        Where it was made.
    evaluations_since
        How many evaluations after it were not better.
    """

    metric: str
    value: float | None = None
    iteration: int = 0
    evaluations_since: int = 0

    def after(self, iteration: int, metrics: Mapping[str, Any]) -> Best:
        """The best one after an evaluation with the numbers ``metrics``; one without the metric changes nothing.

        Examples
        --------
        >>> first = Best("AP").after(100, {"AP": 0.25})
        >>> first.after(200, {"AP": 0.25})
        Best(metric='AP', value=0.25, iteration=100, evaluations_since=1)
        >>> first.after(200, {"AP": 0.3, "masks": {"AP": 0.2}}).iteration  # of masks, where there are some
        100
        """
        value = measured(metrics, self.metric)
        if value is None:
            return self
        lower_is_better = self.metric.startswith("oLRP")
        if self.value is not None and (value >= self.value if lower_is_better else value <= self.value):
            return replace(self, evaluations_since=self.evaluations_since + 1)
        return Best(self.metric, value, iteration)

    def describe(self) -> str:
        """The best value and where it was, in words."""
        return f"{self.metric} {self.value:.3f} at iteration {self.iteration}"


def measured(metrics: Mapping[str, Any], name: str) -> float | None:
    """A number of an evaluation: that of masks where these were measured, otherwise that of boxes, or None.

    Examples
    --------
    >>> measured({"AP": 0.5, "masks": {"AP": math.nan}}, "AP")
    0.5
    """
    for numbers in (metrics.get("masks", {}), metrics):
        value = numbers.get(name)
        if value is not None and math.isfinite(value):
            return float(value)
    return None


def evaluations(run: Run) -> Iterator[tuple[int, dict[str, Any]]]:
    """The iteration and the numbers of each evaluation in the log, as they were measured."""
    for record in read_log(run.log):
        if record.get("kind") == "evaluation":
            yield record["iteration"], with_nan(record["metrics"])


def best_of_log(run: Run, best: Best) -> Best:
    """The best evaluation by a metric that the run did not have before: ``best`` after all that are in the log.

    Where the checkpoint of the best one is gone, it is the best of those whose checkpoints are left: nothing worse
    takes the place of the one that is named the best.
    """
    left, named = best, _named_best(run)
    for iteration, metrics in evaluations(run):
        best = best.after(iteration, metrics)
        if iteration == named or run.checkpoint(iteration).exists():
            left = left.after(iteration, metrics)
    return best if left.iteration == best.iteration else left


def name_best(run: Run, best: Best) -> None:
    """Give the best checkpoint its second name, where a kill came between the two or the second file is damaged."""
    if best.value is not None and run.checkpoint(best.iteration).exists() and _named_best(run) != best.iteration:
        run.keep_as_best(best.iteration)


def _named_best(run: Run) -> int | None:
    """The iteration of the checkpoint that is named the best; None where there is none or its file is damaged."""
    try:
        return int(load_checkpoint(run.best_checkpoint)["iteration"])
    except InputError:
        return None
