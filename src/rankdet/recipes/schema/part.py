"""Models of parts, derived from the signatures of the parts themselves.

A part is a class or function of rankdet, or of someone else, that a recipe names and that is built from its fields.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    ValidationInfo,
    create_model,
    model_validator,
)

from rankdet.recipes.changes import merged

from .config import Config, input_error, suggestion
from .signatures import Outside, read_signature

DEFERRED = object()
"""Marks a field whose part is given values by the part around it: it arrives there as a callable."""


class Part(Config):
    """The fields of one part, validated. `build` makes the part of them."""

    model_config = ConfigDict(use_attribute_docstrings=False)  # derived fields have no text, and looking is slow
    target: ClassVar[str] = ""
    """``"module:Name"`` of what is built."""
    own: ClassVar[tuple[str, ...]] = ()
    """The fields that it takes."""
    late: ClassVar[tuple[str, ...]] = ()
    """What it takes beside them, because only the program knows it."""
    constants: ClassVar[Mapping[str, Any]] = {}
    """What is known of it beside its fields, see `rankdet.recipes.schema.fit`."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, *values: Any, **fields: Any) -> None:
        """Take fields by name, or by position as the part itself does."""
        super().__init__(**dict(zip(self.own, values, strict=False)), **fields)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # validation need not call it

    @model_validator(mode="before")
    @classmethod
    def _default_parts_are_changed(cls, fields: Any) -> Any:
        """A mapping in place of a part without a type changes the default of the field."""
        if not isinstance(fields, dict):
            return fields
        defaults = {name: cls.model_fields[name].default for name in fields if name in cls.model_fields}
        parts = {name: default for name, default in defaults.items() if isinstance(default, Part)}
        plain = {name: default.model_dump() for name, default in parts.items() if type_of(type(default)) is None}
        return fields | {name: merged(default, fields[name]) for name, default in plain.items()}

    def build(self, *values: Any, **named: Any) -> Any:
        """Return the part itself.

        Parameters
        ----------
        values, named
            What recipes do not hold and the program knows, such as the number of classes: by position for this part,
            and by name for it and for all parts inside of it that take a parameter of this name.

        Raises
        ------
        InputError
            When the part refuses its fields.
        """
        named |= zip(self.late, values, strict=False)
        target = _load(self.target)
        try:
            return target(**{name: named[name] for name in self.late if name in named}, **self.arguments(named))
        except ValueError as error:
            raise input_error(f"{self.target.partition(':')[2]}: {error}") from error

    def arguments(self, named: Mapping[str, Any]) -> dict[str, Any]:
        """The fields as arguments, with the parts in them built."""
        fields = type(self).model_fields
        return {name: built(getattr(self, name), named, DEFERRED in fields[name].metadata) for name in self.own}


def built(value: Any, named: Mapping[str, Any] = MappingProxyType({}), is_deferred: bool = False) -> Any:
    """Return a value of a field as an argument: parts in it are built, or callables that build them if deferred."""
    if isinstance(value, Part):
        if is_deferred:
            return functools.partial(_load(value.target), **value.arguments({}))
        return value.build(**named)
    return tuple(built(entry, named, is_deferred) for entry in value) if isinstance(value, tuple) else value


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    loaded = getattr(importlib.import_module(module), name)
    return getattr(loaded, "build", loaded)


class Unresolved(Part):
    """A part of someone else in a recipe that is not trusted: its fields are kept, its module is not imported."""

    model_config = ConfigDict(extra="allow")
    type: str

    def build(self, *values: Any, **named: Any) -> Any:
        """Raise InputError, because the part is not imported."""
        raise input_error(
            f"{self.type} is no part of rankdet, and what a checkpoint names is not imported by itself; if you trust "
            "where it comes from, say --trust on the command line or trust=True in Python"
        )


@dataclass(frozen=True)
class Choice:
    """One of several parts, told apart by ``type``, or a part of someone else, ``type: module:Name``.

    As the metadata of an annotation it validates the field.

    Parameters
    ----------
    members
        The parts of rankdet.
    base, late
        See `part`; for parts of someone else.
    """

    members: tuple[type[Part], ...]
    base: type[Part] = Part
    late: tuple[str, ...] = ()

    def model(self, fields: Any, trust: bool = False) -> type[Part] | None:
        """The model of plain fields; None for an unknown type."""
        named = fields.get("type") if isinstance(fields, dict) else None
        if named is None and len(self.members) == 1:  # nothing to choose from
            return self.members[0]
        if isinstance(named, str) and ":" in named:
            return foreign_part(named, self.base, self.late) if trust else Unresolved
        return next((member for member in self.members if type_of(member) == named), None)

    def validate(self, value: Any, info: ValidationInfo) -> Part:
        """The part that ``value`` describes."""
        if isinstance(value, self.members) or (isinstance(value, Part) and ":" in str(type_of(type(value)))):
            return value
        model = self.model(value, (info.context or {}).get("trust", True))
        if model is not None:
            return model.model_validate(value, context=info.context)
        known = [str(type_of(member)) for member in self.members]
        named = value.get("type") if isinstance(value, dict) else None
        text = "needs a type" if named is None else f"unknown type {named!r}{suggestion(str(named), known)}"
        raise ValueError(f"{text} ({', '.join(known)}, or module:Name)")

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        """Validation and serialization, for pydantic, whose schemas are plain data."""
        dump = {"type": "function-plain", "function": lambda value, info: value.model_dump(mode=info.mode)}
        function = {"type": "with-info", "function": self.validate}
        return {"type": "function-plain", "function": function, "serialization": dump | {"info_arg": True}}


