"""What a part takes, read from its source file: names, annotations and defaults.

Files of rankdet are parsed and not imported, so that recipes are validated without torch.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

AsPart = Callable[[str], Any]
"""From ``"module:Name"`` of a class to what takes its place in annotations and defaults."""
PACKAGE = Path(__file__).parents[2]


class _Outside(type):
    def __getattr__(cls, name: str) -> _Outside:
        if name.startswith("_"):
            raise AttributeError(name)
        return cls


class Outside(metaclass=_Outside):
    """What takes the place of names from packages that are not imported: no field has such a value."""


class Signature(NamedTuple):
    """The parameters of a part, whose annotations are evaluated by a call, and the constants of its class.

    Only the keyword-only parameters of a builder, a function or a class method ``build``, are fields of a recipe.
    """

    parameters: tuple[inspect.Parameter, ...]
    constants: Mapping[str, Any]
    is_builder: bool


def read_signature(target: str, as_part: AsPart) -> Signature:
    """Return what ``"module:Name"`` takes: the parameters of its ``build``, or else of its constructor.

    A module outside of rankdet must have been imported before.

    Raises
    ------
    LookupError
        When the module has no such class or function.
    """
    module, _, name = target.partition(":")
    source, name = _source(module, as_part).locate(name)
    return source.signature(name)


@functools.cache
def _source(module: str, as_part: AsPart) -> _Source:
    first, *rest = module.split(".")
    if first == "rankdet":
        path = PACKAGE.joinpath(*rest)
        return _Source(module, path / "__init__.py" if path.is_dir() else path.with_suffix(".py"), as_part)
    return _Source(module, Path(inspect.getfile(importlib.import_module(module))), as_part)


class _Source(Mapping[str, Any]):
    """A parsed module. Its items are the values of its names, as far as annotations and defaults need them."""

    def __init__(self, module: str, path: Path, as_part: AsPart) -> None:
        self.module, self.as_part = module, as_part
        self.definitions: dict[str, ast.stmt] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        for node in _top_level(ast.parse(path.read_text(encoding="utf-8")).body):
            match node:
                case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                    self.definitions[name] = node
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    self.definitions[name] = node
                case ast.ImportFrom():
                    origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                    self.imports |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}

    def locate(self, name: str) -> tuple[_Source, str]:
        """Return the module of rankdet, or of the same package, that defines a name, and the name there."""
        module, original = self.imports.get(name, ("", ""))
        if module.partition(".")[0] in ("rankdet", self.module.partition(".")[0]) and module != "rankdet.ranges":
            return _source(module, self.as_part).locate(original)
        return self, name

    def __getitem__(self, name: str) -> Any:
        source, name = self.locate(name)
        match source.definitions.get(name):
            case ast.ClassDef():
                return self.as_part(f"{source.module}:{name}")
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                return source.evaluate(value)
        imported = {} if source.module.startswith("rankdet.") else vars(sys.modules[source.module])
        module, original = source.imports.get(name, ("builtins", name))
        if name not in imported and (module.partition(".")[0] in sys.stdlib_module_names or module == "rankdet.ranges"):
            return getattr(importlib.import_module(module), original, Outside)
        return imported.get(name, Outside)

    def __iter__(self) -> Iterator[str]:
        return iter(self.definitions | self.imports)

    def __len__(self) -> int:
        return len(self.definitions | self.imports)

    def evaluate(self, node: ast.expr | None) -> Any:
        """Return the value of a default, or of an annotation: Any where there is none."""
        if node is None:
            return Any
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            return node.value
        expression = ast.fix_missing_locations(ast.Expression(node))
        return eval(compile(expression, self.module, "eval"), {"__builtins__": {}}, self)

    def signature(self, name: str) -> Signature:
        node = self.definitions.get(name)
        if isinstance(node, ast.FunctionDef):
            return Signature(self.parameters(node.args), {}, True)
        if not isinstance(node, ast.ClassDef):
            raise LookupError(f"module {self.module} has no class or function {name}")
        functions = {child.name: child for child in node.body if isinstance(child, ast.FunctionDef)}
        constants = dict(_constants(node.body))
        function = functions.get("build") or functions.get("__init__")
        if function is not None:
            return Signature(self.parameters(function.args)[1:], constants, "build" in functions)
        fields = _fields(node.body)
        if not fields.kwonlyargs:
            for base in node.bases:
                source, found = self.locate(ast.unparse(base.value if isinstance(base, ast.Subscript) else base))
                if isinstance(source.definitions.get(found), ast.ClassDef):
                    inherited = source.signature(found)
                    return inherited._replace(constants=dict(inherited.constants) | constants)
        return Signature(self.parameters(fields), constants, False)

    def parameters(self, arguments: ast.arguments) -> tuple[inspect.Parameter, ...]:
        """Return parameters with the values of their defaults, and annotations that a call evaluates."""
        everything = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        annotations = {each.arg: functools.partial(self.evaluate, each.annotation) for each in everything}
        function = self.evaluate(ast.Lambda(arguments, ast.Constant(None)))
        found = inspect.signature(function).parameters
        return tuple(found[name].replace(annotation=annotation) for name, annotation in annotations.items())


def _fields(body: list[ast.stmt]) -> ast.arguments:
    """The fields of a dataclass or a named tuple, as parameters."""
    fields = [
        (ast.arg(node.target.id, node.annotation), node.value)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if not ast.unparse(node.annotation).startswith("ClassVar")
    ]
    names, defaults = [name for name, _ in fields], [default for _, default in fields]
    return ast.arguments(posonlyargs=[], args=[], kwonlyargs=names, kw_defaults=defaults, defaults=[])


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If):  # imports for annotations alone
            yield from _top_level(node.body)
        else:
            yield node


def _constants(body: list[ast.stmt]) -> Iterator[tuple[str, Any]]:
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    yield name, ast.literal_eval(value)
                except ValueError:  # a call, say
                    continue
