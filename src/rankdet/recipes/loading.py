"""Recipes from names, YAML files and ``field=value`` overrides; every mistake is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .changes import merged, nested
from .migration import migrated
from .schema.config import input_error, suggestion
from .schema.recipe import Recipe, validated

MOST_NODES = 100_000
"""The most values of a recipe; the longest built-in one has a few hundred."""


class _YAML(yaml.SafeLoader):
    """YAML that refuses a key that is twice in a mapping, of which YAML itself takes the last one.

    It also refuses aliases that would make more than `MOST_NODES` values of a short text, or of one that is in itself.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        is_alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if is_alias and id(node) not in self._sizes:
            raise yaml.MarkedYAMLError(problem="an alias stands in what it means", problem_mark=mark)
        if node is not None and not is_alias:
            pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
            inner = [] if isinstance(node, yaml.ScalarNode) else [each for pair in pairs for each in pair]
            self._sizes[id(node)] = size = 1 + sum(self._sizes[id(each)] for each in inner)
            if size > MOST_NODES:
                raise yaml.MarkedYAMLError(problem=f"more than {MOST_NODES} values", problem_mark=node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


def load_recipe(name_or_file: str | Path, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Return the recipe of a built-in name or of a YAML file, with overrides.

    Parameters
    ----------
    name_or_file
        A name of ``RECIPES``, or the path of a YAML file. Such a file holds ``base: NAME_OR_FILE`` and the fields that
        differ, or, without ``base``, all fields. A file named by ``base`` is looked for beside the file that names it.
    overrides
        ``field=value`` with a dotted field and a YAML value, or a mapping of dotted fields. They are applied last.

    Raises
    ------
    InputError
        An unknown name, a file that cannot be read, a circle of bases, and all unknown fields and wrong values at once.

    Notes
    -----
    Mappings are merged field by field. A mapping that names another ``type`` than the one it changes replaces it.
    ``type: module:Name`` imports a part of someone else.

    Examples
    --------
    >>> load_recipe("rs_faster_rcnn_shapes", ["schedule.iterations=7"]).schedule.iterations
    7
    """
    from .library import RECIPES

    fields = _fields(name_or_file, RECIPES, chain=())
    changes = overrides if isinstance(overrides, Mapping) else parsed_overrides(overrides)
    return validated(merged(fields, nested(changes)), f"recipe {str(name_or_file)!r}", trust=True)


def _fields(name_or_file: str | Path, recipes: Mapping[str, Callable[[], Recipe]], chain: tuple[Path, ...]) -> Any:
    name = str(name_or_file)
    if name in recipes:
        return recipes[name]().model_dump(mode="json")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise input_error(f"unknown recipe {name!r}{suggestion(name, recipes)} (`rankdet list` shows all of them)")
    path = path.resolve()
    if path in chain:
        raise input_error(f"recipes stand on each other in a circle: {' -> '.join(map(str, (*chain, path)))}")
    fields = _read_yaml(path)
    base = fields.pop("base", None)
    if base is None:
        return migrated(fields)
    if not isinstance(base, str):
        raise input_error(f"{path}: base must be the name of a recipe or of a file, not {base!r}")
    is_file = base not in recipes and base.endswith((".yaml", ".yml"))
    changed = _fields(path.parent / base if is_file else base, recipes, (*chain, path))
    return merged(changed, migrated(fields, changed))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.load(path.read_text(encoding="utf-8"), _YAML)
    except OSError as error:
        raise input_error(f"cannot read recipe {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise input_error(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        raise input_error(f"{path}: a recipe is a mapping of fields, not {type(fields).__name__}")
    return fields


def parsed_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the dotted fields of ``field=value`` overrides with their values.

    Raises
    ------
    InputError
        When a text is no override, or its value no YAML.

    Examples
    --------
    >>> parsed_overrides(["optimizer.lr=0.1", "losses.rpn={type: focal}"])
    {'optimizer.lr': 0.1, 'losses.rpn': {'type': 'focal'}}
    """
    changes = {}
    for override in overrides:
        dotted, equals, value = override.partition("=")
        if not equals or not all(dotted.split(".")):
            raise input_error(f"{override!r} is no override; write field=value, for example optimizer.lr=0.01")
        try:
            changes[dotted] = yaml.load(value, _YAML)
        except yaml.YAMLError as error:
            raise input_error(f"the value of {override!r} is no YAML: {' '.join(str(error).split())}") from error
    return changes


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that runs again alone.

    Examples
    --------
    >>> dump(load_recipe("faster_rcnn_shapes")).splitlines()[0]
    'name: faster_rcnn_shapes'
    """
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
