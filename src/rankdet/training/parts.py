"""What a caller brings to a training: parts in place of those of the recipe, and callbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn
from torch.optim import Optimizer

from rankdet.data import CocoDataset
from rankdet.data.own import MapDataset, from_map_dataset
from rankdet.data.preparation import Prepared, prepare
from rankdet.recipes import Recipe
from rankdet.recipes.schema.data import Data
from rankdet.structures import InputError
from rankdet.training.optimization import OwnOptimizer

if TYPE_CHECKING:
    from rankdet.training.running import TrainedRun

OwnDatasets = tuple[MapDataset | CocoDataset, MapDataset | CocoDataset | None]
"""Images to learn from, and images to evaluate on or None."""


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


_METHODS = tuple(name for name in vars(Callback) if name.startswith("on_"))


@dataclass(frozen=True)
class Parts:
    """The caller's own parts of a training: the arguments of these names of `rankdet.training.running.train`."""

    network: nn.Module | None = None
    losses: Mapping[str, nn.Module] = field(default_factory=dict)
    datasets: OwnDatasets | None = None
    classes: Sequence[str] | None = None
    optimizer: OwnOptimizer | None = None
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        if self.network is not None and not (
            isinstance(self.network, nn.Module) and callable(getattr(self.network, "detect", None))
        ):
            raise InputError("network must be an nn.Module with forward(batch) and detect(images)")
        losses = self.losses.values() if isinstance(self.losses, Mapping) else [None]
        if not all(isinstance(loss, nn.Module) for loss in losses):
            raise InputError('losses must be modules by the names of their heads, for example {"rcnn": MyLoss()}')
        if self.datasets is not None and (not isinstance(self.datasets, tuple | list) or len(self.datasets) != 2):
            raise InputError("datasets must be a pair: the images to learn from, and those to evaluate on or None")
        if self.optimizer is not None and not isinstance(self.optimizer, Optimizer) and not callable(self.optimizer):
            raise InputError("optimizer must be an optimizer, or a callable that makes one of parameter groups")
        if self.classes is not None and self.datasets is None:
            raise InputError("classes are those of datasets; a data folder names its own")
        if not isinstance(self.callbacks, Sequence):
            raise InputError("callbacks must be a list of objects")
        for callback in self.callbacks:
            missing = [name for name in _METHODS if not callable(getattr(callback, name, None))]
            if missing:
                raise InputError(f"callback {type(callback).__name__} has no method {', '.join(missing)}")

    def names(self) -> dict[str, str]:
        """The part → its import path, of each part that the caller brought."""
        named = {"network": self.network, "datasets": self.datasets and self.datasets[0], "optimizer": self.optimizer}
        named |= {f"losses[{head!r}]": loss for head, loss in self.losses.items()}
        return {name: import_path(part) for name, part in named.items() if part is not None}

    def check_same(self, before: Mapping[str, str], path: Path) -> None:
        """Raise InputError unless these are the parts that a run of the checkpoint ``path`` was started with."""
        own = self.names()
        for name in [*before, *own]:
            if before.get(name) != own.get(name):
                expected = f"with {name} = {before[name]}, pass it again" if name in before else f"without {name}"
                given = own.get(name, "none")
                raise InputError(f"checkpoint {path} does not fit: its run was started {expected} (given: {given})")

    def prepare(self, recipe: Recipe, has_masks: bool) -> Prepared:
        """Read and check the data of a training: the caller's own, or those of the recipe."""
        evaluation = recipe.evaluation
        if self.datasets is None:
            return evaluation.checked(recipe.data.prepare(has_masks, evaluation.is_asked))
        own, own_test = self.datasets
        prepared = prepare(
            "given data sets",
            lambda: self._own_training_set(own, recipe.data, has_masks),
            lambda: self._own_test_set(own_test if evaluation.is_asked else None, recipe.data, has_masks),
        )
        return evaluation.checked(prepared)

    def _own_training_set(self, own: MapDataset | CocoDataset, data: Data, has_masks: bool) -> CocoDataset:
        transforms = data.build_transforms(training=True)
        if not isinstance(own, CocoDataset):
            return from_map_dataset(
                own,
                "train_set",
                self.classes,
                transforms,
                with_masks=has_masks,
                keep_empty=data.keep_empty,
                min_object=data.min_object,
            )
        if has_masks and not own.with_masks:
            raise InputError("the network learns from masks: make the data set with with_masks=True")
        return own.with_transforms(transforms)

    def _own_test_set(self, own: MapDataset | CocoDataset | None, data: Data, has_masks: bool) -> CocoDataset | str:
        transforms = data.build_transforms(training=False)
        if own is None:
            return "there is no data set for it, or the recipe asks for no evaluation"
        if isinstance(own, CocoDataset):
            return own.with_transforms(transforms)
        return from_map_dataset(own, "val_set", self.classes, transforms, measure_masks=has_masks)


def import_path(part: object) -> str:
    """The module and name of a class or function, or of the class of any other object.

    Examples
    --------
    >>> import_path(nn.Linear(1, 1)), import_path(import_path)
    ('torch.nn.modules.linear:Linear', 'rankdet.training.parts:import_path')
    """
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}:{named.__qualname__}"
