"""The command line as a user meets it: what it prints, what it leaves, one line for a mistake."""

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from torch.distributed import TCPStore

from rankdet import __version__, cli
from rankdet.data import make_shapes
from rankdet.demo import run_demo
from rankdet.inference.evaluation import evaluate
from rankdet.recipes import RECIPES, load_recipe
from rankdet.runs.folder import find_checkpoint
from rankdet.structures import InputError

SMALL = [
    "data.batch_size=2", "data.workers=0", "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]",
    "detector.rcnn.channels=16", "detector.testing.per_image=5", "schedule.iterations=2", "runtime.threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=4, size=64)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    cli.app(
        ["train", "rs_faster_rcnn_shapes", "--data", str(data), "--out", str(folder), *SMALL], standalone_mode=False
    )
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit status of a command line."""
    monkeypatch.setattr(sys, "argv", ["rankdet", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0


def test_help_version_and_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert call(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    for command in (
        "train",
        "evaluate",
        "detect",
        "report",
        "calibrate",
        "sweep",
        "export",
        "explain",
        "doctor",
        "look",
        "list",
        "show",
        "make-shapes",
        "demo",
        "reproduce",
        "import",
    ):
        assert command in text
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__
    assert call(monkeypatch, "list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(RECIPES)


def test_shown_recipe_is_the_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert call(monkeypatch, "show", "rs_faster_rcnn_shapes", "seed=7") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == load_recipe("rs_faster_rcnn_shapes", ["seed=7"]).model_dump(mode="json")


def test_training_leaves_an_evaluated_run_that_its_recipe_alone_repeats(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert sorted(path.name for path in trained.iterdir()) == [
        "checkpoints", "data.txt", "detections.json", "evaluation.json", "log.jsonl", "recipe.yaml"
    ]  # fmt: skip
    assert "AP50" in json.loads((trained / "evaluation.json").read_text())
    assert call(monkeypatch, "train", trained / "recipe.yaml", "--out", tmp_path / "again") == 0
    assert "oLRP_Loc" in capsys.readouterr().out
    assert (tmp_path / "again" / "detections.json").read_text() == (trained / "detections.json").read_text()


def test_training_without_a_recipe_takes_the_small_one_and_says_so_and_which_one_learns_masks(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    changes = ["detector.backbone.weights=null", "schedule.epochs=null", "evaluation.at_end=false", "data.workers=0"]
    small = ["schedule.iterations=1", "data.resize=null", "data.batch_size=2", "runtime.threads=1"]
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "train", *changes, *small, "--data", data) == 0
    said = "no recipe is named: rs_faster_rcnn_lite0 is taken, a small one for boxes"
    assert capsys.readouterr().out.splitlines()[0] == f"{said}; the objects have masks, which rs_mask_rcnn_lite0 learns"
    assert load_recipe(tmp_path / "runs" / "rs_faster_rcnn_lite0" / "recipe.yaml").data.folder == data
    (without := tmp_path / "boxes").mkdir()
    (without / "labels.json").write_text('{"images": [], "annotations": [{"segmentation": []}], "categories": []}')
    assert call(monkeypatch, "train", "--data", without) == 2
    assert capsys.readouterr().out == f"{said}\n"


def test_checkpoint_and_its_detections_measure_alike(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    assert call(monkeypatch, "evaluate", trained, "--data", data, "--split", "val", "--out", out) == 0
    assert "thresholds stored in" in capsys.readouterr().out
    truth = data / "annotations" / "instances_val.json"
    arguments = ("evaluate", "--detections", out / "detections.json", "--ground-truth", truth, "--out", tmp_path / "b")
    assert call(monkeypatch, *arguments) == 0
    first, second = (json.loads((folder / "evaluation.json").read_text()) for folder in (out, tmp_path / "b"))
    assert first == second | {"images_unreadable": 0, "data_digest": first["data_digest"]}


def test_ranking_is_measured_on_demand_and_the_checkpoint_is_left_alone(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = find_checkpoint(trained).read_bytes()
    arguments = ("evaluate", trained, "--data", data, "--out", tmp_path, "--ranking", "--no-thresholds")
    assert call(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    assert "spearman" in out
    assert "thresholds stored" not in out
    assert find_checkpoint(trained).read_bytes() == before
    quality = json.loads((tmp_path / "evaluation.json").read_text())["ranking"]
    assert quality["head"] == "rcnn"
    assert -1 <= quality["spearman"] <= 1


def test_ranking_is_measured_of_a_loss_whose_balance_counts_epochs(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    changes = ("losses.rcnn={type: alrp}", "schedule.iterations=1", "schedule.warmup_iterations=0")
    run = tmp_path / "run"
    assert call(monkeypatch, "train", "rs_faster_rcnn_shapes", "--data", data, "--out", run, *SMALL, *changes) == 0
    arguments = ("evaluate", run, "--data", data, "--out", tmp_path / "out", "--ranking", "--no-thresholds")
    assert call(monkeypatch, *arguments) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["ranking"]["head"] == "rcnn"


def test_training_that_diverges_has_its_own_exit_status(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    changes = ("optimizer.lr=1e30", "schedule.warmup_iterations=0")
    arguments = ("train", "rs_faster_rcnn_shapes", "--data", data, "--out", tmp_path / "run", *SMALL, *changes)
    assert call(monkeypatch, *arguments) == 3
    assert "is not finite" in capsys.readouterr().err


def test_reproduce_lists_tables_and_prints_commands_without_making_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "reproduce") == 0
    assert "A.20     All detectors" in capsys.readouterr().out
    assert call(monkeypatch, "reproduce", "a17", "--rows", "none-none", "--seeds", "5", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "\nrankdet train rs_faster_rcnn_shapes seed=5 --data " in out
    assert list(tmp_path.iterdir()) == []


def test_report_of_a_run_evaluates_it_on_other_data_and_keeps_its_evaluation(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = (trained / "evaluation.json").read_bytes()
    out = tmp_path / "report.html"
    assert call(monkeypatch, "report", trained, "--out", out) == 0
    assert f"written: {out}" in capsys.readouterr().out
    assert call(monkeypatch, "report", trained, "--data", data, "--split", "train", "--out", out) == 0
    assert "evaluated on 8 images" in capsys.readouterr().err
    expected = evaluate(trained, data, split="train")
    assert f'data-value="{expected["oLRP"]!r}"' in out.read_text() or f">{expected['oLRP']:.3f}<" in out.read_text()
    assert (trained / "evaluation.json").read_bytes() == before
    assert call(monkeypatch, "report", tmp_path / "none") == 2
    assert "there is no run folder" in capsys.readouterr().err


def test_checkpoint_that_cannot_be_written_is_evaluated_all_the_same(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = find_checkpoint(trained).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # enough for the results
    try:
        assert call(monkeypatch, "evaluate", trained, "--data", data, "--out", tmp_path / "out") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out, error = capsys.readouterr()
    assert "oLRP_Loc" in out
    assert "rankdet: warning: thresholds not stored: cannot write checkpoint" in error
    assert find_checkpoint(trained).read_bytes() == before
    assert (tmp_path / "out" / "evaluation.json").exists()


def test_results_that_have_no_place_are_refused_before_anything_is_computed(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    arguments = ("evaluate", trained, "--data", data, "--out", tmp_path / "file" / "out")
    assert_refused(monkeypatch, capsys, "cannot make folder", *arguments)


def test_processes_of_torchrun_evaluate_together_and_one_speaks(trained: Path, data: Path, tmp_path: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rankdet"]
    arguments = ["evaluate", str(trained), "--data", str(data), "--device", "cpu", "--out", str(tmp_path / "out")]
    result = subprocess.run(
        [*command, *arguments],
        capture_output=True, text=True, timeout=90, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("thresholds stored in") == 1
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert written == json.loads((trained / "evaluation.json").read_text())


def test_processes_of_torchrun_count_unreadable_validation_images_and_one_tells(
    trained: Path, data: Path, tmp_path: Path
):
    folder = broken(data, tmp_path)
    first, second, *_ = sorted((folder / "images" / "val").iterdir())
    first.unlink()
    second.write_bytes(b"")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rankdet"]
    arguments = ["evaluate", str(trained), "--data", str(folder), "--device", "cpu", "--out", str(tmp_path / "out")]
    result = subprocess.run(
        [*command, *arguments, "--no-thresholds"],
        capture_output=True, text=True, timeout=90, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    told = "2 records: an image cannot be read and counts as one without detections"
    assert (result.stdout + result.stderr).count(told) == 1
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["images_unreadable"] == 2


def test_detecting_draws_images(trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images = sorted((data / "images" / "val").iterdir())
    assert call(monkeypatch, "detect", trained, *images[:2], "--out", tmp_path / "out", "--threshold", "0.1") == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_a_broken_image_is_named_at_the_end_and_told_by_the_exit_status(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "images"
    shutil.copytree(data / "images" / "val", folder)
    (folder / "broken [1].jpg").write_bytes(b"nothing")
    assert call(monkeypatch, "detect", trained, folder, "--out", tmp_path / "out") == 1
    out, error = capsys.readouterr()
    assert f"written: {tmp_path / 'out'}, 4 images" in out
    assert f"rankdet: error: {folder}: broken [1].jpg: cannot be read: left out: " in error
    assert len(list((tmp_path / "out").glob("*.png"))) == 4


def test_processes_of_torchrun_share_the_images_and_write_one_file(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "images" / "inside"
    shutil.copytree(data / "images" / "val", folder)
    (folder / "broken.jpg").write_bytes(b"nothing")
    arguments = ["detect", str(trained), str(folder.parent), "--recursive", "--device", "cpu", "--no-drawings", "--out"]
    assert call(monkeypatch, *arguments, tmp_path / "alone") == 1
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rankdet"]
    result = subprocess.run(
        [*command, *arguments, str(tmp_path / "shared")],
        capture_output=True, text=True, timeout=90, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("broken.jpg: cannot be read: left out") == 1
    assert result.stdout.count("found") == 4
    assert result.stdout.count("written: ") == 1
    files = [tmp_path / name / "detections.json" for name in ("alone", "shared")]
    alone, shared = (json.loads(file.read_text()) for file in files)
    assert alone["images"] == shared["images"]
    assert len(alone["annotations"]) == len(shared["annotations"]) > 4
    for one, other in zip(alone["annotations"], shared["annotations"], strict=True):
        assert one["image_id"] == other["image_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_what_detect_writes_is_measured_as_the_checkpoint_is(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert call(monkeypatch, "detect", trained, data / "images" / "val", "--out", tmp_path / "found") == 0
    truth = data / "annotations" / "instances_val.json"
    found = tmp_path / "found" / "detections.json"
    assert call(monkeypatch, "evaluate", "--detections", found, "--ground-truth", truth, "--out", tmp_path) == 0
    first, second = (json.loads((folder / "evaluation.json").read_text()) for folder in (trained, tmp_path))
    assert second["AP"] == pytest.approx(first["AP"], abs=1e-6)
    assert "AP50" in capsys.readouterr().out


def test_more_detections_of_a_checkpoint_are_measured_on_demand(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = ("evaluate", trained, "--data", data, "--out", tmp_path, "--no-thresholds", "--max-detections", "20")
    assert call(monkeypatch, *arguments) == 0
    counts = [len(json.loads((folder / "detections.json").read_text())) for folder in (trained, tmp_path)]
    assert counts[0] == 4 * 5 < counts[1] <= 4 * 20


def test_doctor_tells_a_sound_folder_from_a_broken_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert call(monkeypatch, "doctor", data) == 0
    assert "0 errors" in capsys.readouterr().out
    assert call(monkeypatch, "doctor", tmp_path) == 2
    assert call(monkeypatch, "doctor", data, "evaluation.metric=APr", "evaluation.patience=2") == 2
    out = capsys.readouterr().out
    assert "error: evaluation.patience counts evaluations on the way; set evaluation.every=ITERATIONS\n" in out
    assert "is not of LVIS, on which evaluation.metric=APr is measured; evaluation.metric=AP is measured on all" in out


def test_look_writes_one_page_about_a_folder_or_a_file(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = tmp_path / "page.html"
    assert call(monkeypatch, "look", data, "--out", page, "--recipe", "rs_faster_rcnn_shapes", "--images", "3") == 0
    assert capsys.readouterr().out.startswith(f"written: {page}")
    assert "Anchors of rs_faster_rcnn_shapes" in page.read_text(encoding="utf-8")
    file = data / "annotations" / "instances_val.json"
    assert call(monkeypatch, "look", file, "--out", page) == 0
    assert call(monkeypatch, "look", data, "--out", page, "--split", "val") == 0
    assert call(monkeypatch, "look", "--val-annotations", file, "--out", page) == 0
    for wrong in (
        ["look"],
        ["look", data, "--val-images", data],
        ["look", data, "--split", "none"],
        ["look", tmp_path],
    ):
        assert call(monkeypatch, *wrong) == 2


def broken(data: Path, tmp_path: Path, **changes: object) -> Path:
    """A copy of the data with other values in the first annotation."""
    folder = tmp_path / "broken"
    shutil.copytree(data, folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0] |= changes
    path.write_text(json.dumps(content))
    return folder


def assert_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], message: str, *arguments: str | Path
) -> None:
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("rankdet: error: ")
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "rs_faster_rcn_shapes"), "did you mean 'rs_faster_rcnn_shapes'"),
        (("train", "rs_faster_rcnn_shapes", "optimizer.lrr=1"), "optimizer.lrr: unknown field; did you mean 'lr'?"),
        (("train", "rs_faster_rcnn_shapes"), "data.folder is not set"),
        (("train", "rs_faster_rcnn_shapes", "--data", "nowhere"), "nowhere: there is no such folder"),
        (("train", "rs_faster_rcnn_shapes", "--resume", "nowhere"), "--resume takes the run's own recipe"),
        (("train", "--resume", "nowhere"), "nowhere is no run folder"),
        (("train",), "name a recipe (`rankdet list` shows them)"),
        (("evaluate", "nowhere.pt", "--data", "nowhere"), "cannot read checkpoint nowhere.pt"),
        (("evaluate", "--detections", "nowhere.json"), "--ground-truth"),
        (("evaluate", "--detections", "no.json", "--ground-truth", "nowhere.json"), "nowhere.json"),
        (("detect", "nowhere.pt", "nowhere.jpg"), "cannot read checkpoint nowhere.pt"),
        (("show", "nothing.yaml"), "nothing.yaml: No such file"),
        (("evaluate", "a.pt", "--data", "data", "--iou-type", "segm"), "of a checkpoint all that it finds is measured"),
        (("make-shapes", "/dev/null/shapes"), "cannot make the shapes in /dev/null/shapes: File exists"),
        (("demo", "--out", "/dev/null/demo"), "cannot make folder /dev/null/demo: Not a directory"),
    ],
)
def test_mistake_is_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert_refused(monkeypatch, capsys, message, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [{"image_id": 99}, {"category_id": 99}, {"bbox": [1, 2, float("nan"), 3]}, {"bbox": [1, 2, 0, 3]}, {"bbox": "x"}],
)
def test_broken_annotation_is_named_with_its_file_and_left_out(
    changes: dict, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = broken(data, tmp_path, **changes)
    arguments = ("train", "rs_faster_rcnn_shapes", "--data", folder, "--out", tmp_path / "run", *SMALL)
    assert call(monkeypatch, *arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(r"warning: \S+instances_train\.json: annotation \d+: .* left out", text)


def test_broken_json_and_truncated_image_are_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = broken(data, tmp_path)
    for image in (folder / "images" / "train").iterdir():
        image.write_bytes(image.read_bytes()[:50])
    arguments = ("train", "rs_faster_rcnn_shapes", "--data", folder, "--out", tmp_path / "run", *SMALL)
    assert_refused(monkeypatch, capsys, "cannot be decoded", *arguments, "data.workers=1")
    path = folder / "annotations" / "instances_train.json"
    path.write_text(path.read_text()[:-20])
    assert_refused(monkeypatch, capsys, "instances_train.json", *arguments)


def test_module_runs_as_a_program_and_reports_without_a_trace():
    command = [sys.executable, "-m", "rankdet", "show", "nothing"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("rankdet: error: unknown recipe 'nothing'")
    assert result.stderr.count("\n") == 1


def program(*arguments: str, stdout: int, **environment: str) -> tuple[int, str]:
    """Exit status and error output of a program of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "rankdet", *arguments],
        stdout=stdout, stderr=subprocess.PIPE, text=True, env=os.environ | environment, check=False,
    )  # fmt: skip
    return result.returncode, result.stderr


