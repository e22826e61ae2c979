"""Recipes from names, YAML files and ``field=value`` overrides; every mistake is reported at once."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .schema.recipe import Recipe


class _YAML(yaml.SafeLoader):
    """YAML in which a key that stands twice in a mapping is a mistake; as such, YAML takes the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


def _input_error(message: str) -> ValueError:
    # structures imports torch; a recipe that is right never needs it, so that the command line starts at once.
    from rankdet.structures import InputError

    return InputError(message)


def load_recipe(name_or_file: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a built-in name or of a YAML file, with overrides.

    Parameters
    ----------
    name_or_file
        A name of ``RECIPES``, or the path of a YAML file. Such a file holds ``base: NAME_OR_FILE`` and the fields that
        differ, or, without ``base``, all fields. A file named by ``base`` is looked for beside the file that names it.
    overrides
        ``field=value`` with a dotted field and a YAML value. They are applied last.

    Raises
    ------
    InputError
        An unknown name, a file that cannot be read, a circle of bases, and all unknown fields and wrong values at once.

    Notes
    -----
    Mappings are merged field by field. A mapping that names another ``type`` than the one it changes replaces it.

    Examples
    --------
    >>> load_recipe("rs_faster_rcnn_shapes", ["schedule.iterations=7"]).schedule.iterations
    7
    """
    from . import RECIPES

    fields = _fields(name_or_file, RECIPES, chain=())
    return validated(merged(fields, _overriding(overrides)), f"recipe {str(name_or_file)!r}")


def _fields(name_or_file: str | Path, recipes: Mapping[str, Callable[[], Recipe]], chain: tuple[Path, ...]) -> Any:
    name = str(name_or_file)
    if name in recipes:
        return recipes[name]().model_dump(mode="json")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise _input_error(f"unknown recipe {name!r}{_suggestion(name, recipes)} (`rankdet list` shows all of them)")
    path = path.resolve()
    if path in chain:
        raise _input_error(f"recipes stand on each other in a circle: {' -> '.join(map(str, (*chain, path)))}")
    fields = _read_yaml(path)
    base = fields.pop("base", None)
    if base is None:
        return fields
    if not isinstance(base, str):
        raise _input_error(f"{path}: base must be the name of a recipe or of a file, not {base!r}")
    is_file = base not in recipes and base.endswith((".yaml", ".yml"))
    return merged(_fields(path.parent / base if is_file else base, recipes, (*chain, path)), fields)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), _YAML)
    except OSError as error:
        raise _input_error(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _input_error(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise _input_error(f"{path}: a recipe is a mapping of fields, not {type(fields).__name__}")
    return fields


def _overriding(overrides: Iterable[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for override in overrides:
        dotted, equals, value = override.partition("=")
        names = dotted.split(".")
        if not equals or not all(names):
            raise _input_error(f"{override!r} is no override; write field=value, for example optimizer.lr=0.01")
        try:
            parsed = yaml.load(value, _YAML)
        except yaml.YAMLError as error:
            raise _input_error(f"the value of {override!r} is no YAML: {' '.join(str(error).split())}") from error
        for name in reversed(names):
            parsed = {name: parsed}
        fields = merged(fields, parsed)
    return fields


def merged(fields: Any, changes: Any) -> Any:
    """``fields`` with ``changes``, mapping by mapping; a mapping of another ``type`` replaces the old one.

    Examples
    --------
    >>> merged({"lr": 1, "schedule": {"type": "step", "gamma": 0.1}}, {"schedule": {"gamma": 0.5}})
    {'lr': 1, 'schedule': {'type': 'step', 'gamma': 0.5}}
    >>> merged({"schedule": {"type": "step", "gamma": 0.1}}, {"schedule": {"type": "cosine"}})
    {'schedule': {'type': 'cosine'}}
    """
    if not isinstance(fields, dict) or not isinstance(changes, dict):
        return changes
    if "type" in fields and changes.get("type", fields["type"]) != fields["type"]:
        return changes
    return fields | {name: merged(fields.get(name), change) for name, change in changes.items()}


def validated(fields: Any, source: str) -> Recipe:
    """The recipe of plain ``fields``; raises InputError with every mistake and its dotted path."""
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        mistakes = [_mistake(fields, details["loc"], details) for details in error.errors()]
        raise _input_error(f"{source}: {'; '.join(mistakes)}") from error


def _mistake(fields: Any, location: tuple[int | str, ...], details: Any) -> str:
    path, value = [], fields
    for part in location:
        if isinstance(value, dict) and part not in value and value.get("type") == part:
            continue  # pydantic puts the chosen type of a union into the path; a user never wrote it there
        path.append(str(part))
        known = (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int))
        value = value[part] if known else None
    dotted = ".".join(path) or "the recipe"
    if details["type"] == "extra_forbidden":
        return f"{dotted}: unknown field{_suggestion(str(location[-1]), _known_fields(location[:-1]))}"
    if details["type"] == "missing":
        return f"{dotted}: missing"
    message = details["msg"].removeprefix("Value error, ")
    # What does not fit together among the fields of a mapping says it all; the whole mapping would only hide it.
    is_whole = details["type"] == "value_error" and isinstance(details["input"], dict | BaseModel)
    got = "" if is_whole else f", got {details['input']!r}"
    return f"{dotted}: {message[:1].lower()}{message[1:]}{got}"[:300]


def _known_fields(location: tuple[int | str, ...]) -> list[str]:
    annotation: Any = Recipe
    for part in location:
        annotation = _descend(annotation, part)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def _descend(annotation: Any, part: int | str) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        return None if field is None else _without_none(field.annotation)
    members = [_without_none(member) for member in typing.get_args(annotation)]
    if typing.get_origin(annotation) in (dict, Mapping):
        return members[-1]
    for member in _flat(members):
        if isinstance(member, type) and issubclass(member, BaseModel) and member.model_fields["type"].default == part:
            return member
    return None


def _flat(members: Iterable[Any]) -> Iterable[Any]:
    for member in members:
        if typing.get_args(member):
            yield from _flat(typing.get_args(member))
        else:
            yield member


def _without_none(annotation: Any) -> Any:
    members = [member for member in typing.get_args(annotation) if member is not type(None)]
    return members[0] if len(members) == 1 else annotation


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML that runs again alone.

    Examples
    --------
    >>> dump(load_recipe("faster_rcnn_shapes")).splitlines()[0]
    'name: faster_rcnn_shapes'
    """
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