def type_of(model: type[Part]) -> str | None:
    """The type by which recipes name a part, or None where there is nothing to choose from."""
    field = model.model_fields.get("type")
    return None if field is None else ":" if model is Unresolved else field.default


_known: dict[str, Any] = {}
"""What takes the place of a class in annotations, by ``"module:Name"``."""


def part(
    target: str,
    type: str | None = None,
    *,
    late: Sequence[str] = (),
    check: Callable[[Any], None] | None = None,
    base: builtins.type[Part] = Part,
    **constants: Any,
) -> builtins.type[Part]:
    """Derive the model of the part ``"module:Name"`` from its signature.

    Parameters
    ----------
    target
        A class or a function. The fields are the parameters of the constructor; where there is a class method
        ``build``, or of a function, they are the keyword-only parameters, and all others are late.
    type
        The name that tells the part from others in the same place.
    late
        Parameters of a constructor that are no fields, because only the program knows them.
    check
        Raises ValueError where fields that are right in themselves do not fit together.
    base
        A model with further fields, which the part does not take.
    constants
        What is known of the part beside its fields, see `rankdet.recipes.schema.fit`.
    """
    signature = read_signature(target, part_of)
    if signature.is_builder:
        late = [each.name for each in signature.parameters if each.kind is not inspect.Parameter.KEYWORD_ONLY]
    own = [each for each in signature.parameters if each.name not in late and each.name not in base.model_fields]
    fields = {} if type is None else {"type": (Literal[type], type)}
    validators: dict[str, Any] = (
        {} if check is None else {"check": model_validator(mode="after")(functools.partial(_checked, check))}
    )
    model = create_model(
        target.partition(":")[2],
        __base__=base,
        __module__=__name__,
        __validators__=validators,
        **fields | {parameter.name: _field(parameter) for parameter in own},
    )
    model.target, model.late, model.own = target, tuple(late), tuple(parameter.name for parameter in own)
    model.constants = {**signature.constants, **constants}
    _known[target] = model
    return model


def _checked(check: Callable[[Any], None], value: Any) -> Any:
    check(value)
    return value


def part_of(target: str) -> Any:
    """What takes the place of the class ``"module:Name"`` in an annotation: its model.

    A part of rankdet that was not given a type has none, and the type of a part of someone else is its import path.
    """
    return _known[target] if target in _known else part(target, None if target.startswith("rankdet.") else target)


def choose(target: str, *members: type[Part]) -> Any:
    """Let ``members`` take the place of an interface in annotations; returns them as an annotation."""
    _known[target] = Union[members]  # noqa: UP007
    return field_type(_known[target])


@functools.cache
def foreign_part(target: str, base: type[Part], late: tuple[str, ...]) -> type[Part]:
    """The model of a part of someone else; its module is imported, also from the current directory.

    Raises
    ------
    ValueError
        When there is no such module or name, or a parameter has an annotation that no field can have.
    """
    module = target.partition(":")[0]
    sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
        return _known[target] if target in _known else part(target, type=target, base=base, late=late)
    except ModuleNotFoundError as error:
        raise ValueError(f"{target}: {error} (the path of Python and the current directory were searched)") from error
    except (LookupError, PydanticSchemaGenerationError) as error:
        raise ValueError(f"{target}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())


def _field(parameter: inspect.Parameter) -> tuple[Any, Any]:
    default = ... if parameter.default is parameter.empty else parameter.default
    if isinstance(default, type):  # the part of a callable
        default = default()
    return field_type(parameter.annotation()), dict(default) if isinstance(default, Mapping) else default


def field_type(annotation: Any) -> Any:
    """The annotation of a field for that of a parameter: unions of parts become a `Choice`."""
    origin, members = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation if type_of(annotation) is None else Annotated[Part, Choice((annotation,))]
    if origin in (Union, UnionType):
        return _union(members)
    if origin is Annotated:
        return annotated(field_type(members[0]), annotation.__metadata__)
    if origin is Callable:
        return Annotated[field_type(members[-1]), DEFERRED]
    if origin is tuple:
        return tuple.__class_getitem__(tuple(member if member is ... else field_type(member) for member in members))
    if origin in (Sequence, Iterable):
        return tuple.__class_getitem__((field_type(members[0]), ...))
    if origin in (Mapping, dict):
        return dict.__class_getitem__(tuple(map(field_type, members)))
    return annotation


def annotated(annotation: Any, metadata: Iterable[Any]) -> Any:
    """An annotation with metadata: ``Annotated[annotation, *metadata]``, which Python 3.10 cannot write."""
    for each in metadata:
        annotation = Annotated[annotation, each]
    return annotation


def _union(members: Iterable[Any]) -> Any:
    parts: list[type[Part]] = []
    others: list[Any] = []
    is_deferred = False
    for member in members:
        if member is Outside:
            continue
        if get_origin(member) is Callable:
            member, is_deferred = get_args(member)[-1], True
        is_typed = isinstance(member, type) and issubclass(member, Part) and type_of(member) is not None
        (parts if is_typed else others).append(member)
    kinds = [Annotated[Part, Choice(tuple(parts))]] if parts else []
    united: Any = Union.__getitem__((*kinds, *map(field_type, others)))
    return Annotated[united, DEFERRED] if is_deferred else united
