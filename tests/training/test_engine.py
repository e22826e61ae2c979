"""The loop as a whole: one process, two processes, killed and resumed, and everything that can go wrong."""

import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from rankdet.recipes import Recipe, dump
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.folder import Run, read_log
from rankdet.runs.processes import World
from rankdet.structures import InputError
from rankdet.training.running import TrainedRun, train
from rankdet.training.setup import Training
from rankdet.training.step import training_step

from .comparing import clean, equal, records

Load = Callable[..., Recipe]
CPU_WORLD = World(0, 1, torch.device("cpu"))
STANDARD = ("detector.rcnn.softmax=true", "losses.rpn={type: sigmoid_cross_entropy, box_loss: {type: l1}}",
            "losses.rcnn={type: softmax_cross_entropy, box_loss: {type: giou}}")  # fmt: skip


def run(recipe: Recipe, folder: Path, resume: bool = False) -> tuple[TrainedRun, str]:
    console = Console(file=io.StringIO(), width=200)
    place = {"resume": folder} if resume else {"out": folder}
    outcome = train(recipe, console=console, **place)
    return outcome, console.file.getvalue()


@pytest.fixture(scope="module")
def whole(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve iterations that nothing disturbed."""
    from rankdet.recipes import load_recipe

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(load_recipe(tiny_file, ["schedule.iterations=12", "data.workers=1", "evaluation.every=5"]), folder)
    return folder


def test_run_leaves_recipe_log_and_newest_checkpoints(whole: Path):
    assert sorted(path.name for path in whole.iterdir()) == [
        "checkpoints", "data.txt", "detections.json", "evaluation.json", "log.jsonl", "recipe.yaml"
    ]  # fmt: skip
    assert [path.name for path in Run(whole).checkpoints()] == ["iteration_00000010.pt", "iteration_00000012.pt"]
    log = list(read_log(Run(whole).log))
    assert [(record["kind"], record["iteration"]) for record in log] == [
        ("train", 3), ("evaluation", 5), ("train", 6), ("train", 9), ("evaluation", 10), ("train", 12)
    ]  # fmt: skip
    statistics = log[0]["statistics"]
    for head in ("rpn", "rcnn"):
        for term in ("ranking", "sorting", "localization", "balance", "positives", "negatives"):
            assert f"{head}/{term}" in statistics
    terms = [
        value for name, value in statistics.items() if name.split("/")[1] in ("ranking", "sorting", "localization")
    ]
    assert log[0]["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert log[0]["timing"]["seconds_per_iteration"] > 0


def test_checkpoint_keeps_what_detection_and_resuming_need(whole: Path):
    state = load_checkpoint(Run(whole).latest_checkpoint())
    assert state["categories"] == [[1, "ellipse"], [3, "rectangle"], [7, "triangle"], [13, "ring"], [21, "cross"]]
    assert len(state["thresholds"]) == 5
    assert len(state["random_states"]) == state["world_size"] == 1
    assert state["recipe"]["name"] == "tiny"
    assert state["version"]


@pytest.mark.parametrize("kill_after", [2, 6])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(kill_after: int, whole: Path, tmp_path: Path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "rankdet", "train", str(Run(whole).recipe), "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not Run(folder).checkpoint(kill_after).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not Run(folder).checkpoint(12).exists()
    run(_recipe(folder), folder, resume=True)
    assert equal(clean(Run(folder).checkpoint(12)), clean(Run(whole).checkpoint(12)))
    assert records(folder) == records(whole)
    assert not list(folder.glob("checkpoints/.*"))


def test_losses_that_remember_resume_bit_for_bit(tiny: Load, tmp_path: Path):
    """A balance by epoch, in the middle of a period whose length training gives to one head."""
    focal = "type: focal, balancing: {type: epoch, start: 7.0"
    recipe = tiny(f"losses.rpn={{{focal}}}}}", f"losses.rcnn={{{focal}, iterations: 3}}}}")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run(recipe, whole)
    shutil.copytree(whole, resumed)
    Run(resumed).checkpoint(4).unlink()
    run(_recipe(resumed), resumed, resume=True)
    expected = clean(Run(whole).checkpoint(4))
    assert equal(clean(Run(resumed).checkpoint(4)), expected)
    losses = expected["statistics"][0]["losses"]
    assert losses["rpn"]["tasks.balancing.count"] == 4  # of an epoch of twelve
    assert losses["rcnn"]["tasks.balancing.count"] == 1
    assert losses["rpn"]["tasks.balancing.weight"] == 7
    assert 1 < losses["rcnn"]["tasks.balancing.weight"] != 7


def _recipe(folder: Path) -> Recipe:
    from rankdet.recipes import load_recipe

    return load_recipe(Run(folder).recipe)


def test_same_recipe_runs_again_to_the_same_bits(whole: Path, tmp_path: Path):
    run(_recipe(whole).model_copy(), tmp_path / "again")
    assert equal(clean(Run(tmp_path / "again").checkpoint(12)), clean(Run(whole).checkpoint(12)))


def test_workers_do_not_change_a_run(tiny: Load, tmp_path: Path):
    for workers in (0, 2):
        run(tiny(f"data.workers={workers}", "schedule.iterations=2"), tmp_path / str(workers))
    first, second = (load_checkpoint(Run(tmp_path / name).checkpoint(2)) for name in ("0", "2"))
    assert equal(first["detector"], second["detector"])


def test_a_run_is_the_same_where_its_workers_are_spawned(tiny: Load, tmp_path: Path):
    """As they are on other systems; then all that they need is pickled, as for the fork server of Python 3.14."""
    changes = ("schedule.iterations=2", "evaluation.at_end=true", "data.horizontal_flip=0.5")
    before = multiprocessing.get_start_method(allow_none=True)
    run(tiny(*changes), tmp_path / "alone")
    try:
        multiprocessing.set_start_method("spawn", force=True)
        run(tiny(*changes, "data.workers=1"), tmp_path / "spawned")
    finally:
        multiprocessing.set_start_method(before, force=True)
    first, second = (load_checkpoint(Run(tmp_path / name).checkpoint(2)) for name in ("alone", "spawned"))
    assert equal(first["detector"], second["detector"])
    assert equal(records(tmp_path / "alone"), records(tmp_path / "spawned"))


def test_signal_to_the_process_group_finishes_the_iteration_and_leaves_a_checkpoint(tiny_file: Path, tmp_path: Path):
    """torchrun and a terminal signal the whole group, workers that read images included."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "rankdet", "train", str(tiny_file), "--out", str(folder), "schedule.iterations=5000",
         "runtime.checkpoint_interval=4000", "runtime.log_interval=2", "data.workers=1"], start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    for line in process.stdout:
        if "/5000" in line:
            break
    os.killpg(process.pid, signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"--resume {folder}" in out
    assert error == ""
    assert len(Run(folder).checkpoints()) == 1


@pytest.mark.parametrize("form", [STANDARD, ()])
def test_weights_that_explode_stop_the_run_with_the_images_named(form: tuple[str, ...], tiny: Load, tmp_path: Path):
    recipe = tiny(*form, "optimizer.lr=1e30", "schedule.warmup_iterations=0", "runtime.checkpoint_interval=1")
    with pytest.raises(InputError, match=r"the loss is not finite at iteration 2: loss = .*rcnn/.* = nan.*\.png"):
        run(recipe, tmp_path / "run")
    assert [path.name for path in Run(tmp_path / "run").checkpoints()] == ["iteration_00000001.pt"]
    assert records(tmp_path / "run") == []


def test_folder_that_holds_a_run_is_not_written_to(whole: Path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds a run; resume it"):
        run(_recipe(whole), whole)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_run_that_stopped_before_its_first_checkpoint_begins_again(tiny: Load, tmp_path: Path):
    recipe = tiny("schedule.iterations=2")
    folder = tmp_path / "run"
    folder.mkdir()
    Run(folder).recipe.write_text(dump(recipe))
    Run(folder).log.write_text('{"kind": "train", "iteration": 1}\n')
    run(recipe, folder, resume=True)
    assert Run(folder).checkpoint(2).exists()
    assert [record["iteration"] for record in read_log(Run(folder).log)] == [2]


def test_finished_run_resumes_to_nothing(whole: Path):
    outcome, text = run(_recipe(whole), whole, resume=True)
    assert outcome.signal is None
    assert "going on at iteration 12" in text


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        lambda path: path.write_text("no image"),
        lambda path: Image.new("RGB", (9, 9)).save(path),
    ],
)
def test_a_validation_image_that_cannot_be_read_counts_as_one_without_detections(
    harm: Callable[[Path], None], tiny: Load, shapes_folder: Path, tmp_path: Path
):
    folder = tmp_path / "data"
    shutil.copytree(shapes_folder, folder)
    for image in sorted((folder / "images" / "val").iterdir())[1:3]:
        harm(image)
    recipe = tiny(f"data.folder={folder}", "evaluation.at_end=true", "schedule.iterations=2", "evaluation.every=1")
    outcome, text = run(recipe, tmp_path / "run")
    assert outcome.metrics["images_unreadable"] == 2
    assert text.count("2 records: an image cannot be read and counts as one without detections") == 1
    assert [row["metrics"]["images_unreadable"] for row in records(tmp_path / "run") if "metrics" in row] == [2, 2]
    assert json.loads(Run(tmp_path / "run").evaluation.read_text())["images_unreadable"] == 2


