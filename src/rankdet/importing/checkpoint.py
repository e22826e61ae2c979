"""Conversion of a foreign file to a checkpoint of this package: recipe, categories and weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rankdet.data.progress import with_bar, with_spinner
from rankdet.recipes import RECIPES, Recipe, load_recipe
from rankdet.recipes.changes import differences
from rankdet.recipes.schema.data import Data
from rankdet.runs.checkpoint import save_checkpoint
from rankdet.structures import InputError

from . import from_mmdetection, from_mmdetection_1
from .adapting import Adaptation, adapted, backbone_name, take_backbone
from .categories import Category, named_categories, reordered
from .config_text import found, read_config
from .layout import LVIS_CLASSES, Layout
from .origins import Origin, converted, fitting_layouts, other_family
from .reading import ForeignCheckpoint, read_foreign
from .rules import MisfitError

ONE_OF_SEVERAL = {"ATSS": "atss", "PAA": "paa"}
"""Types of detectors in configurations of mmdetection that have the same tensors, and their names here."""


@dataclass(frozen=True)
class Imported:
    """Result of an import."""

    origin: str
    recipe: Recipe
    changes: list[tuple[str, Any, Any]]
    """Fields that differ from the built-in recipe or the recipe's file, with the values before and after."""
    num_tensors: int
    categories: tuple[list[Category], str]
    """C categories, and in words how they were found."""
    notes: list[str]

    def describe(self) -> Iterator[str]:
        """Yield the lines that the command prints."""
        categories, how = self.categories
        yield f"from: {self.origin}, {self.num_tensors} tensors"
        yield f"recipe: {self.recipe.name}"
        yield from (f"  {name} = {theirs} (the recipe has {own})" for name, own, theirs in self.changes)
        yield f"categories: {len(categories)}, {how}"
        yield from (f"note: {note}" for note in self.notes)


def import_checkpoint(
    path: Path, out: Path, recipe: str | None = None, data: Path | None = None, ema: bool | None = None
) -> Imported:
    """Convert a foreign checkpoint to one that evaluation, detection and training read.

    Parameters
    ----------
    path
        A file of mmdetection or torchvision. No code in it is run.
    out
        The new file.
    recipe
        A name or a YAML file; None selects the built-in recipe that fits.
    data
        A folder in COCO format whose categories the checkpoint gets, matched by name if the file has names.
    ema
        Whether averages of the weights (EMA) are taken, where a file has both; None takes those that lie under the
        plain names, and says where there are others.

    Raises
    ------
    InputError
        When the file cannot be read, its origin is not known, a tensor is missing, left over or of another shape, or
        the categories are not known. Then nothing is written.
    """
    if out.exists() and out.samefile(path):
        raise InputError(f"--out {out} is the file to be imported")
    with with_spinner(f"Reading {path}"):
        foreign = read_foreign(path, ema)
    folder = None if data is None else _categories_of(data, recipe)
    try:
        imported, state = understood(foreign, recipe, folder)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    save_checkpoint(out, state)
    return imported


def understood(
    foreign: ForeignCheckpoint, recipe: str | None = None, folder: list[Category] | None = None
) -> tuple[Imported, dict[str, Any]]:
    """Return the description of an import and the content of the new checkpoint, without reading or writing files."""
    config = read_config(foreign.meta.get("cfg") or foreign.meta.get("config"))
    names = _class_names(foreign.meta)
    num_categories = len(names) if names is not None else None if folder is None else len(folder)
    origin, candidates = _candidates(foreign, recipe, config, num_categories)
    candidate, num_classes, weights = _first_that_fits(foreign, origin, candidates, num_categories)
    categories, order, how = named_categories(num_classes, names, folder)
    weights = reordered(weights, order, {name: head.softmax for name, head in candidate.recipe.detector.heads.items()})
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise InputError(f"weight {name} is not finite")
    notes = [*foreign.notes, *candidate.adaptation.notes]
    if str(foreign.meta.get("mmdet_version")).startswith("1.") and origin.layouts == from_mmdetection.LAYOUTS:
        notes = [*notes, from_mmdetection_1.NOTE]  # one-stage detectors have the names of 2.x
    imported = Imported(
        _named(origin, foreign.meta),
        candidate.recipe,
        candidate.changes,
        len(foreign.tensors),
        (categories, how),
        notes,
    )
    state = {
        "recipe": candidate.recipe.model_dump(mode="json"),
        "categories": [list(category) for category in categories],
        "thresholds": None,
        "detector": weights,
        "imported": {"origin": imported.origin, "file": foreign.path.name, "notes": imported.notes},
    }
    return imported, state


