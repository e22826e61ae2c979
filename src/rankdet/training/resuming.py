"""From the newest checkpoint of a run to the training that is asked for now.

What a run was started with may change in part: its length, where its data lie, how many images an iteration has and
how many processes share them. Where nothing of this has changed, it goes on bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdet.recipes import Recipe, validated
from rankdet.recipes.changes import FREE_FIELDS, PLACES_OF_DATA, RESUMABLE_FIELDS, differences
from rankdet.structures import InputError
from rankdet.training.setup import Training

_UNTOLD = FREE_FIELDS - {f"data.{name}" for name in PLACES_OF_DATA}
"""Fields whose change nobody needs to be told of."""


def resumed(state: dict[str, Any], path: Path, training: Training) -> tuple[dict[str, Any], str]:
    """The entries of the checkpoint ``path`` for a training as it is now, and in words what has changed.

    The stream of images goes on where it was, also in batches of another size: in an epoch no image is drawn twice, and
    none is left out. A length in epochs goes on at the epoch
    that was reached, and a length in iterations at the iteration. Processes that are new, or fewer, draw new random
    numbers.

    Raises
    ------
    InputError
        When a field has changed that makes it another training, the categories are others, or more is done than is
        asked for.
    """
    recipe, world, iteration = training.recipe, training.world, state["iteration"]
    if min(iteration, iteration - state["shift"], state["samples"]) < 0 or state["world_size"] < 1:
        raise InputError(f"checkpoint {path} does not fit: a run has no iteration {iteration} of its numbers")
    before = validated(state["recipe"], f"recipe in {path}")
    changed = _changed_fields(recipe, before, path)
    training.dataset.ground_truth.check_categories(state["categories"], f"checkpoint {path}")
    old_images = before.data.batch_size * state["world_size"] * before.runtime.accumulation
    samples = state["samples"] or iteration * old_images
    place = iteration - state["shift"]
    if recipe.schedule.iterations is None:
        old_epoch = math.ceil(state["data"].get("samples", training.num_samples) / old_images)
        place = round(place / old_epoch * training.iterations_per_epoch)
    else:
        place = iteration
    if place > training.num_iterations:
        raise InputError(
            f"checkpoint {path} is at iteration {place}, and the run is to have {training.num_iterations}: ask for "
            f"more (schedule.iterations=N or schedule.epochs=N), or start a new run"
        )
    lines = []
    if state["world_size"] != world.size:
        changed.append(f"{state['world_size']} → {world.size} processes")
    if changed:
        lines.append(f"changed: {', '.join(changed)}")
    is_same_stream = (old_images, state["world_size"]) == (training.num_images, world.size)
    if not is_same_stream or before.data.batch_size != recipe.data.batch_size:
        lines.append(
            f"the stream of images goes on after {samples} images, in other batches: the result is not bit for bit "
            "that of a run without this change"
        )
    lines += _changed_data(state["data"], training.fingerprint)
    if place == training.num_iterations:
        lines.append(f"all {place} iterations are done; schedule.iterations=N or schedule.epochs=N asks for more")
    old_step, step = before.data.batch_size * state["world_size"], recipe.data.batch_size * world.size
    stream = state["stream"]
    if old_step != step:
        steps = (samples - sum(images * steps for images, steps in stream)) // old_step
        stream = [*stream, [old_step, steps]]
    state = state | {"samples": samples, "shift": iteration - place, "stream": stream}
    if state["world_size"] != world.size:
        state |= _for_other_processes(state, world.size)
    return state, "\n".join(lines)


def _changed_fields(recipe: Recipe, before: Recipe, path: Path) -> list[str]:
    """The fields that have changed, in words; raises InputError where one of them may not."""
    changed, refused = [], []
    for field, value, other in differences(recipe.model_dump(mode="json"), before.model_dump(mode="json")):
        if field in RESUMABLE_FIELDS or field.startswith("evaluation."):
            changed += [] if field in _UNTOLD else [f"{field} {other} → {value}"]
        else:
            refused.append(f"{field}={value}, and it was trained with {other}")
    if refused:
        raise InputError(
            f"checkpoint {path} does not fit: the recipe of the run says {'; '.join(refused)}; change it back, or "
            "start a new run from its weights (--weights, in Python weights=)"
        )
    return changed


def _changed_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A warning where a run goes on with other data; checkpoints of 0.1.0 do not know theirs."""
    if not before or before["digest"] == now["digest"]:
        return []
    numbers = [f"{before[name]} → {now[name]} {name}" for name in ("images", "objects") if before[name] != now[name]]
    return [
        "warning: the training data are not those of the checkpoint: "
        f"{', '.join(numbers) or 'as many images and objects, with other ids, sizes, classes or boxes'}; the run goes "
        "on with these (for the others: --data FOLDER, in Python data=)"
    ]


def _for_other_processes(state: Mapping[str, Any], num_processes: int) -> dict[str, Any]:
    """The entries that a checkpoint has for each process, for another number of them."""
    old = state["statistics"]
    skipped = sum(own["skipped"] for own in old)
    statistics = [
        {"statistics": None, "skipped": skipped if rank == 0 else 0, "losses": old[rank % len(old)]["losses"]}
        for rank in range(num_processes)
    ]
    return {"world_size": num_processes, "random_states": [None] * num_processes, "statistics": statistics}