def test_where_no_validation_image_can_be_read_training_does_not_start(tiny: Load, shapes_folder: Path, tmp_path: Path):
    folder = tmp_path / "data"
    shutil.copytree(shapes_folder, folder)
    first = min((folder / "images" / "val").iterdir())
    for image in (folder / "images" / "val").iterdir():
        image.write_bytes(b"")
    with pytest.raises(InputError, match=rf"none of 6 images of .*val can be read, the first: .*{first.name}: "):
        run(tiny(f"data.folder={folder}", "evaluation.at_end=true"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Losing:
    """Takes the validation images away while the training runs."""

    def __init__(self, images: Path) -> None:
        self.images = images

    def on_log(self, record: dict) -> None:
        if self.images.exists():
            self.images.rename(self.images.with_name("elsewhere"))

    def on_evaluation(self, record: dict) -> None: ...

    def on_end(self, run: TrainedRun) -> None: ...


@pytest.mark.parametrize("every", [1, 3])
def test_an_evaluation_that_fails_loses_no_training_and_resuming_evaluates(
    every: int, tiny: Load, shapes_folder: Path, tmp_path: Path
):
    folder = tmp_path / "data"
    shutil.copytree(shapes_folder, folder)
    images = folder / "images" / "val"
    changes = (f"data.folder={folder}", "schedule.iterations=4", f"evaluation.every={every}")
    recipe = tiny(*changes, "runtime.checkpoint_interval=100", "runtime.log_interval=1")
    with pytest.raises(InputError, match="none of 6 images"):
        train(recipe, out=tmp_path / "run", callbacks=[Losing(images)], console=Console(quiet=True))
    assert load_checkpoint(Run(tmp_path / "run").checkpoint(every))["thresholds"] is None
    images.with_name("elsewhere").rename(images)
    run(recipe, tmp_path / "run", resume=True)
    evaluated = [row["iteration"] for row in records(tmp_path / "run") if row["kind"] == "evaluation"]
    assert evaluated == list(range(every, 5, every))
    trained = [row for row in records(tmp_path / "run") if row["kind"] == "train"]
    assert [row["iteration"] for row in trained] == [1, 2, 3, 4]
    run(recipe, tmp_path / "whole")
    assert [row for row in records(tmp_path / "whole") if row["kind"] == "train"] == trained
    states = [clean(Run(tmp_path / name).checkpoint(4)) for name in ("run", "whole")]
    assert equal(states[0]["detector"], states[1]["detector"])


def test_resuming_takes_the_recipe_of_the_checkpoint_and_names_what_differs(tiny: Load, tmp_path: Path):
    run(tiny("schedule.iterations=1"), tmp_path / "run")
    with pytest.raises(
        InputError, match=r"00001\.pt does not fit: .* optimizer\.lr=0\.5, and it was trained with 0\.003"
    ):
        run(tiny("schedule.iterations=1", "optimizer.lr=0.5"), tmp_path / "run", resume=True)
    free = ("runtime.log_interval=7", "data.workers=1", "evaluation.batch_size=1")
    run(tiny("schedule.iterations=1", *free), tmp_path / "run", resume=True)


def test_checkpoint_without_the_state_of_the_optimizer_does_not_fit(tiny: Load, tmp_path: Path):
    run(tiny("schedule.iterations=1"), tmp_path / "run")
    path = Run(tmp_path / "run").checkpoint(1)
    state = load_checkpoint(path)
    for change, message in (
        ({"optimizer": {}}, "does not fit: KeyError"),
        ({"random_states": []}, "does not fit: IndexError"),
        ({"seconds": "x"}, "seconds is of type str"),
    ):
        save_checkpoint(path, state | change)
        with pytest.raises(InputError, match=message):
            run(tiny("schedule.iterations=1"), tmp_path / "run", resume=True)


def test_effective_batch_and_learning_rate_are_printed(tiny: Load, tmp_path: Path):
    _, text = run(tiny("schedule.iterations=1", "runtime.accumulation=2"), tmp_path / "run")
    assert "1 iteration of 4 images (2 per process × 1 × accumulation 2)" in text
    assert "all of them in the warm-up of" in text
    assert "learning rate 0.0015 (scaled from 0.003 at 8 images)" in text
    assert "rcnn: ranking" in text


def broken_folder(shapes_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "broken"
    shutil.copytree(shapes_folder, folder)
    image = sorted((folder / "images" / "train").iterdir())[7]
    image.write_bytes(image.read_bytes()[:60])
    return folder, image


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_stops_the_run_and_is_named(workers: int, tiny: Load, shapes_folder: Path, tmp_path: Path):
    folder, image = broken_folder(shapes_folder, tmp_path)
    recipe = tiny(f"data.folder={folder}", f"data.workers={workers}", "schedule.iterations=12")
    with pytest.raises(InputError) as caught:
        run(recipe, tmp_path / "run")
    assert str(caught.value).startswith(f"{image}: the image cannot be decoded")


def test_unreadable_image_is_skipped_and_counted_where_asked(tiny: Load, shapes_folder: Path, tmp_path: Path):
    folder, image = broken_folder(shapes_folder, tmp_path)
    recipe = tiny(
        f"data.folder={folder}", "data.skip_unreadable=true", "schedule.iterations=12", "runtime.log_interval=12"
    )
    _, text = run(recipe, tmp_path / "run")
    assert text.count(f"skipped {image}: the image cannot be decoded") == 1
    assert [record["skipped_images"] for record in records(tmp_path / "run")] == [1]


def test_validation_images_with_other_categories_are_refused(tiny: Load, shapes_folder: Path, tmp_path: Path):
    folder = tmp_path / "other"
    shutil.copytree(shapes_folder, folder)
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "circle"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"instances_val\.json: .* no class of .*instances_train\.json: 'circle'"):
        run(tiny(f"data.folder={folder}", "evaluation.at_end=true"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def batches_of(training: Training) -> Iterator:
    from rankdet.data import GroupedBatchSampler, build_training_loader

    sampler = GroupedBatchSampler(training.dataset.aspect_ratios, training.recipe.data.batch_size, training.recipe.seed)
    return iter(build_training_loader(training.dataset, sampler, workers=0))


def test_accumulated_step_averages_the_gradients_of_its_batches(tiny: Load, tmp_path: Path):
    recipe = tiny("schedule.iterations=1", "runtime.accumulation=3", "optimizer.type=sgd", "optimizer.lr=0.1",
                  "schedule.warmup_iterations=0")  # fmt: skip
    run(recipe, tmp_path / "run")
    training = Training(recipe, CPU_WORLD)
    training.set_lr(0)
    for batch in itertools.islice(batches_of(training), 3):
        total, _, _ = training_step(training.model.network, training.losses, batch, recipe.head_weights)
        (total / 3).backward()
    training.optimizer.step()
    trained = load_checkpoint(Run(tmp_path / "run").checkpoint(1))["detector"]
    assert equal(dict(training.model.network.state_dict()), dict(trained))


def test_gradients_are_clipped_to_the_norm_asked_for(tiny: Load, tmp_path: Path):
    # After one plain SGD step from the same start, the way the weights went is lr times the clipped gradient.
    recipe = tiny("schedule.iterations=1", "optimizer={type: sgd, lr: 1.0, weight_decay: 0.0, momentum: 0.0}",
                  "schedule.warmup_iterations=0", "runtime.scale_lr=false",
                  "runtime.clip_gradient_norm=0.01")  # fmt: skip
    run(recipe, tmp_path / "run")
    before = Training(recipe, CPU_WORLD).model.network.state_dict()
    after = load_checkpoint(Run(tmp_path / "run").checkpoint(1))["detector"]
    squares = [((after[name] - before[name]).double() ** 2).sum() for name in before]
    assert torch.stack(squares).sum().sqrt().item() == pytest.approx(0.01, rel=1e-3)


def test_every_weight_moves_in_float32_and_bfloat16(tiny: Load, tmp_path: Path):
    for precision in ("float32", "bfloat16"):
        recipe = tiny("schedule.iterations=2", f"runtime.precision={precision}", "runtime.channels_last=true")
        run(recipe, tmp_path / precision)
        before = Training(recipe, CPU_WORLD).model.network.state_dict()
        after = load_checkpoint(Run(tmp_path / precision).checkpoint(2))["detector"]
        assert [name for name in before if torch.equal(before[name], after[name])] == []


TWO_PROCESSES = """
import os, sys, torch
from pathlib import Path
from rich.console import Console
from rankdet.recipes import load_recipe
from rankdet.training.running import train

recipe, folder = load_recipe(sys.argv[1], sys.argv[3:]), Path(sys.argv[2])
run = train(recipe, out=folder, console=Console(quiet=True))
torch.save(run.model.network.state_dict(), folder / f"rank{os.environ['RANK']}.pt")
"""


def torchrun(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=90, env=environment, check=False
    )


def test_two_processes_share_running_statistics_and_train_every_weight(tiny_file: Path, tmp_path: Path):
    """A network whose statistics move, with layers behind the last map: each process sees other images.

    The weights are averaged, so that what is compared are averages.
    """
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    backbone = "{type: timm, name: test_efficientnet, weights: null, out_indices: [2, 3], frozen_batch_norm: false}"
    average = "ema={decay: 0.5, warmup_iterations: 0}"
    changes = [f"detector.backbone={backbone}", average, "schedule.iterations=3", "evaluation.every=3"]
    result = torchrun(script, str(tiny_file), str(tmp_path / "run"), *changes)
    assert result.returncode == 0, result.stderr
    assert "FutureWarning" not in result.stderr
    first, second = (torch.load(tmp_path / "run" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert int(first["backbone.network.bn1.num_batches_tracked"]) == 0  # frozen with the first stage
    assert int(first["backbone.network.blocks.2.0.bn1.num_batches_tracked"]) == 3
    assert equal(dict(first), dict(second))
    state = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    assert equal(dict(first), dict(state["detector"]))
    assert not equal(dict(first), dict(state["weights"]))


def test_two_processes_of_two_images_that_rank_in_one_pool_walk_as_one_that_holds_all_four(
    tiny_file: Path, tiny: Load, shapes_folder: Path, tmp_path: Path
):
    """Candidates of other images change ranks, normalizers and balances: only in one pool are the ways the same."""
    folder = tmp_path / "data"
    shutil.copytree(shapes_folder, folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    owners = {annotation["image_id"] for annotation in content["annotations"]}
    content["images"] = [image for image in content["images"] if image["id"] in owners][:4]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    path.write_text(json.dumps(content))
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    changes = [f"data.folder={folder}", "schedule.iterations=3", "runtime.log_interval=1"]
    run(tiny(*changes, "data.batch_size=4"), tmp_path / "one")
    expected = load_checkpoint(Run(tmp_path / "one").checkpoint(3))
    alone, losses = expected["detector"], [row["loss"] for row in records(tmp_path / "one")]
    for sync in ("true", "false"):
        pool = [f"losses.{head}.sync={sync}" for head in ("rpn", "rcnn")]
        result = torchrun(script, str(tiny_file), str(tmp_path / sync), *changes, *pool, "data.batch_size=2")
        assert result.returncode == 0, result.stderr
        first, second = (torch.load(tmp_path / sync / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
        assert equal(dict(first), dict(second))
        is_same = all(torch.allclose(first[name], alone[name], rtol=1e-4, atol=1e-5) for name in alone)
        assert is_same == (sync == "true")
        assert (losses == pytest.approx([row["loss"] for row in records(tmp_path / sync)], rel=1e-4)) == is_same
        moments = load_checkpoint(Run(tmp_path / sync).checkpoint(3))["optimizer"]["state"]
        for number, moment in expected["optimizer"]["state"].items():
            is_close = torch.allclose(moments[number]["exp_avg"], moment["exp_avg"], rtol=1e-3, atol=1e-5)
            assert is_close or not is_same, "averages of gradients"


def test_two_processes_agree_though_one_sees_no_object(
    tiny_file: Path, tiny: Load, shapes_folder: Path, tmp_path: Path
):
    """Each global batch is one image with objects and one without, so one process never sees any."""
    folder = tmp_path / "data"
    shutil.copytree(shapes_folder, folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    owners = {annotation["image_id"] for annotation in content["annotations"]}
    with_objects = next(image for image in content["images"] if image["id"] in owners)
    other = next(image for image in content["images"] if image is not with_objects)
    content["images"] = [with_objects, other]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == with_objects["id"]]
    path.write_text(json.dumps(content))
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    changes = [f"data.folder={folder}", "data.batch_size=1", "schedule.iterations=3", "evaluation.at_end=true"]
    result = torchrun(script, str(tiny_file), str(tmp_path / "run"), *changes)
    assert result.returncode == 0, result.stderr
    first, second = (torch.load(tmp_path / "run" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert equal(dict(first), dict(second))
    # One process that accumulates over the same two images walks the same way.
    run(tiny(*changes, "runtime.accumulation=2"), tmp_path / "one")
    alone = load_checkpoint(Run(tmp_path / "one").checkpoint(3))["detector"]
    assert all(torch.allclose(first[name], alone[name], atol=1e-4) for name in alone)
    state = load_checkpoint(Run(tmp_path / "run").latest_checkpoint())
    assert state["world_size"] == len(state["random_states"]) == 2
    detections = json.loads(Run(tmp_path / "run").detections.read_text())
    assert detections == [] or len({record["image_id"] for record in detections}) > 1
    _, text = run(tiny(*changes), tmp_path / "run", resume=True)
    assert "2 → 1 processes" in text


def test_images_with_more_objects_than_detections_are_told_once(tiny: Load, tmp_path: Path):
    recipe = tiny("detector.testing.per_image=1", "evaluation.every=1", "schedule.iterations=2")
    outcome, text = run(recipe, tmp_path / "run")
    assert text.count("detections that count: up to") == 1
    assert "--max-detections" in text
    (finding,) = outcome.metrics["findings"]
    assert finding in text
