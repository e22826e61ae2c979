"""Training from the weights of a checkpoint: what is taken over, what starts anew, what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rankdet.recipes import Recipe
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.folder import Run
from rankdet.runs.processes import World
from rankdet.structures import InputError
from rankdet.training.running import train
from rankdet.training.setup import Training

Load = Callable[..., Recipe]
WORLD = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def first(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations."""
    run = Run(tmp_path_factory.mktemp("first") / "run")
    train(tiny_file, out=run.folder, changes={"schedule.iterations": 2}, console=Console(quiet=True))
    return run.folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(Run(folder).latest_checkpoint())["detector"]


def start(recipe: Recipe) -> tuple[dict[str, torch.Tensor], str]:
    training = Training(recipe, WORLD)
    return training.model.network.state_dict(), training.start


def test_all_weights_are_taken_where_nothing_differs(first: Path, tiny: Load):
    started, text = start(tiny(f"weights={first}", "seed=3"))
    expected = weights(first)
    assert all(torch.equal(value, expected[name]) for name, value in started.items())
    assert text == f"weights of {Run(first).latest_checkpoint()}: {len(expected)} tensors"


def test_layers_of_classes_start_anew_where_the_categories_are_others(first: Path, tiny: Load, tmp_path: Path):
    state = load_checkpoint(Run(first).latest_checkpoint())
    state["categories"] = [[number, f"other {name}"] for number, name in state["categories"]]
    other = tmp_path / "other.pt"
    save_checkpoint(other, state)
    started, text = start(tiny(f"weights={other}", "seed=3"))
    anew = [name for name, value in started.items() if not torch.equal(value, state["detector"][name])]
    assert anew == [f"rcnn.head.{layer}.{part}" for layer in ("classifier", "regressor") for part in ("weight", "bias")]
    assert text.endswith(f"; start anew: {', '.join(anew)}")


def test_another_form_takes_what_fits_and_gives_the_same_boxes(first: Path, tiny: Load):
    standard = tiny(
        f"weights={first}",
        "detector.rcnn.softmax=true",
        "losses.rcnn={type: softmax_cross_entropy, box_loss: {type: l1}}",
        "detector.rpn.delta_stds=[1, 1, 1, 1]",
    )
    started, text = start(standard)
    expected = weights(first)
    assert "start anew: rcnn.head.classifier.weight, rcnn.head.classifier.bias" in text
    factors = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(3)
    torch.testing.assert_close(started["rpn.head.regressor.bias"], expected["rpn.head.regressor.bias"] * factors)
    torch.testing.assert_close(
        started["rpn.head.regressor.weight"], expected["rpn.head.regressor.weight"] * factors[:, None, None, None]
    )
    assert torch.equal(started["rcnn.head.regressor.bias"], expected["rcnn.head.regressor.bias"])


def test_another_backbone_is_refused(first: Path, tiny: Load):
    with pytest.raises(InputError, match=r"weights .* do not fit: \d+ tensors of the backbone of recipe tiny"):
        start(tiny(f"weights={first}", "detector.backbone.channels=[8, 16, 32]"))


def test_run_says_where_it_starts_and_resumes_without_the_file(first: Path, tiny: Load, tmp_path: Path):
    copy = tmp_path / "start.pt"
    copy.write_bytes(Run(first).latest_checkpoint().read_bytes())
    console = Console(record=True, width=500)
    recipe = tiny(f"weights={copy}", "schedule.iterations=2")
    train(recipe, out=tmp_path / "run", console=console)
    assert f"weights of {copy}" in console.export_text()
    copy.unlink()
    train(resume=tmp_path / "run", console=Console(quiet=True))
    with pytest.raises(InputError, match=r"cannot read checkpoint .*start\.pt"):
        train(recipe, out=tmp_path / "again", console=Console(quiet=True))