def test_output_without_a_reader_or_a_place_leaves_no_trace():
    reader, writer = os.pipe()
    os.close(reader)
    assert program("list", stdout=writer) == (141, "")
    os.close(writer)
    with Path("/dev/full").open("w") as full:
        status, error = program("list", stdout=full.fileno())
    assert (status, error) == (2, "rankdet: error: [Errno 28] No space left on device\n")
    status, error = program("show", "ä.yaml", stdout=subprocess.DEVNULL, PYTHONIOENCODING="ascii")
    assert status == 2
    assert "\\xe4.yaml: No such file" in error


def test_environment_that_describes_no_world_is_a_mistake_of_one_line(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RANK", "x")
    assert_refused(monkeypatch, capsys, "RANK=x in the environment is no number", "train", "--resume", trained)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert_refused(monkeypatch, capsys, "cannot join the 2 processes", "train", "--resume", trained)


def test_demo_leaves_tables_curves_images_and_a_page(tmp_path: Path):
    torch.set_num_threads(1)
    console = Console(file=io.StringIO(), width=200)
    paths = run_demo(tmp_path / "demo", console, iterations=3, num_train=16, num_val=4)
    assert [path.name for path in paths] == [
        "index.html", "table.md", "table.json", "equal_budgets.png", "curves.png", "images.png"
    ]  # fmt: skip
    assert all(path.stat().st_size > 0 for path in paths)
    rows = json.loads(paths[2].read_text())
    assert [row["run"] for row in rows] == ["standard", "RS", "standard, equal time"]
    assert rows[0]["iterations"] == rows[1]["iterations"] == 3
    for row in rows:
        assert 0 < row["loss_share"] < 1
        assert row["positives"] > 0
        assert {"AP", "AP50", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN"} <= set(row["metrics"])
    with pytest.raises(InputError, match="already holds a demo"):
        run_demo(tmp_path / "demo", console)


def test_broken_image_stops_all_processes_of_torchrun_with_its_name(data: Path, tmp_path: Path):
    folder = broken(data, tmp_path)
    image = min((folder / "images" / "train").iterdir())
    image.write_bytes(image.read_bytes()[:50])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rankdet"]
    arguments = ["train", "rs_faster_rcnn_shapes", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *arguments, "schedule.iterations=4"],
        capture_output=True, text=True, timeout=90, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.count(f"{image}: the image cannot be decoded") == 1
    assert result.stderr.count("rankdet: error: ") == 1
    assert "rankdet/cli/" not in result.stderr  # no trace of ours; torchrun shows its own
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [(["optimizer.lrr=1"], "optimizer.lrr: unknown field"), (["data.folder=absent"], "there is no such folder")],
)
def test_a_mistake_is_told_once_by_the_processes_of_torchrun(data: Path, tmp_path: Path, changes: list[str], message):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rankdet"]
    result = subprocess.run(
        [*command, "train", "rs_faster_rcnn_shapes", "--out", str(tmp_path / "run"), *SMALL, *changes],
        capture_output=True, text=True, timeout=90, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("rankdet: error: ")]
    assert message in line
    assert "process 1" not in line


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The store and the environment that torchrun gives its processes."""
    store = TCPStore("localhost", 0, is_master=True)
    values = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("launcher")
def test_a_process_is_silent_about_what_the_main_process_has_told_however_slow_its_end_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(cli, "SECONDS_TO_TELL", 0.0)
    for rank, told in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert call(monkeypatch, "train", "absent_recipe") == 2
        assert capsys.readouterr().err.count("rankdet: error: ") == told
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert call(monkeypatch, "train", "absent_recipe") == 2
    assert "rankdet: error: process 1: " in capsys.readouterr().err, "told before the restart"


@pytest.mark.usefixtures("launcher")
def test_a_process_that_is_ended_before_the_main_process_has_told_tells_its_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("time.sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert call(monkeypatch, "train", "absent_recipe") == 2
    assert "rankdet: error: process 1: " in capsys.readouterr().err


def test_a_mistake_of_one_process_alone_is_told_by_it(tmp_path: Path):
    environment = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
    result = subprocess.run(
        [sys.executable, "-m", "rankdet", "train", "absent_recipe"],
        capture_output=True, text=True, timeout=60, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith("rankdet: error: process 1: ")
    assert result.stderr.count("\n") == 1
