"""The ranges of numbers that parts take: written once in a signature, checked in Python and in recipes alike.

Imports neither torch nor anything else of rankdet, so that recipes are validated without either.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

Part = TypeVar("Part", bound=type)


class Limit:
    """Metadata of an annotation that values are checked by: by `checked` constructors, and by pydantic in recipes."""

    def mistake(self, value: Any) -> str | None:
        """What is wrong with ``value`` in words, or None."""
        raise NotImplementedError

    def accepted(self, value: Any) -> Any:
        """The value; raises ValueError where something is wrong with it."""
        mistake = self.mistake(value)
        if mistake is not None:
            raise ValueError(mistake)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        """Check after pydantic has found the type to be right; schemas are plain data, so that nothing is imported."""
        function = {"type": "no-info", "function": self.accepted}
        return {"type": "function-after", "function": function, "schema": handler(source)}


@dataclass(frozen=True)
class Range(Limit):
    """Limits of a number, as the metadata of an annotation; None where there is none.

    Parameters
    ----------
    ge, gt
        The number is at least, or more than, this.
    le, lt
        The number is at most, or less than, this.
    multiple_of
        The number is a multiple of this.

    Examples
    --------
    >>> Range(ge=0, le=1).mistake(1.5)
    'must be at most 1'
    >>> Range(gt=0).mistake(2) is None
    True
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    multiple_of: int | None = None

    def mistake(self, value: float) -> str | None:
        """What is wrong with ``value`` in words, or None.

        NaN, infinities and integers beyond the floating-point numbers are outside of every range.
        """
        if not abs(value) <= sys.float_info.max:
            return "must be finite"
        if self.ge is not None and value < self.ge:
            return f"must be at least {self.ge:g}"
        if self.gt is not None and value <= self.gt:
            return f"must be greater than {self.gt:g}"
        if self.le is not None and value > self.le:
            return f"must be at most {self.le:g}"
        if self.lt is not None and value >= self.lt:
            return f"must be less than {self.lt:g}"
        if self.multiple_of is not None and value % self.multiple_of:
            return f"must be a multiple of {self.multiple_of}"
        return None


@dataclass(frozen=True)
class Ascending(Limit):
    """Metadata of a tuple: no entry is above the next one.

    Parameters
    ----------
    strictly
        Each entry is below the next one.

    Examples
    --------
    >>> Ascending().mistake((2.0, 1.0))
    'must be two limits, the lower one first'
    >>> Ascending(strictly=True).mistake((1, 1, 2))
    'must ascend, each value only once'
    """

    strictly: bool = False

    def mistake(self, values: Sequence[float]) -> str | None:
        """What is wrong with ``values`` in words, or None."""
        if self.strictly:
            return None if list(values) == sorted(set(values)) else "must ascend, each value only once"
        return None if list(values) == sorted(values) else "must be two limits, the lower one first"


@dataclass(frozen=True)
class NotEmpty(Limit):
    """Metadata of a tuple: it has at least one entry.

    Examples
    --------
    >>> NotEmpty().mistake(())
    'must have at least one entry'
    """

    def mistake(self, values: Sequence[Any]) -> str | None:
        """What is wrong with ``values`` in words, or None."""
        return None if values else "must have at least one entry"


Finite = Annotated[float, Range()]
NonNegative = Annotated[float, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]
OpenFraction = Annotated[float, Range(gt=0, lt=1)]
Count = Annotated[int, Range(ge=1)]
CountOrZero = Annotated[int, Range(ge=0)]
Bits = Annotated[int, Range(ge=8, le=16)]
"""How many of 16 bits an image uses."""
Byte = Annotated[float, Range(ge=0, le=255)]
"""The value of a color channel."""
Stds = tuple[Positive, Positive, Positive, Positive]
"""Divisors of encoded boxes."""


def checked(part: Part) -> Part:
    """Make a class check the ranges in the annotations of its constructor, also inside of tuples and unions.

    Raises
    ------
    ValueError
        From the constructor, when a number is outside of its range: it names the class, the parameter and the value.

    Examples
    --------
    >>> @checked
    ... class Scaled:
    ...     def __init__(self, weight: NonNegative = 1.0, limits: tuple[Fraction, Fraction] = (0.0, 1.0)) -> None:
    ...         self.weight = weight
    >>> Scaled(weight=-1.0)
    Traceback (most recent call last):
    ValueError: Scaled: weight must be at least 0, got -1.0
    >>> Scaled(limits=(0.0, 2.0))
    Traceback (most recent call last):
    ValueError: Scaled: limits must be at most 1, got 2.0
    """
    construct: Callable[..., None] = part.__init__  # type: ignore[misc]
    signature = inspect.signature(construct)
    hints: dict[str, Any] = {}

    @functools.wraps(construct)
    def checking(self: object, *args: Any, **kwargs: Any) -> None:
        if not hints:  # not when the class is made: what its annotations name may still be undefined
            hints.update(get_type_hints(construct, include_extras=True))
        for name, value in signature.bind(self, *args, **kwargs).arguments.items():
            for part_of_value, mistake in _mistakes(value, hints.get(name)):
                raise ValueError(f"{type(self).__name__}: {name} {mistake}, got {part_of_value!r}")
        construct(self, *args, **kwargs)

    part.__init__ = checking  # type: ignore[misc]
    return part


def _mistakes(value: Any, annotation: Any) -> Iterator[tuple[Any, str]]:
    """The parts of ``value`` that are outside of the ranges of ``annotation``, and what is wrong with each."""
    if get_origin(annotation) is Annotated:
        for limits in annotation.__metadata__:
            is_number = isinstance(limits, Range) and isinstance(value, int | float)
            if is_number or (isinstance(limits, Ascending | NotEmpty) and isinstance(value, tuple | list)):
                mistake = limits.mistake(value)
                if mistake is not None:
                    yield value, mistake
        annotation = get_args(annotation)[0]
    members = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(value, tuple | list):
        if members[-1] is Ellipsis:
            members = members[:1] * len(value)
        for entry, member in zip(value, members, strict=False):
            yield from _mistakes(entry, member)
    elif value is not None and type(None) in members:
        for member in members:
            yield from _mistakes(value, member)
