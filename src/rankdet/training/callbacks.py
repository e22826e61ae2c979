"""What a caller gets to know while a training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rankdet.training.running import TrainedRun


class Callback(Protocol):
    """Methods that a training calls on its main process; any object that has them serves.

    A method that raises stops the training: it finishes the iteration, writes a checkpoint, and raises the error. So a
    run can be resumed, and no error is lost. Catch in the method what should not stop a training.
    """

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Take a record of the log: ``iteration``, ``epoch``, ``lr``, ``loss``, ``statistics``, ``timing``."""
        ...

    def on_evaluation(self, record: Mapping[str, Any]) -> None:
        """Take an evaluation: ``iteration``, and as ``metrics`` the numbers of `rankdet.metrics.evaluate`."""
        ...

    def on_end(self, run: TrainedRun) -> None:
        """Take the run when it has ended, also where a signal stopped it; not where an error did."""
        ...
