"""Where in a file the weights of a network are: under which key, under which prefixes, and beside which averages.

Training scripts put their weights under a key of their own, and wrappers for many processes, compilation or averaging
put a prefix in front of all names. Averages of the weights (EMA) lie beside them, in several forms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rankdet.structures import InputError

KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "module", "checkpoint")
"""Keys under which programs keep the weights, also one inside of another."""
AVERAGES = ("ema_state_dict", "state_dict_ema", "ema_model_state_dict", "model_ema", "ema_model", "ema")
"""Keys under which they keep averages of the weights; the last three are also prefixes of names."""
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", *(f"{name}." for name in AVERAGES[3:]))
"""What wrappers put in front of all names: `DataParallel`, Lightning, `torch.compile`, averages."""
COUNTERS = ("n_averaged", "steps", "num_updates", "decay")
"""What averages count beside the weights."""


class Weights(NamedTuple):
    """Named tensors as their network names them, and in words where they were."""

    tensors: dict[str, Tensor]
    notes: list[str]


class _Found(NamedTuple):
    """Tensors, the place in the file that they come from, and names of entries there that are no tensors."""

    tensors: dict[str, Tensor]
    place: str
    others: Sequence[str] = ()


def unwrapped(content: Any, averages: bool | None = None, are_exchanged: bool = False) -> Weights:
    """The weights in the content of a file.

    Parameters
    ----------
    content
        Tensors by name, or an object that holds them.
    averages
        Whether averages of the weights are taken; None takes what lies under the plain keys and names, and says where
        there are others.
    are_exchanged
        Whether the program exchanges both before it saves, as mmengine does: plain names hold the averages then. The
        hooks of mmcv and mmdetection 2.x, which are known by their names, do so, too.

    Raises
    ------
    InputError
        When there are no named tensors, or no averages where they are asked for.

    Examples
    --------
    >>> import torch
    >>> weights = unwrapped({"model": {"module.a.bias": torch.ones(1)}, "epoch": 3})
    >>> list(weights.tensors), weights.notes
    (['a.bias'], ["the weights are those under 'model', without the prefix 'module.'"])
    """
    trained, averaged, notes = _sets(content)
    are_exchanged |= averaged is not None and averaged.place == _BUFFERS
    if are_exchanged and trained and averaged:
        trained, averaged = averaged, trained
    if trained is None and averaged is None:
        raise InputError(f"holds no named tensors{_what_there_is(content)}")
    is_averaged = trained is None or (are_exchanged and averaged is not None) if averages is None else averages
    chosen, other = (averaged, trained) if is_averaged else (trained, averaged)
    if chosen is None:
        raise InputError(
            "holds no averaged weights (EMA)" if is_averaged else "holds averaged weights (EMA) alone: --ema"
        )
    tensors, prefix = _without_prefixes(chosen.tensors)
    if prefix or chosen.place not in _USUAL:
        parts = [f"under {chosen.place}" if chosen.place else "", f"without the prefix {prefix!r}" if prefix else ""]
        notes.append(f"the weights are those {', '.join(filter(None, parts))}")
    if chosen.others:
        notes.append(f"{len(chosen.others)} entries beside the weights are no tensors: {', '.join(chosen.others[:5])}")
    if other is not None:
        kinds = (
            ("averaged (EMA)", "as trained", "--no-ema") if is_averaged else ("as trained", "averaged (EMA)", "--ema")
        )
        place = f" under {other.place}" if other.place else ""
        num_left = sum(value is not chosen.tensors.get(name) for name, value in other.tensors.items())
        notes.append(
            f"the file has weights as trained and averaged ones (EMA): taken are those {kinds[0]}; left out are "
            f"{num_left} tensors{place}, {kinds[1]}, which {kinds[2]} takes"
        )
    return Weights(tensors, notes)


_BUFFERS = "names that begin with 'ema_'"
"""Where hooks of mmcv and mmdetection 2.x keep copies; they exchange weights and averages before a checkpoint."""
_USUAL = ("", "'state_dict'", "'model'")
"""Places of which nobody needs to be told."""


def _sets(content: Any) -> tuple[_Found | None, _Found | None, list[str]]:
    """The weights as trained and their averages, None where there are none, and what lies beside them."""
    all_found = list(_under(content, KEYS, ""))
    averaged = next(_under(content, AVERAGES, ""), None)
    if not all_found:
        return None, averaged, []
    found, *more = all_found
    notes = [f"{len(one.tensors)} tensors under {one.place} are left out" for one in more]
    buffers = _averages_of_mmcv(found.tensors)
    if buffers:
        # Of parameters alone, with an option of the hook: statistics of normalization are those of the weights then.
        rest = {name: value for name, value in found.tensors.items() if name not in buffers}
        copies = {buffers[name]: found.tensors[name] for name in buffers if buffers[name] in rest}
        return found._replace(tensors=rest), averaged or _Found(rest | copies, _BUFFERS), notes
    prefixes = tuple(f"{name}." for name in AVERAGES)
    inside = {name: value for name, value in found.tensors.items() if name.startswith(prefixes)}
    rest = {name: value for name, value in found.tensors.items() if name not in inside}
    if not inside:
        return found, averaged, notes
    own = found._replace(tensors=inside)
    return (found._replace(tensors=rest) if rest else None), averaged or own, notes


def _under(content: Any, keys: tuple[str, ...], place: str) -> Iterator[_Found]:
    """The named tensors under the keys of a file, the outermost and first ones first."""
    if not isinstance(content, Mapping):
        return
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    others = [str(name) for name in content if str(name) not in tensors]
    is_weights = tensors and (place or keys is KEYS) and (not others or any("." in name for name in tensors))
    if is_weights and not any(isinstance(content.get(key), Mapping) for key in keys):
        yield _Found({name: value for name, value in tensors.items() if name not in COUNTERS}, place, others)
        return
    for key in keys:
        yield from _under(content.get(key), KEYS, f"{place}[{key!r}]" if place else repr(key))
    # Averages may lie inside of the key of the program, as in {"checkpoint": {"model": …, "ema": …}}.
    for key in () if keys is KEYS else ("checkpoint",):
        yield from _under(content.get(key), keys, f"{place}[{key!r}]" if place else repr(key))


def _averages_of_mmcv(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of buffers with copies of weights, and the names of these.

    mmcv keeps that of "neck.conv.bias" as "ema_neck_conv_bias".
    """
    flat = {"ema_" + name.replace(".", "_"): name for name in tensors if "." in name}
    if not any(name in flat for name in tensors):
        return {}
    return {name: flat.get(name, name) for name in tensors if name.startswith("ema_") and "." not in name}


def _without_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors without what stands in front of all their names, and what that was."""
    removed = ""
    while prefix := next((one for one in PREFIXES if tensors and all(name.startswith(one) for name in tensors)), ""):
        removed += prefix
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
        tensors = {name: value for name, value in tensors.items() if name not in COUNTERS}
    if any("._orig_mod." in name for name in tensors):  # a part of a network was compiled
        removed += "…_orig_mod."
        tensors = {name.replace("._orig_mod.", "."): value for name, value in tensors.items()}
    return tensors, removed


def _what_there_is(content: Any) -> str:
    """What a file without tensors holds, for the message."""
    if not isinstance(content, Mapping):
        return ""
    pickled = [
        key for key in (*KEYS, *AVERAGES) if content.get(key) is not None and not isinstance(content[key], Mapping)
    ]
    if pickled:
        return (
            f": under {', '.join(map(repr, pickled))} it has pickled objects, which cannot be read without running "
            "their code; save their state_dict()"
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    return f": {', '.join(others[:5])} are none" if others else ""
