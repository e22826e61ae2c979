"""The import law: which package may import which. All imports of the source are read, lazy ones included."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rankdet

ROOT = Path(rankdet.__file__).parent

BASE = {"ranges", "structures"}
TENSORS = BASE | {"backbones", "heads", "label_assignment"}
EXTRA = {"extras"}
"""What the packages import that need the extra ``train``."""
ALLOWED = {
    "__init__": {"explaining", "exporting", "extras", "inference", "recipes", "structures", "training"},
    "extras": set(),
    "ranges": set(),
    "structures": set(),
    "losses": BASE,
    "adapters": BASE | {"losses", "metrics"},
    "label_assignment": BASE | EXTRA,
    "backbones": BASE | EXTRA,
    "coco": BASE,
    "metrics": BASE | {"coco"},
    "data": BASE | EXTRA | {"coco"},
    "report": BASE | EXTRA,
    "heads": BASE | EXTRA | {"backbones", "label_assignment"},
    "detectors": TENSORS | EXTRA,
    "recipes": TENSORS | EXTRA | {"coco", "data", "detectors", "losses", "metrics"},
    "runs": {"structures"},
    "inference": TENSORS | EXTRA | {"coco", "data", "detectors", "losses", "metrics", "recipes", "report", "runs"},
    "exporting": TENSORS | EXTRA | {"data", "detectors", "inference"},
    "explaining": BASE | EXTRA | {"coco", "data", "inference", "losses", "report"},
    "training": TENSORS | EXTRA | {"coco", "data", "inference", "losses", "recipes", "runs"},
    "look": TENSORS | EXTRA | {"coco", "data", "recipes", "report", "runs"},
    "review": BASE | EXTRA | {"coco", "data", "inference", "look", "metrics", "recipes", "report", "runs"},
    "importing": TENSORS | EXTRA | {"data", "detectors", "recipes", "runs", "training"},
    "demo": TENSORS | {"data", "inference", "recipes", "report", "runs", "training"},
    "reproduce": EXTRA | {"data", "recipes", "report", "runs", "structures", "training"},
    "cli": TENSORS
    | EXTRA
    | {"coco", "data", "demo", "explaining", "exporting", "importing", "inference", "look", "metrics", "review"}
    | {"recipes", "report", "reproduce", "runs", "training"},
    "__main__": {"cli", "extras"},
}
"""Our modules that a package may import. A loss never imports a detector, nor a detector a loss."""

OUTSIDE = {
    "structures": {"torch"},
    "losses": {"torch"},
    "label_assignment": {"scipy", "torch", "torchvision"},
    "heads": {"torch", "torchvision"},
    "detectors": {"torch", "torchvision"},
    "backbones": {"safetensors", "timm", "torch", "torchvision"},
    "coco": {"hotcoco", "numpy"},
    "metrics": {"hotcoco", "numpy", "torch"},
    "exporting": {"torch", "torchvision"},
    "explaining": {"markupsafe", "matplotlib", "numpy", "torch"},
    "data": {"PIL", "numpy", "rich", "torch", "torchvision", "yaml"},
    "report": {"jinja2", "markupsafe", "matplotlib", "numpy", "torch"},
    "review": {"markupsafe", "numpy"},
    "look": {"PIL", "contourpy", "jinja2", "markupsafe", "numpy", "rich", "torch", "torchvision"},
    "recipes": {"pydantic", "torch", "yaml"},
    "reproduce": {"pydantic", "rich", "yaml"},
    "importing": {"safetensors", "torch"},
}
"""Other packages that a package of ours may import, besides the standard library."""

KERNELS = ROOT / "losses" / "kernels"
"""The one folder that may import triton, which is there only where torch is built for GPUs, and numba, an extra."""

JSON = ROOT / "coco" / "parsing.py"
"""The one file that may import msgspec, which reads annotations and detections faster where it is installed."""


def package_of(file: Path) -> str:
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported_modules(file: Path) -> Iterator[str]:
    """Full dotted names of whatever a file imports, anywhere in it."""
    package = ("rankdet", *file.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def edges() -> Iterator[tuple[Path, str, str]]:
    """(file, its package, module it imports)."""
    for file in sorted(ROOT.rglob("*.py")):
        for module in imported_modules(file):
            yield file, package_of(file), module


def test_every_package_is_in_the_table() -> None:
    packages = {package_of(file) for file in ROOT.rglob("*.py")}
    assert packages <= set(ALLOWED), "a new package needs a line in the table"


def test_no_package_imports_what_it_must_not_know() -> None:
    broken = []
    for file, package, module in edges():
        name, *rest = module.split(".")
        if name != "rankdet" or rest[:1] in ([package], ["__version__"]):
            continue
        if not rest or rest[0] not in ALLOWED[package]:
            broken.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not broken


def test_packages_import_only_their_own_dependencies() -> None:
    broken = []
    for file, package, module in edges():
        name = module.split(".")[0]
        allowed = OUTSIDE.get(package, {name})
        allowed = allowed | ({"triton", "numba", "numpy"} if file.is_relative_to(KERNELS) else set())
        allowed = allowed | ({"msgspec"} if file == JSON else set())
        if name not in sys.stdlib_module_names | allowed | {"rankdet", "typing_extensions"}:
            broken.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not broken


def test_an_adapter_imports_the_framework_of_its_name_and_no_other() -> None:
    broken = []
    for file, package, module in edges():
        name = module.split(".")[0]
        if package != "adapters":
            continue
        framework = file.relative_to(ROOT / "adapters").parts[0].removesuffix(".py")
        if name not in sys.stdlib_module_names | {"numpy", "rankdet", "torch", framework}:
            broken.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not broken


def test_the_table_has_no_circle() -> None:
    assert len(list(TopologicalSorter(ALLOWED).static_order())) == len(ALLOWED)


def test_losses_and_detectors_do_not_know_each_other() -> None:
    """Not through others either."""

    def reachable(package: str) -> set[str]:
        return ALLOWED[package].union(*(reachable(other) for other in ALLOWED[package]))

    assert "detectors" not in reachable("losses")
    assert "losses" not in reachable("detectors")


def loaded_by(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def test_the_losses_load_torch_structures_and_ranges_alone() -> None:
    modules = loaded_by("import rankdet.losses")
    ours = {module for module in modules if module.split(".")[0] == "rankdet"}
    others = {module for module in ours if not module.startswith("rankdet.losses")}
    assert {module.removeprefix("rankdet.").split(".")[0] for module in others} <= {"rankdet", "ranges", "structures"}
    assert "torch" in modules
    foreign = {"torchvision", "timm", "hotcoco", "PIL", "pydantic", "matplotlib", "rich", "triton", "typer", "yaml"}
    assert not modules & foreign


@pytest.mark.parametrize(
    "statement", ["import rankdet", "import rankdet.cli", "from rankdet import load_recipe, RECIPES"]
)
def test_the_package_its_recipes_and_the_help_of_the_command_line_need_no_torch(statement: str) -> None:
    assert not loaded_by(statement) & {"torch", "numpy", "matplotlib", "PIL"}


def test_every_name_of_the_package_can_be_had_from_it() -> None:
    assert sorted(rankdet.__all__) == sorted(dir(rankdet)) == sorted({"__version__", *rankdet._MODULES})
    for name in rankdet.__all__:
        assert getattr(rankdet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rankdet.nothing
