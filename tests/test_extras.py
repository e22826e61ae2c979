"""The extra ``train``: what needs it says so in one line, and losses and metrics need none of it.

``.ci/package`` tries the same where these packages are really missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

import rankdet
from rankdet import extras
from rankdet.extras import FASTER, TRAIN
from rankdet.structures import InputError

from .test_import_law import ALLOWED, OUTSIDE

PROJECT = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")


def names_in(section: str) -> set[str]:
    """The packages that a list of requirements in pyproject.toml names."""
    (listed,) = re.findall(rf"^{section} = \[(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)
    return {name.lower() for name in re.findall(r'"([\w-]+)', listed)}


def test_the_modules_of_the_extra_are_those_of_its_packages() -> None:
    found = set()
    for package in names_in("train") - {"torch", *FASTER}:
        modules = {file.parts[0].removesuffix(".py") for file in distribution(package).files or ()} & set(TRAIN)
        assert modules, package
        found |= modules
    assert found == set(TRAIN)


def test_the_oldest_torch_is_that_of_the_extra() -> None:
    (listed,) = re.findall(r"^train = \[(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)
    assert f'"torch>={extras.OLDEST_TORCH[0]}.{extras.OLDEST_TORCH[1]}"' in listed


def test_an_older_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    major, minor = map(int, version("torch").split(".")[:2])
    monkeypatch.setattr(extras, "OLDEST_TORCH", (major, minor))
    assert extras.missing() is None
    monkeypatch.setattr(extras, "OLDEST_TORCH", (major, minor + 1))
    assert extras.missing() == (
        f"torch {version('torch')} is older than {major}.{minor + 1}: pip install 'rankdet[train]'"
    )


def needs_extra(name: str) -> bool:
    """Whether a package, or one that it imports, imports more than is installed without an extra."""
    packages = {name}
    while more := set().union(*(ALLOWED[package] for package in packages)) - packages:
        packages |= more
    return not set().union(*(OUTSIDE.get(package, set()) for package in packages)) <= names_in("dependencies")


PACKAGES = sorted(file.parent.name for file in Path(rankdet.__file__).parent.glob("*/__init__.py"))


def test_losses_metrics_and_adapters_import_only_what_the_package_requires() -> None:
    assert not any(map(needs_extra, ("losses", "metrics", "adapters")))


def test_every_package_that_needs_the_extra_says_what_to_install_and_no_other_does() -> None:
    program = """if True:
        import importlib, sys
        sys.modules["timm"] = sys.modules["torchvision"] = None
        for package in sys.argv[1:]:
            try:
                importlib.import_module(f"rankdet.{package}")
            except ImportError as error:
                print(f"{type(error).__name__}: {error}")
    """
    done = subprocess.run([sys.executable, "-c", program, *PACKAGES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    needed = [package for package in PACKAGES if needs_extra(package)]
    assert {"data", "detectors", "training"} < set(needed)
    assert done.stdout.splitlines() == [
        f"ImportError: rankdet.{package}: timm, torchvision are not installed: pip install 'rankdet[train]'"
        for package in needed
    ]


@pytest.mark.parametrize("name", sorted(set(rankdet.__all__) - {"InputError", "__version__"}))
def test_a_name_of_the_trainer_says_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delitem(vars(rankdet), name, raising=False)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError) as caught:
        getattr(rankdet, name)
    assert str(caught.value) == f"rankdet.{name}: timm is not installed: pip install 'rankdet[train]'"


def test_the_class_of_errors_needs_no_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(rankdet), "InputError", raising=False)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert rankdet.InputError is InputError


@pytest.mark.parametrize("argument", ["--help", "train"])
def test_the_command_line_says_what_to_install(argument: str) -> None:
    program = (
        f"import sys; sys.modules['timm'] = sys.modules['typer'] = None; sys.argv = ['rankdet', '{argument}']\n"
        "from rankdet.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rankdet: error: timm, typer are not installed: pip install 'rankdet[train]'\n"
