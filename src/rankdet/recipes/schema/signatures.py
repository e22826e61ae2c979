"""What a part takes, read from its source file: names, annotations, defaults and the text about each.

Files of rankdet are parsed and not imported, so that recipes are validated without torch.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

AsPart = Callable[[str], Any]
"""From ``"module:Name"`` of a class to what takes its place in annotations and defaults."""
PACKAGE = Path(__file__).parents[2]


class Parameter(NamedTuple):
    """One parameter of a part. Annotation and default are evaluated on demand; a default of None is no default."""

    name: str
    annotation: Callable[[], Any]
    default: Callable[[], Any] | None
    is_keyword_only: bool
    description: str


class _Outside(type):
    def __getattr__(cls, name: str) -> _Outside:
        if name.startswith("_"):
            raise AttributeError(name)
        return cls


class Outside(metaclass=_Outside):
    """What takes the place of names from packages that are not imported: no field has such a value."""


class Signature(NamedTuple):
    """The first paragraph about a part, its parameters, and the constants in the body of its class.

    Only the keyword-only parameters of a builder, a function or a class method ``build``, are fields of a recipe.
    """

    summary: str
    parameters: tuple[Parameter, ...]
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
    source = _source(module, as_part)
    if name in source.imports:
        return read_signature(":".join(source.imports[name]), as_part)
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

    def __getitem__(self, name: str) -> Any:
        if name == _CALL:  # no name of the module
            raise KeyError(name)
        node = self.definitions.get(name)
        if isinstance(node, ast.ClassDef):
            return self.as_part(f"{self.module}:{name}")
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            return self.evaluate(node.value)
        module, original = self.imports.get(name, ("", ""))
        root = module.partition(".")[0]
        if root in ("rankdet", self.module.partition(".")[0]) and module != "rankdet.ranges":
            return _source(module, self.as_part)[original]
        if root in sys.stdlib_module_names or module == "rankdet.ranges":
            return getattr(importlib.import_module(module), original)
        if self.module in sys.modules and not self.module.startswith("rankdet."):
            imported = vars(sys.modules[self.module])
            return imported[name] if name in imported else getattr(builtins, name)
        return getattr(builtins, name, Outside)

    def __iter__(self) -> Iterator[str]:
        return iter(self.definitions | self.imports)

    def __len__(self) -> int:
        return len(self.definitions | self.imports)

    def evaluate(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            return node.value
        expression = ast.fix_missing_locations(ast.Expression(_Calls().visit(node)))
        return eval(compile(expression, self.module, "eval"), {"__builtins__": {}, _CALL: _call}, self)

    def signature(self, name: str) -> Signature:
        node = self.definitions.get(name)
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            raise LookupError(f"module {self.module} has no class or function {name}")
        text = ast.get_docstring(node) or ""
        summary = " ".join(_plain(text).partition("\n\n")[0].split())
        if isinstance(node, ast.FunctionDef):
            return Signature(summary, tuple(self._arguments(node, _descriptions(text))), {}, True)
        functions = {child.name: child for child in node.body if isinstance(child, ast.FunctionDef)}
        constants = dict(_constants(node.body))
        function = functions.get("build") or functions.get("__init__")
        if function is not None:
            described = self._described(node) | _descriptions(ast.get_docstring(function) or "")
            return Signature(summary, tuple(self._arguments(function, described))[1:], constants, "build" in functions)
        fields = tuple(self._fields(node, _descriptions(text)))
        for source, base in self._bases(node) if not fields else ():
            inherited = source.signature(base.name)
            return inherited._replace(summary=summary, constants=dict(inherited.constants) | constants)
        return Signature(summary, fields, constants, False)

    def _bases(self, node: ast.ClassDef) -> Iterator[tuple[_Source, ast.ClassDef]]:
        """The classes that a class inherits from, of rankdet or of its own package, and where they are."""
        for base in node.bases:
            name = base.value if isinstance(base, ast.Subscript) else base
            source, original = self, ast.unparse(name)
            while original in source.imports:
                module, original = source.imports[original]
                if module.partition(".")[0] not in ("rankdet", self.module.partition(".")[0]):
                    break
                source = _source(module, self.as_part)
            found = source.definitions.get(original)
            if isinstance(found, ast.ClassDef):
                yield source, found

    def _described(self, node: ast.ClassDef) -> dict[str, str]:
        """The text about the parameters of a class and its methods, and of those that it inherits from."""
        described: dict[str, str] = {}
        for source, base in self._bases(node):
            described |= source._described(base)
        methods = [child for child in node.body if isinstance(child, ast.FunctionDef)]
        described |= _descriptions(ast.get_docstring(node) or "")
        for method in methods:
            described |= _descriptions(ast.get_docstring(method) or "")
        return described

    def _arguments(self, function: ast.FunctionDef, described: Mapping[str, str]) -> Iterator[Parameter]:
        arguments = function.args
        positional = [*arguments.posonlyargs, *arguments.args]
        defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
        for argument, default in zip(positional, defaults, strict=True):
            yield self._parameter(argument.arg, argument.annotation, default, False, described)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            yield self._parameter(argument.arg, argument.annotation, default, True, described)

    def _fields(self, node: ast.ClassDef, described: Mapping[str, str]) -> Iterator[Parameter]:
        """The fields of a dataclass or a named tuple."""
        for child in node.body:
            if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name) and _is_field(child.annotation):
                yield self._parameter(child.target.id, child.annotation, child.value, False, described)

    def _parameter(
        self,
        name: str,
        annotation: ast.expr | None,
        default: ast.expr | None,
        is_keyword_only: bool,
        described: Mapping[str, str],
    ) -> Parameter:
        return Parameter(
            name,
            lambda: Any if annotation is None else self.evaluate(annotation),
            None if default is None else lambda: self.evaluate(default),
            is_keyword_only,
            described.get(name, ""),
        )


def _is_field(annotation: ast.expr) -> bool:
    return not ast.unparse(annotation).startswith("ClassVar")


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


def _descriptions(docstring: str) -> dict[str, str]:
    """The text about each parameter in the section "Parameters" of a docstring.

    Examples
    --------
    >>> _descriptions("A part.\\n\\nParameters\\n----------\\nlow, high\\n    The limits,\\n    in pixels.")
    {'low': 'The limits, in pixels.', 'high': 'The limits, in pixels.'}
    """
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n---|\Z)", docstring, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^(\S[^\n]*)\n((?:[ ]+[^\n]*\n?|\n)+)", section.group(1) if section else "", re.MULTILINE)
    return {name: " ".join(_plain(text).split()) for names, text in entries for name in names.split(", ")}


def _plain(text: str) -> str:
    """Text without the roles of Sphinx: ``:func:`name` `` becomes ``name``."""
    return re.sub(r":\w+:`~?([^`]*)`", r"``\1``", text)


_CALL = "__call"


class _Calls(ast.NodeTransformer):
    """Calls of parts become calls of `_call`."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return ast.Call(ast.Name(_CALL, ast.Load()), [node.func, *node.args], node.keywords)


def _call(function: Any, *values: Any, **fields: Any) -> Any:
    """The value of a call in a default; models take their fields by position too, and so does ``partial`` of them."""
    if function is functools.partial:
        function, *rest = values
        values = tuple(rest)
    if hasattr(function, "model_fields"):
        names = [name for name in function.model_fields if name != "type"]
        return function(**dict(zip(names, values, strict=False)), **fields)
    return function(*values, **fields)
