"""Large annotation files that were read, kept as arrays in one file that processes map into memory.

An index belongs to the path of an annotation file and to how this was read. It counts where the code that has read the
file is what it was, and so is the file: its size and times, or its content where it was copied. An index is written
beside and renamed, so that it is there whole or not at all, and processes that have mapped an older one keep that.

Legend: N images.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.findings import Finding
from rankdet.coco.ground_truth import Federation, GroundTruth
from rankdet.coco.packed import PackedBytes

SMALLEST = 1 << 25
"""Bytes of an annotation file from which on it gets an index; a smaller one is read in a second."""
MAGIC = b"rankdet index\n"
ALIGNMENT = 64


class Mapped:
    """The arrays of an index, mapped into memory; pickled as the path of the index, whose pages are shared."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError("is none")
            length = int.from_bytes(file.read(8), "little")
            self.header: dict[str, Any] = json.loads(file.read(length))
            start = _aligned(len(MAGIC) + 8 + length)
            if status.st_size != start + self.header["size"]:
                raise ValueError("is cut off")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.path, self.identity = path, (status.st_ino, status.st_size, status.st_mtime_ns)
        self.arrays = {
            name: np.frombuffer(self._map, dtype, int(np.prod(shape, dtype=np.int64)), start + place).reshape(shape)
            for name, dtype, shape, place in self.header["arrays"]
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.path, self.identity)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The arrays as fields of `GroundTruth`, byte strings packed."""
        packed = {name.partition(" ")[0] for name in self.arrays if " " in name}
        found = {name: PackedBytes.of(self.arrays[f"{name} buffer"], self.arrays[f"{name} ends"]) for name in packed}
        return found | {name: array for name, array in self.arrays.items() if " " not in name}

    def forget(self) -> None:
        """Give back the memory of pages that were looked at; they are read again where that is needed."""
        self._map.madvise(mmap.MADV_DONTNEED)


def _again(path: Path, identity: tuple[int, int, int]) -> Mapped:
    mapped = Mapped(path)
    if mapped.identity != identity:
        raise ValueError(f"{path}: has been made anew; start again")
    return mapped


class Kept(NamedTuple):
    """What an index has: the sound records, what was found, and file names of images that were left out."""

    truth: GroundTruth
    findings: list[Finding]
    other_names: list[str]


class Stamp(NamedTuple):
    """What tells that a file is still the same without reading it: its bytes, and nanoseconds of its changes."""

    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file now."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Index:
    """The index of an annotation file.

    Parameters
    ----------
    annotations
        The file.
    options
        How it is read: texts, numbers and flags.
    """

    annotations: Path
    options: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        key = json.dumps([str(self.annotations.resolve()), self.options], sort_keys=True)
        return folder() / f"{self.annotations.stem[:100]}-{blake2b(key.encode(), digest_size=8).hexdigest()}.index"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait while another process makes an index, which may be this one."""
        place = -1
        with suppress(OSError):  # where nothing can be written or locked, each process reads for itself
            folder().mkdir(parents=True, exist_ok=True)
            # A file that is open for writing: NFS locks no other, and no folder.
            place = os.open(folder() / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(place, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if place >= 0:
                os.close(place)

    def load(self) -> Kept | None:
        """What was kept; None where nothing was. ValueError says why an index that is there does not count."""
        try:
            mapped = Mapped(self.path)
            header = mapped.header
            if header["reader"] != _reader():
                raise ValueError("is of another version")
            if header["stamp"] != list(Stamp.of(self.annotations)) and (
                header["stamp"][0] != self.annotations.stat().st_size or header["digest"] != _digest(self.annotations)
            ):
                raise ValueError("is of another content of the file")
            return self._kept(mapped)
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError) as error:
            raise ValueError(f"cannot be read: {error}") from error

    def _kept(self, mapped: Mapped) -> Kept:
        header, name, columns = mapped.header, str(self.annotations), dict(mapped.fields)
        lists = columns.pop("lists", None)
        truth = GroundTruth(
            source=name,
            categories=[(id_, one) for id_, one in header["categories"]],
            federation=None if lists is None else Federation(np.array(header["frequencies"]), lists),
            num_left_out=header["num_left_out"],
            mapped=mapped,
            **{"segmentations": None, **columns},
        )
        findings = [Finding(*row)._replace(file=name) for row in header["findings"]]
        return Kept(truth, findings, header["other_names"])

    def save(self, kept: Kept, stamp: Stamp) -> Kept:
        """Keep what was read of the file, which had the ``stamp`` before; returns the same, mapped.

        Raises OSError where it cannot be written, and ValueError where the file has changed since.
        """
        truth = kept.truth
        columns: dict[str, Any] = {field.name: getattr(truth, field.name) for field in fields(truth)}
        columns["lists"] = None if truth.federation is None else truth.federation.lists
        arrays: dict[str, NDArray[Any]] = {}
        for name, column in columns.items():
            if isinstance(column, PackedBytes):
                arrays |= {f"{name} buffer": column.buffer, f"{name} ends": column.ends}
            elif isinstance(column, np.ndarray):
                arrays[name] = column
        header = {
            "reader": _reader(),
            "stamp": stamp,
            "digest": _digest(self.annotations),
            "categories": truth.categories,
            "frequencies": [] if truth.federation is None else truth.federation.frequencies.tolist(),
            "num_left_out": truth.num_left_out,
            "findings": [one._replace(file="") for one in kept.findings],
            "other_names": kept.other_names,
        }
        if Stamp.of(self.annotations) != stamp:
            raise ValueError("has changed while it was read")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        place, beside = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(place, "wb") as file:
                _write(file, header, arrays)
            os.replace(beside, self.path)
        except BaseException:
            os.unlink(beside)
            raise
        return self._kept(Mapped(self.path))


def is_large(path: Path) -> bool:
    """Whether a file gets an index."""
    try:
        return path.is_file() and path.stat().st_size >= SMALLEST
    except OSError:
        return False


def folder() -> Path:
    """The folder of the indexes: ``$RANKDET_CACHE``, otherwise ``rankdet`` in the cache of the user."""
    given = os.environ.get("RANKDET_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rankdet")


def _write(file: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    places, size = [], 0
    for name, array in arrays.items():
        places.append((name, array.dtype.str, array.shape, size))
        size += _aligned(array.nbytes)
    text = json.dumps({**header, "arrays": places, "size": size}).encode()
    file.write(MAGIC + len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        file.write(bytes(_aligned(file.tell()) - file.tell()))
        file.write(np.ascontiguousarray(array).data)
    file.write(bytes(_aligned(file.tell()) - file.tell()))
    file.flush()
    os.fsync(file.fileno())


def _aligned(place: int) -> int:
    return -(-place // ALIGNMENT) * ALIGNMENT


@cache
def _reader() -> str:
    """A digest of the code that reads annotations: what another version has read is read again."""
    code = blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


def _digest(path: Path) -> str:
    content = blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()
