"""Foreign files: whatever objects they hold, only tensors and plain values come out, and nothing of theirs runs."""

import argparse
import collections
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rankdet.importing.reading import Inert, read_foreign
from rankdet.runs.checkpoint import save_checkpoint
from rankdet.structures import InputError

TENSORS = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.zeros(2)}


class History:
    """As the histories in files of mmengine: arrays, and a method looked up by its name."""

    def __init__(self) -> None:
        self.values = np.arange(3.0)
        self.last = np.float64(1)

    def __reduce__(self) -> Any:
        return getattr, (History, "mean"), {"values": self.values, "last": self.last}

    def mean(self) -> float:
        return 0.0


class Command:
    """Pickled, it is a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def foreign_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that is there when the file is written."""
    module = types.ModuleType("some_engine.history")
    module.History = type("History", (), {"__module__": "some_engine.history", "__init__": lambda self: None})
    monkeypatch.setitem(sys.modules, "some_engine", types.ModuleType("some_engine"))
    monkeypatch.setitem(sys.modules, "some_engine.history", module)
    return module


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_of_a_program_that_is_not_there_do_not_hinder(
    zipped: bool, foreign_module: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = {
        "meta": {"mmdet_version": "2.8.0"},
        "state_dict": collections.OrderedDict(TENSORS),
        "message_hub": {"loss": foreign_module.History(), "time": np.float64(3), "values": np.arange(3)},
        "args": argparse.Namespace(lr=0.1, path=Path("a")),
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "some_engine.history")
    foreign = read_foreign(tmp_path / "a.pth")
    assert foreign.meta == {"mmdet_version": "2.8.0"}
    assert foreign.tensors.keys() == TENSORS.keys()
    assert torch.equal(foreign.tensors["conv.weight"], TENSORS["conv.weight"])
    assert "some_engine.history" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", ["system", "exec", "open", "unpickle"])
def test_file_that_calls_something_calls_nothing(function: str, zipped: bool, tmp_path: Path):
    import os

    mark = tmp_path / "mark"
    command = {
        "system": Command(os.system, f"touch {mark}"),
        "exec": Command(exec, f"open({str(mark)!r}, 'w')"),
        "open": Command(open, str(mark), "w"),
        "unpickle": Command(pickle.loads, pickle.dumps(Command(os.system, f"touch {mark}"))),
    }[function]
    torch.save({"state_dict": TENSORS, "meta": command}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    if function == "system":  # torch's reader goes no further where a module of the system is named
        with pytest.raises(
            InputError, match=r"a\.pth is damaged, or no file of tensors that can be read safely: .*posix"
        ):
            read_foreign(tmp_path / "a.pth")
    else:
        assert read_foreign(tmp_path / "a.pth").meta == {}
    assert not mark.exists()


def test_placeholder_takes_anything_and_keeps_nothing():
    inert = Inert("a", b=1)
    inert.append(1)
    inert.extend([1, 2])
    inert.__setstate__({"a": 1})
    assert len(inert) == 0
    assert inert.__dict__ == {}
    assert {inert: 1}[inert] == 1


def test_weights_are_found_where_programs_put_them(tmp_path: Path):
    wrapped = {f"module.{name}": tensor for name, tensor in TENSORS.items()}
    for content in (TENSORS, {"state_dict": TENSORS}, {"model": TENSORS, "epoch": 1}, {"state_dict": wrapped}):
        torch.save(content, tmp_path / "a.pth")
        assert read_foreign(tmp_path / "a.pth").tensors.keys() == TENSORS.keys()


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "a.pth"
    with pytest.raises(InputError, match=r"cannot read .*a\.pth: No such file"):
        read_foreign(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"a\.pth is damaged"):
        read_foreign(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match=r"a\.pth holds no named tensors: epoch"):
        read_foreign(path)
    save_checkpoint(path, {})
    with pytest.raises(InputError, match=r"a\.pth is a checkpoint of rankdet already"):
        read_foreign(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(InputError, match=r"a\.pth holds no named tensors$"):
        read_foreign(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"a\.pth is damaged"):
        read_foreign(path)