@dataclass(frozen=True)
class _Candidate:
    """A recipe that a file may belong to, before and after the changes that the file requires."""

    layout: Layout
    base: Recipe
    recipe: Recipe
    adaptation: Adaptation

    @property
    def changes(self) -> list[tuple[str, Any, Any]]:
        """Return the fields that differ, with the values before and after."""
        return list(differences(self.base.model_dump(mode="json"), self.recipe.model_dump(mode="json")))


def _candidates(
    foreign: ForeignCheckpoint, recipe: str | None, config: Mapping[str, Any], num_categories: int | None
) -> tuple[Origin, list[_Candidate]]:
    """Return the origin of a file, and the recipes to try, those with the fewest changes first."""
    origin, layouts = fitting_layouts(foreign.tensors)
    by_family = {layout.family: layout for layout in layouts}
    if recipe is not None:
        named = load_recipe(recipe)
        if named.detector.type not in by_family:
            raise InputError(other_family(origin, layouts, named))
        pairs = [(by_family[named.detector.type], named)]
    else:
        stated = ONE_OF_SEVERAL.get(str(found(config, "model", "type")))
        if stated in by_family:
            by_family = {stated: by_family[stated]}
        if len(by_family) > 1:
            examples = " or ".join(f"--recipe {layout.recipes[0]}" for layout in by_family.values())
            raise InputError(
                f"{' and '.join(by_family)} of {origin.name} have the same tensors, and the file does not say which it "
                f"is: give {examples}"
            )
        pairs = [
            (layout, RECIPES[name]())
            for layout in by_family.values()
            for name in _names_of(layout, foreign, num_categories)
        ]
    candidates = [_Candidate(layout, base, *_taken(origin, base, foreign, config)) for layout, base in pairs]
    # The networks of SOLOv2 are the same for both losses; only the configuration shows which it was.
    is_ranking = _has_ranking_heads(foreign.meta) if "model" in config else True
    return origin, sorted(
        candidates, key=lambda candidate: (len(candidate.changes), candidate.base.name.startswith("rs_") != is_ranking)
    )


def _names_of(layout: Layout, foreign: ForeignCheckpoint, num_categories: int | None) -> tuple[str, ...]:
    first = RECIPES[layout.recipes[0]]()
    is_lvis = layout.num_classes(foreign.tensors, first.detector, num_categories) == LVIS_CLASSES
    return layout.lvis_recipes if layout.lvis_recipes and is_lvis else layout.recipes


def _taken(
    origin: Origin, base: Recipe, foreign: ForeignCheckpoint, config: Mapping[str, Any]
) -> tuple[Recipe, Adaptation]:
    adaptation = Adaptation()
    take_backbone(adaptation, base, backbone_name(foreign.tensors, origin.backbone))
    origin.adapt(adaptation, base, foreign.tensors, config)
    return adapted(base, adaptation), adaptation


def _first_that_fits(
    foreign: ForeignCheckpoint, origin: Origin, candidates: Sequence[_Candidate], num_categories: int | None
) -> tuple[_Candidate, int, dict[str, Tensor]]:
    """Return the recipe, C and the weights."""
    misfits: list[tuple[int, str]] = []
    stem = f"{origin.backbone}.conv1.weight"
    for candidate in with_bar(candidates, "Comparing with recipes"):
        tensors = foreign.tensors
        if candidate.adaptation.is_bgr and stem in tensors:
            tensors = tensors | {stem: tensors[stem].flip(1)}
        try:
            num_classes, weights = converted(tensors, candidate.layout, candidate.recipe, num_categories)
        except MisfitError as error:
            kind = f"{candidate.layout.family} of {origin.name}, as recipe {candidate.base.name} has it"
            misfits.append((error.count, f"{kind}: {error}"))
            continue
        return candidate, num_classes, weights
    raise MisfitError(*min(misfits))


def _categories_of(folder: Path, recipe: str | None) -> list[Category]:
    """Return the categories of a data folder: those of its validation split, or of its training split without one."""
    data = (Data(batch_size=1) if recipe is None else load_recipe(recipe).data).at(folder)
    return data.build_test_dataset(None if data.find_validation_source() else data.train_split).categories


def _class_names(meta: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the labels as mmdetection stores them; None if the file has none."""
    of_data = meta.get("dataset_meta")  # 3.x
    places = [meta, *([of_data] if isinstance(of_data, Mapping) else [])]
    for names in (place.get(key) for place in places for key in ("CLASSES", "classes")):
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return None


def _named(origin: Origin, meta: Mapping[str, Any]) -> str:
    """Return the name of the program, with its version if the file has it."""
    version = meta.get("mmdet_version")
    name = f"mmdetection {version}" if isinstance(version, str) else origin.name
    return f"{name}, the authors' fork for Rank & Sort Loss" if _has_ranking_heads(meta) else name


def _has_ranking_heads(meta: Mapping[str, Any]) -> bool:
    return any(word in str(meta.get("config")) for word in ("RankBased", "RankSort"))
