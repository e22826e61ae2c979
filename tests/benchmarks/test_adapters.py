"""The benchmark of adapters: equal conditions for all forms, runs that are not repeated, figures that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from rankdet.coco import Results
from rankdet.data import make_shapes
from rankdet.recipes import load_recipe


@pytest.fixture
def benchmark(module) -> ModuleType:
    torch.set_num_threads(1)
    return module("adapters")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images to learn from, and two each to choose by and to report on."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=2, test=2, size=64)


@pytest.fixture
def studied(benchmark, module, folder: Path, tmp_path: Path) -> Callable[[str, str], Any]:
    """Makes a study of a detector in two iterations."""

    def make(framework: str, detector: str) -> Any:
        changes = {"data.folder": str(folder), "data.batch_size": 2, "schedule.iterations": 2, "data.keep_empty": False}
        family = module(f"frameworks.{framework}").FAMILIES[detector]
        recipe = load_recipe("faster_rcnn_shapes", changes)
        return benchmark.Study(framework, detector, family, recipe, tmp_path, pretrained=False)

    return make


@pytest.fixture
def study(studied) -> Any:
    return studied("torchvision", "retinanet")


@pytest.mark.parametrize(("framework", "detector"), [("torchvision", "retinanet"), ("transformers", "rt_detr")])
def test_a_run_is_measured_once_and_shown_in_the_tables(benchmark, studied, framework: str, detector: str) -> None:
    pytest.importorskip(framework)
    study = studied(framework, detector)
    for form in benchmark.FORMS:
        for lr in (1e-3, 2e-3):
            benchmark.run(study, form, lr, seed=0)
    files = {file: file.stat().st_mtime_ns for file in study.out.iterdir()}
    assert len(files) == 6
    benchmark.run(study, "rs", 1e-3, seed=0)
    assert {file: file.stat().st_mtime_ns for file in study.out.iterdir()} == files
    record = json.loads(study.file("rs", 1e-3, 0).read_text())
    assert record["seconds"] > 0
    assert {"AP", "AP50", "oLRP", "rho", "AP50_default"} <= set(record["test"])
    found = benchmark.tables(study, list(benchmark.FORMS), [1e-3, 2e-3], [0, 1])
    assert "| rs-balanced | 1 " in found


def test_forms_begin_with_the_same_weights_and_see_the_same_images(benchmark, study, monkeypatch) -> None:
    seen: dict[str, list[float]] = {}

    def record(_, detector, dataset, lr, seed, label):
        batches = benchmark.build_training_loader(dataset, study.recipe.data.build_sampler(dataset, seed), 0)
        pixels = [float(next(iter(batches)).images.pixels.double().mean()), float(torch.rand(()))]
        weights = [float(each.detach().double().sum()) for each in detector.network.parameters()]
        seen[label] = weights + pixels
        return {"seconds": 1.0}

    monkeypatch.setattr(benchmark, "train", record)
    for form in benchmark.FORMS:
        benchmark.run(study, form, 1e-3, seed=0)
    first, *others = seen.values()
    assert len(others) == 2
    assert all(other == first for other in others)


def test_the_learning_rate_is_that_of_the_best_ap_on_the_validation_split(benchmark, study) -> None:
    for lr, ap in ((1e-3, 0.2), (2e-3, 0.3)):
        assert study.choice("rs", [1e-3, 2e-3], 0) is None
        study.file("rs", lr, 0).write_text(json.dumps({"val": {"AP": ap}}))
    assert study.choice("rs", [1e-3, 2e-3], 0) == 2e-3


def test_detections_below_the_default_threshold_count_in_all_but_its_figure(benchmark, study) -> None:
    dataset = study.recipe.data.build_test_dataset("val")
    truth = dataset.ground_truth
    ids, categories = np.array(truth.image_ids), np.array(truth.category_ids)
    scores = np.linspace(0.01, 0.04, len(truth.labels))
    exact = Results(ids[truth.images], categories[truth.labels], scores, truth.boxes)
    found = benchmark.figures(dataset, exact, threshold=0.05)
    assert (found["AP"], found["AP50"], found["AP50_default"]) == (pytest.approx(1), pytest.approx(1), 0)
    assert benchmark.figures(dataset, exact, threshold=0.005)["AP50_default"] == pytest.approx(1)


def test_iterations_of_all_forms_are_timed_in_turns(benchmark, capsys) -> None:
    benchmark.main(["torchvision", "--time", "--only", "retinanet", "--size", "64", "96", "--repeats", "1"])
    assert "| retinanet |" in capsys.readouterr().out


def test_a_detector_that_the_framework_does_not_have_is_refused(benchmark, capsys) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["torchvision", "--only", "ssd"])
    assert "torchvision has faster_rcnn, retinanet, fcos, not ssd" in capsys.readouterr().err
