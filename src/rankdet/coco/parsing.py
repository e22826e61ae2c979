"""JSON files → Python objects, quickly, with one line for what is broken."""

from __future__ import annotations

import gc
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import attrgetter
from os import PathLike
from pathlib import Path
from types import GenericAlias
from typing import Any, BinaryIO

from rankdet.structures import InputError

try:
    import msgspec
except ImportError:  # part of the extra `train`: a third of the time of `json`
    msgspec = None


ENCODER = json.JSONEncoder(separators=(",", ":"))


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python from looking for garbage, again and again, among the millions of new objects of a file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@no_collection()
def read_json(path: str | PathLike[str]) -> Any:
    """The content of a JSON file; InputError names the file and, where the text is broken, the place in it."""
    with opened(path) as file:
        text = file.read()
    try:
        return parsed(text)
    except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
        raise InputError(f"{path}: is not valid JSON: {error}") from error


@no_collection()
def read_columns(
    path: str | PathLike[str], kinds: Mapping[str, Any], without: Collection[str]
) -> dict[str, list[Any]] | None:
    """The values of the records of a JSON file by key, in two thirds of the time, for no record becomes a dictionary.

    None where the file is not a list of objects, some object lacks a key of ``kinds``, has a value of another type
    there or a key of ``without``, or where msgspec is missing.
    """
    if msgspec is None:
        return None
    absent = [(key, msgspec.UnsetType, msgspec.UNSET) for key in without]
    record = msgspec.defstruct("Record", [*kinds.items(), *absent], gc=False)
    try:
        text = Path(path).read_bytes()
        if not text.isascii():  # the encoding of other values would not be checked
            return None
        rows = msgspec.json.decode(text, type=GenericAlias(list, (record,)))
    except (OSError, ValueError, RecursionError):
        return None
    return {key: list(map(attrgetter(key), rows)) for key in kinds}


@contextmanager
def opened(path: str | PathLike[str]) -> Iterator[BinaryIO]:
    """A file to read; InputError names it where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def parsed(text: bytes) -> Any:
    """The content of a JSON text; ValueError or RecursionError where it is broken."""
    if msgspec is not None:
        with suppress(ValueError, RecursionError):  # it takes neither NaN nor half letters, nor other encodings
            return msgspec.json.decode(text)
    return json.loads(text)


def written(value: Any) -> bytes:
    """A value as JSON without blanks; lists are those of sound polygons.

    Examples
    --------
    >>> written([[1, 2.5]]), written({"size": [2, 2]})
    (b'[[1,2.5]]', b'{"size":[2,2]}')
    """
    if isinstance(value, list):
        if msgspec is not None:
            return bytes(msgspec.json.encode(value))
        return repr(value).replace(" ", "").encode()  # Python writes their numbers as JSON does, in less time
    return ENCODER.encode(value).encode()
