"""Rules that map tensors of a foreign checkpoint to tensors of a detector, and the function that applies them.

Legend: R rows of a foreign tensor of classes, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rankdet.structures import InputError

MOST_NAMED = 12
"""Tensors that one message names; it counts the others."""
COUNTER = "num_batches_tracked"
"""A buffer of batch normalization: frozen ones do not count, and nothing here reads it."""


class MisfitError(InputError):
    """Error: ``count`` tensors do not fit a detector."""

    def __init__(self, count: int, message: str) -> None:
        super().__init__(message)
        self.count = count


def unchanged(tensor: Tensor) -> Tensor:
    """Return the tensor itself."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """Source of the tensors under a prefix.

    ``own`` is the name of a tensor of the detector here, or a prefix of names, without the dot behind it. ``foreign``
    is the same in the foreign checkpoint; the rest of a name is equal in both. Several foreign tensors become one.
    """

    own: str
    foreign: tuple[str, ...]
    convert: Callable[..., Tensor] = unchanged


def rule(own: str, *foreign: str, convert: Callable[..., Tensor] = unchanged) -> Rule:
    """Create a rule; foreign names are positional arguments."""
    return Rule(own, foreign, convert)


def picked(tensor: Tensor, rows: Sequence[int], per_row: int = 1) -> Tensor:
    """Reorder groups of ``k = per_row`` entries, (R · k, …) → (len(rows) · k, …); groups not in ``rows`` are left out.

    Examples
    --------
    The deltas of class 2, then those of class 1, without those of the background:

    >>> picked(torch.arange(6), [2, 1], per_row=2)
    tensor([4, 5, 2, 3])
    """
    return tensor.unflatten(0, (-1, per_row))[list(rows)].flatten(0, 1)


def background_last(tensor: Tensor) -> Tensor:
    """Move the background from the first to the last row of (R, …).

    Examples
    --------
    >>> background_last(torch.tensor([0, 1, 2]))
    tensor([1, 2, 0])
    """
    return picked(tensor, [*range(1, len(tensor)), 0])


def translated(
    tensors: Mapping[str, Tensor], rules: Iterable[Rule], expected: Mapping[str, Tensor], ignored: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Convert the weights of a foreign checkpoint to those of a detector, all of them or none.

    Of several rules that fit a tensor, the one with the longest own name is used. The tensors are in new memory, with
    the names, shapes and types of ``expected``. Foreign names under the prefixes ``ignored`` may be left over.

    Raises
    ------
    MisfitError
        When a tensor is missing, left over or of another shape. The message names up to a dozen of each kind.
    """
    by_own = {each.own: each for each in rules}
    found: dict[str, Tensor] = {}
    used, missing, misfits = set(), [], []
    for name, own in expected.items():
        applied = _applied(by_own, name)
        absent = [source for source in applied[1] if source not in tensors] if applied else [name]
        if applied is None or absent:
            if name.endswith(COUNTER):
                found[name] = torch.zeros(own.shape, dtype=own.dtype)
            else:
                missing += [f"{source} (for {name})" if applied else f"anything for {name}" for source in absent]
            continue
        each, sources = applied
        used.update(sources)
        try:
            value = each.convert(*(tensors[source] for source in sources))
        except (IndexError, RuntimeError):  # so many rows cannot be those of the classes
            value = tensors[sources[0]]
        if value.shape != own.shape:
            shapes = " + ".join(str(tuple(tensors[source].shape)) for source in sources)
            misfits.append(f"{sources[0]} is {shapes}, and {name} needs {tuple(value.shape)} to be {tuple(own.shape)}")
            continue
        found[name] = torch.empty(own.shape, dtype=own.dtype).copy_(value)
    over = [name for name in tensors if name not in used and not is_under(name, ignored) and not name.endswith(COUNTER)]
    problems = [*listed("missing", missing), *listed("of another shape", misfits), *listed("left over", over)]
    if problems:
        raise MisfitError(len(missing) + len(misfits) + len(over), "; ".join(problems))
    return found


def is_under(name: str, prefixes: Iterable[str]) -> bool:
    """Return True if a name is one of the prefixes, or continues one after a dot.

    Examples
    --------
    >>> is_under("neck.conv.bias", ["neck"]), is_under("necklace", ["neck"])
    (True, False)
    """
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _applied(by_own: Mapping[str, Rule], name: str) -> tuple[Rule, list[str]] | None:
    """The rule for a tensor, and the foreign names that it gives."""
    for prefix in _prefixes(name):
        if prefix in by_own:
            suffix = name[len(prefix) :]
            return by_own[prefix], [source + suffix for source in by_own[prefix].foreign]
    return None


def _prefixes(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def listed(kind: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return [f"{len(names)} {kind}: {', '.join(names[:MOST_NAMED])}{more}"]
