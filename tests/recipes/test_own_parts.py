"""Parts of someone else, named by import path: validated, built, trained with; never imported for a stranger."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from rankdet.data import make_shapes
from rankdet.recipes import Recipe, load_recipe, validated
from rankdet.structures import Images, InputError

OUTSIDE = Path(__file__).parent / "outside_package"
OWN_LOSS = "losses.dense={type: 'outside_losses:ScaledFocalLoss', factor: 2}"
RECIPE = """
base: rs_atss_shapes
name: outside
detector:
  type: outside_losses:SmallDetector
  backbone: {type: tiny, channels: [8, 16]}
  width: 8
  dense: {anchor_scales: [8.0], auxiliary: false, convolutions: 1, groups: 4}
losses:
  dense: {type: 'outside_losses:ScaledFocalLoss', factor: 2.0, tasks: {balancing: {type: value}}}
schedule: {iterations: 4, warmup_iterations: 0}
runtime: {checkpoint_interval: 2, device: cpu}
data: {batch_size: 2}
"""


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    yield
    sys.modules.pop("outside_losses", None)


@pytest.mark.usefixtures("importable")
def test_own_loss_has_the_fields_of_its_constructor() -> None:
    loss = load_recipe("rs_atss_shapes", [OWN_LOSS]).losses["dense"]
    assert loss.factor == 2
    assert loss.tasks.weighting.type == "outside_losses:HalfWeights"
    assert loss.tasks.weighting.share == 0.5
    built = loss.build()
    assert type(built).__name__ == "ScaledFocalLoss"
    assert built.focal.tasks.weighting.share == 0.5


@pytest.mark.usefixtures("importable")
def test_resolved_recipe_with_own_parts_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("rs_atss_shapes", [OWN_LOSS])
    assert validated(recipe.model_dump(mode="json"), "again", trust=True) == recipe


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "losses.dense={type: 'outside_losses:ScaledFocalLoss', factr: 2}",
            "factr: unknown field; did you mean 'factor'",
        ),
        ("losses.dense={type: 'outside_losses:ScaledFocalLoss', factor: -1}", "factor: must be at least 0, got -1"),
        ("losses.dense={type: 'outside_losses:Missing'}", "module outside_losses has no class or function Missing"),
        ("losses.dense={type: 'no_such_module:Loss'}", "No module named 'no_such_module' .* current directory"),
        (
            "losses.dense={type: focal, tasks: {weighting: {type: 'outside_losses:HalfWeights', share: 2}}}",
            "losses.dense.tasks.weighting.share: must be at most 1, got 2",
        ),
    ],
)
def test_mistake_in_an_own_part_is_named_with_its_field(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("rs_atss_shapes", [override])


def test_recipe_of_a_stranger_imports_nothing_until_its_part_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = load_recipe("rs_atss_shapes").model_dump(mode="json")
    fields["losses"]["dense"] = {"type": "outside_losses:ScaledFocalLoss", "factor": 2.0}
    monkeypatch.syspath_prepend(str(OUTSIDE))
    recipe = validated(fields, "recipe of a stranger")
    assert "outside_losses" not in sys.modules
    assert recipe.model_dump(mode="json") == fields
    assert recipe.detector.build(3) is not None
    with pytest.raises(InputError, match=r"outside_losses:ScaledFocalLoss .* --trust .* trust=True"):
        recipe.changed({"seed": 3}).losses["dense"].build()
    assert "outside_losses" not in sys.modules


@pytest.mark.usefixtures("importable")
def test_backbones_optimizers_and_schedules_are_named_by_import_path_too() -> None:
    recipe = load_recipe(
        "rs_atss_shapes",
        {
            "detector.backbone": {"type": "outside_losses:Stem", "width": 8},
            "optimizer": {"type": "torch.optim:NAdam", "lr": 0.01, "momentum_decay": 0.002},
            "schedule": {"type": "outside_losses:linear", "iterations": 100, "warmup_iterations": 0, "end": 0.5},
            "detector.extra_levels": 1,
        },
    )
    detector = recipe.detector.build(3)
    assert type(detector.backbone).__name__ == "Stem"
    assert len(detector.detect(Images(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [(64, 64)]))) == 1
    optimizer = recipe.optimizer.build(params=list(detector.parameters()), lr=recipe.optimizer.lr)
    assert isinstance(optimizer, torch.optim.NAdam)
    assert optimizer.param_groups[0]["momentum_decay"] == 0.002
    assert [recipe.schedule.factor(iteration, 100) for iteration in (0, 50, 100)] == [1.0, 0.75, 0.5]
    with pytest.raises(InputError, match=r"schedule.end: must be at most 1, got 2"):
        recipe.changed({"schedule.end": 2})


def rankdet(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    source = Path(sys.modules["rankdet"].__file__ or "").parents[1]
    return subprocess.run(
        [sys.executable, "-m", "rankdet", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(source), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_outside_package_trains_resumes_evaluates_and_detects_from_the_command_line(tmp_path: Path) -> None:
    """Its module lies in the current directory; nothing but the recipe names it."""
    shutil.copy(OUTSIDE / "outside_losses.py", tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    data = make_shapes(tmp_path / "data", train=8, val=2, test=0, seed=0)
    trained = rankdet(tmp_path, "train", "mine.yaml", "--data", data, "--out", "run")
    assert trained.returncode == 0, trained.stderr + trained.stdout
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["losses"]["dense"]["tasks"]["weighting"] == {"type": "outside_losses:HalfWeights", "share": 0.5}
    assert recipe["detector"]["type"] == "outside_losses:SmallDetector"
    max((tmp_path / "run" / "checkpoints").iterdir()).unlink()
    resumed = rankdet(tmp_path, "train", "--resume", "run")
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    refused = rankdet(tmp_path, "evaluate", "run", "--data", data)
    assert refused.returncode != 0
    assert "--trust" in refused.stderr
    evaluated = rankdet(tmp_path, "evaluate", "run", "--data", data, "--trust")
    assert evaluated.returncode == 0, evaluated.stderr + evaluated.stdout
    image = next((data / "images").rglob("*.png"))
    detected = rankdet(tmp_path, "detect", "run", image, "--out", "found", "--trust")
    assert detected.returncode == 0, detected.stderr + detected.stdout


def test_a_recipe_is_changed_by_name_and_every_mistake_is_named() -> None:
    recipe = load_recipe("faster_rcnn_shapes")
    changed = recipe.changed({"optimizer.lr": 0.5, "detector": {"rpn": {"sampler": None}}})
    assert isinstance(changed, Recipe)
    assert (changed.optimizer.lr, changed.detector.rpn.sampler) == (0.5, None)
    assert changed.detector.rcnn == recipe.detector.rcnn
    with pytest.raises(InputError, match=r"seed: input should be .*optimizer\.l: unknown field; did you mean 'lr'"):
        recipe.changed({"optimizer.l": 0.5, "seed": "x"})
