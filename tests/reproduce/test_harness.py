"""The harness: what it trains, what it does not repeat, what it goes on with, and what the table then says."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rankdet import cli
from rankdet.data import make_long_tailed_shapes, make_shapes
from rankdet.data.layouts import find_layout
from rankdet.recipes import RECIPES, Recipe, load_recipe
from rankdet.reproduce import Plan, all_tables, make_plan
from rankdet.reproduce.experiments import (
    BCCD,
    COCO,
    LONG_TAILED_SHAPES,
    NUCLEI,
    SHAPES,
    Command,
    Experiment,
    make_trial,
)
from rankdet.reproduce.harness import Ending, Harness
from rankdet.reproduce.nuclei import cut_nuclei, names_of_test
from rankdet.reproduce.study import Study
from rankdet.reproduce.summary import markdown, summarize
from rankdet.reproduce.tables import Family, Row, method, sampled, table_rows
from rankdet.runs.folder import Run, read_log
from rankdet.runs.locking import take_lock
from rankdet.structures import InputError


def small(recipe: Recipe) -> Recipe:
    """A recipe of Faster R-CNN on shapes that trains in a moment."""
    detector = recipe.detector
    backbone = detector.backbone.model_copy(update={"channels": (8, 16, 16)})
    rcnn = detector.rcnn.model_copy(update={"channels": 16})
    testing = detector.testing.model_copy(update={"per_image": 5})
    parts = {"backbone": backbone, "rcnn": rcnn, "testing": testing, "pyramid_channels": 16}
    return recipe.model_copy(
        update={
            "detector": detector.model_copy(update=parts),
            "data": recipe.data.model_copy(update={"batch_size": 2}),
            "optimizer": recipe.optimizer.model_copy(update={"reference_batch": 2}),
            "runtime": recipe.runtime.model_copy(update={"log_interval": 1, "checkpoint_interval": 1}),
        }
    )


def wider_step(recipe: Recipe) -> Recipe:
    return recipe.model_copy(
        update={"losses": {head: loss.model_copy(update={"delta": 1.0}) for head, loss in recipe.losses.items()}}
    )


STANDARD = Family.of({"shapes": "faster_rcnn_shapes"}).changed(small)
RANKING = Family.of({"shapes": "rs_faster_rcnn_shapes"}).changed(small)
MASKS = Family.of({"shapes": "rs_mask_rcnn_shapes"}).changed(small)
LONG_TAILED = Family.of({"long_tailed_shapes": "rs_mask_rcnn_long_tail_shapes"}).changed(small)
ROWS: dict[str, list[Row]] = {
    "1": [STANDARD.row("fpn"), RANKING.row("rs")],
    "A.14": [RANKING.row("0.50"), RANKING.changed(wider_step).row("1.00")],
    "3": [],
    "4": [MASKS.row("rs")],
    "5": [LONG_TAILED.row("rs")],
    "10": [RANKING.row("none-none"), LONG_TAILED.row("lvis-none-none", is_of_masks=True)],
    "A.12": [RANKING.row("rs-standard")],
    "A.17": [RANKING.row("none-none"), sampled(RANKING, STANDARD, ("rpn", "rcnn")).row("random-random")],
    "A.20": [MASKS.row("box-mask_rcnn-r_50"), MASKS.row("mask-mask_rcnn-r_50", is_of_masks=True)],
}
"""Tables of small recipes. The default cell of A.14 is a row of Table 1."""


@dataclass
class Ended:
    """A process that has ended."""

    status: int

    def poll(self) -> int:
        return self.status

    def terminate(self) -> None:
        raise AssertionError("it has ended")


class InThisProcess:
    """Runs commands at once and here, and remembers them; from the command ``stop_at`` on none is run."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.commands: list[Command] = []
        self.stop_at = stop_at

    def __call__(self, command: Command, output: Path, environment: Mapping[str, str], lock: int) -> Ended:
        if len(self.commands) == self.stop_at:
            raise KeyboardInterrupt
        self.commands.append(command)
        before, torch_threads = sys.argv, torch.get_num_threads()
        sys.argv = ["rankdet", *command.arguments]
        status = 0
        try:
            with output.open("a") as file, redirect_stdout(file), redirect_stderr(file):
                cli.main()
        except SystemExit as ending:
            status = int(ending.code or 0)
        finally:
            sys.argv = before
            torch.set_num_threads(torch_threads)
        return Ended(status)

    @property
    def trained(self) -> list[str]:
        return [Path(command.arguments[-1]).name for command in self.commands if command.arguments[0] == "train"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=6, val=4, test=4, size=64)


def plan_of(table: str, out: Path, data: Path, **options: object) -> Plan:
    """A plan for the small tables on the small set."""
    chosen = {"seeds": "0", "learning_rates": "0.003", "iterations": 2, "device": "cpu", "threads": 1} | options
    plan = make_plan(table, out=out, rows_of=ROWS.__getitem__, **chosen)
    settings = replace(plan.settings, data=data)
    studies = tuple(
        Study(row.name, row.experiments[SHAPES], settings, row.is_of_masks, plan.table == "A.12")
        for row in ROWS[plan.table]
    )
    return Plan(plan.table, settings, studies, plan.selected)


def run(plan: Plan, launch: InThisProcess) -> Ending:
    console = Console(file=io.StringIO(), width=200)
    return Harness(plan.table, plan.studies, plan.selected, plan.settings, console, launch).run()


def table(ending: Ending) -> dict:
    return json.loads(ending.files[1].read_text())


def row(ending: Ending, name: str) -> dict:
    return next(row for row in table(ending)["rows"] if row["name"] == name)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ending, InThisProcess]:
    """Table 1 with two learning rates, two seeds and equal time."""
    out, launch = tmp_path_factory.mktemp("whole"), InThisProcess()
    plan = plan_of("1", out, data, seeds="0,1", learning_rates="0.003,0.001", equal_time="fpn")
    return out, run(plan, launch), launch


def test_learning_rate_is_chosen_on_the_validation_split_and_the_test_split_is_reported(whole):
    out, ending, launch = whole
    assert not ending.failures
    for name in ("fpn", "rs"):
        found = row(ending, name)
        assert found["status"] == "complete"
        assert set(found["validation"]) == {"0.003", "0.001"}
        best = max(found["validation"], key=lambda lr: found["validation"][lr])
        assert f"{found['learning_rate']:g}" == best
        equal, *longer = found["measured"]
        assert len(equal["seeds"]) == 2
        assert equal["iterations"] == 2
        assert [entry["budget"] for entry in longer] == ([] if name == "fpn" else ["seconds of fpn"])
        for seed in equal["seeds"]:
            truth = json.loads((out / "runs" / seed["run"] / "test" / "evaluation.json").read_text())
            assert seed["figures"]["AP"] == pytest.approx(100 * truth["AP"])
            assert truth["ranking"]["head"] == "rcnn"
    assert len(launch.trained) == len(set(launch.trained))


def test_equal_time_gives_the_row_its_iterations_once_and_for_all(whole, data: Path):
    out, ending, _ = whole
    [budget] = (out / "budgets").iterdir()
    factor = json.loads(budget.read_text())["factor"]
    assert row(ending, "rs")["measured"][1]["iterations"] == max(1, round(2 * factor))
    budget.write_text(json.dumps({"factor": 2.0}))  # whatever is measured later: what is written counts
    launch = InThisProcess()
    plan = plan_of("1", out, data, seeds="0,1", learning_rates="0.003,0.001", equal_time="fpn")
    again = run(plan, launch)
    assert row(again, "rs")["measured"][1]["iterations"] == 4
    trainings = [command for command in launch.commands if command.arguments[0] == "train"]
    assert [("schedule.iterations=4" in command.arguments) for command in trainings] == [True, True]


def test_json_holds_every_figure_of_the_markdown(whole):
    _, ending, _ = whole
    written, summary = ending.files[0].read_text(), table(ending)
    lines = [line.split("|")[1:-1] for line in written.splitlines() if "| here, " in line]
    assert len(lines) >= 3
    entries = [(found, entry) for found in summary["rows"] for entry in found["measured"]]
    first = 1 + len(summary["settings"]) + 1
    for cells, (found, entry) in zip(lines, entries, strict=True):
        assert cells[0].strip() == found["name"]
        for name, cell in zip(summary["figures"], cells[first:], strict=False):
            if cell.strip() == "–":
                assert name not in entry["mean"]
            else:
                mean, _, spread = cell.strip().rstrip("*").partition(" ± ")
                assert float(mean) == pytest.approx(entry["mean"][name], abs=0.051)
                assert float(spread or 0) == pytest.approx(entry["spread"][name] or 0, abs=0.051)
    for found in all_tables()["1"].rows:
        assert f"| {found.name} " in written


def test_complete_runs_are_not_repeated(data: Path, tmp_path: Path):
    first = InThisProcess()
    run(plan_of("1", tmp_path, data), first)
    assert [command.arguments[0] for command in first.commands] == ["train", "evaluate"] * 2
    second = InThisProcess()
    ending = run(plan_of("1", tmp_path, data), second)
    assert second.commands == []
    assert row(ending, "rs")["status"] == "complete"


def test_tables_share_runs(data: Path, tmp_path: Path):
    run(plan_of("1", tmp_path, data), InThisProcess())
    launch = InThisProcess()
    ending = run(plan_of("A.14", tmp_path, data), launch)
    assert len(launch.trained) == 1
    assert "delta-1.0" in launch.trained[0]
    assert row(ending, "0.50")["status"] == row(ending, "1.00")["status"] == "complete"


def test_killed_harness_goes_on_and_has_written_what_there_was(data: Path, tmp_path: Path):
    stopped = InThisProcess(stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(plan_of("1", tmp_path, data), stopped)
    assert [command.arguments[0] for command in stopped.commands] == ["train", "evaluate"]
    half = json.loads((tmp_path / "table_1-shapes.json").read_text())
    assert {found["name"]: found["status"] for found in half["rows"] if not found["reference"]} == {
        "fpn": "complete", "alrp": "not run: no recipe on shapes", "giou": "not run: no recipe on shapes",
        "carafe_fpn": "not run: no recipe on shapes", "rs": "not run",
        "rs_plus": "not run: no recipe on shapes",
    }  # fmt: skip
    assert "(not run)" in (tmp_path / "table_1-shapes.md").read_text()
    launch = InThisProcess()
    ending = run(plan_of("1", tmp_path, data), launch)
    assert [command.arguments[0] for command in launch.commands] == ["train", "evaluate"]
    assert row(ending, "rs")["status"] == "complete"


def test_run_that_was_killed_half_way_is_resumed(data: Path, tmp_path: Path):
    plan = plan_of("1", tmp_path, data, rows="rs")
    trial = plan.studies[1].trials()[0]
    run(plan, InThisProcess())
    trained = Run(trial.run.folder)
    first, last = trained.checkpoints()
    weights = torch.load(last, weights_only=True)["detector"]
    last.unlink()
    trained.evaluation.unlink()
    trial.measured("test").unlink()
    assert first.exists()
    launch = InThisProcess()
    ending = run(plan_of("1", tmp_path, data, rows="rs"), launch)
    assert launch.commands[0].arguments == ("train", "--resume", str(trial.run.folder))
    assert row(ending, "rs")["status"] == "complete"
    again = torch.load(last, weights_only=True)["detector"]
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_selected_rows_alone_are_trained_and_others_keep_their_results(data: Path, tmp_path: Path):
    first = run(plan_of("1", tmp_path, data, rows="fpn"), InThisProcess())
    assert row(first, "rs")["status"] == "not run"
    second = run(plan_of("1", tmp_path, data, rows="rs"), InThisProcess())
    assert row(second, "fpn")["status"] == row(second, "rs")["status"] == "complete"


def test_training_that_diverges_is_a_result_and_is_not_tried_again(data: Path, tmp_path: Path):
    launch = InThisProcess()
    ending = run(plan_of("1", tmp_path, data, rows="rs", learning_rates="0.003,1e30"), launch)
    found = row(ending, "rs")
    assert not ending.failures
    assert found["validation"]["1e+30"] is None
    assert found["learning_rate"] == 0.003
    assert "diverged" in ending.files[0].read_text()
    again = InThisProcess()
    run(plan_of("1", tmp_path, data, rows="rs", learning_rates="0.003,1e30"), again)
    assert again.commands == []
    alone = run(plan_of("1", tmp_path, data, rows="rs", learning_rates="1e30,2e30"), InThisProcess())
    assert row(alone, "rs")["status"] == "diverged at every learning rate"


def test_run_that_fails_leaves_the_others_alone(data: Path, tmp_path: Path):
    plan = plan_of("1", tmp_path, data)
    folder = plan.studies[0].trials()[0].run.folder
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "log.jsonl").mkdir()  # no file can be written here
    ending = run(plan, InThisProcess())
    assert list(ending.failures) == [folder.name]
    assert "exit status 2" in ending.failures[folder.name]
    assert row(ending, "rs")["status"] == "complete"


def test_folder_of_another_recipe_or_other_data_is_refused(data: Path, tmp_path: Path):
    plan = plan_of("1", tmp_path, data, rows="rs")
    run(plan, InThisProcess())
    recipe = plan.studies[1].trials()[0].run.recipe
    recipe.write_text(recipe.read_text().replace("delta: 0.5", "delta: 0.7"))
    (recipe.parent / "test" / "evaluation.json").unlink()
    with pytest.raises(InputError, match=r"was trained with losses\.rpn\.delta=0\.7, not 0\.5"):
        run(plan, InThisProcess())


def test_shared_machine_is_marked(data: Path, tmp_path: Path):
    ending = run(plan_of("1", tmp_path, data, rows="rs", jobs=2), InThisProcess())
    assert row(ending, "rs")["measured"][0]["jobs"] == 2
    assert "up to 2 trainings shared the machine" in ending.files[0].read_text()


def test_dry_run_prints_commands_that_parse(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for scale in (False, True):
        for name in all_tables():
            plan = make_plan(name, full=scale, out=tmp_path / "out", seeds="0,3", equal_time=None)
            lines = list(plan.describe())
            assert not (tmp_path / "out").exists()
            if scale and any(COCO in found.experiments for found in table_rows(name)):
                assert any(line.startswith("# missing: COCO_FOLDER: there is no such folder") for line in lines)
            for line in lines:
                words = shlex.split(line, comments=True)
                if words[1:2] == ["train"]:
                    fields = words[3 : words.index("--data")]
                    recipe = load_recipe(words[2], fields)
                    assert recipe.seed in (0, 3)
                    assert "--out" in words
                else:
                    assert words[1:2] in ([], ["evaluate"], ["make-shapes"])


def test_dry_run_knows_what_is_done(data: Path, tmp_path: Path):
    run(plan_of("1", tmp_path, data, rows="rs"), InThisProcess())
    lines = list(plan_of("1", tmp_path, data, rows="rs").describe())
    assert any(line.startswith("# trained: ") for line in lines)
    assert not any(line.startswith(("rankdet train", "rankdet evaluate")) for line in lines)


def test_every_row_is_one_of_the_paper_and_its_overrides_give_its_recipe():
    for name in all_tables():
        for found in table_rows(name):
            assert not all_tables()[name].row(found.name).reference
            for scale, experiment in found.experiments.items():
                base = experiment.base()
                assert RECIPES[base.name]() == base
                assert scale in (SHAPES, LONG_TAILED_SHAPES, BCCD, NUCLEI, COCO)
                expected = experiment.change(base)
                assert load_recipe(base.name, experiment.overrides()) == expected


def test_images_per_step_are_those_of_the_learning_rate_with_any_number_of_processes(tmp_path: Path):
    for processes, steps in ((1, 4), (2, 2), (4, 1), (8, 1)):
        trial = make_trial(
            Experiment(RECIPES["rs_faster_rcnn_r50_coco"]), [], lr=None, seed=0, data=tmp_path, out=tmp_path,
            processes=processes,
        )  # fmt: skip
        assert trial.recipe.runtime.accumulation == steps
        assert str(trial.training()).startswith("rankdet" if processes == 1 else "torchrun --standalone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("11x",), "there is no table '11x'; there are 1, 2, "),
        (("1", "--rows", "rs,nothing"), "table 1 has no row nothing; its rows are fpn, alrp, giou"),
        (("1", "--rows", "libra_rcnn"), "no recipe on shapes for row libra_rcnn; there is one for fpn"),
        (("1", "--equal-time", "nothing"), "table 1 has no row nothing"),
        (("1", "--seeds", "0,x"), "--seeds 0,x: write numbers with commas"),
        (("1", "--seeds", "0,0"), "each number must be there once"),
        (("1", "--lrs", "0"), "> 0"),
        (("1", "--lrs", "nan"), "> 0"),
        (("1", "--scale", "full", "--lrs", "0.1"), "--lrs is for the small scale"),
        (("1", "--scale", "full"), "COCO_FOLDER: there is no such folder"),
        (("1", "--scale", "full", "--data", "nowhere"), "nowhere: there is no such folder"),
        (("1", "--data", "nowhere"), "nowhere: there is no such folder"),
    ],
)
def test_mistake_is_one_line_before_anything_is_made(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rankdet", "reproduce", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_table_without_recipes_has_the_published_figures(data: Path, tmp_path: Path):
    ending = run(plan_of("3", tmp_path, data), InThisProcess())
    text = ending.files[0].read_text()
    assert "50.2" in text
    assert all(not found["measured"] for found in table(ending)["rows"])


def test_lock_is_held_by_the_process_that_was_started(tmp_path: Path):
    lock = take_lock(tmp_path / ".lock")
    assert lock is not None
    assert take_lock(tmp_path / ".lock") is None
    process = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    os.close(lock)
    assert take_lock(tmp_path / ".lock") is None  # as when the harness is killed and its training lives on
    process.kill()
    process.wait()
    again = take_lock(tmp_path / ".lock")
    assert again is not None
    os.close(again)


def test_signal_stops_trainings_with_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path):
    make_shapes(tmp_path / "out" / "shapes", test=200)
    command = [
        sys.executable, "-m", "rankdet", "reproduce", "1", "--rows", "rs", "--seeds", "0", "--lrs", "0.003",
        "--iterations", "500", "--out", str(tmp_path / "out"), "--device", "cpu", "--threads", "1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "out" / "runs"
    deadline = time.monotonic() + 180
    while not list(runs.glob("*/output.txt")) or "20/500" not in next(runs.glob("*/output.txt")).read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "the same command goes on" in out
    [folder] = runs.iterdir()
    assert len(Run(folder).checkpoints()) >= 1
    assert "going on" not in out
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "going on at iteration" not in (folder / "output.txt").read_text():
        assert time.monotonic() < deadline + 180
        assert process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, error
    assert f"{folder.name}: going on" in out


def test_figures_of_masks_are_told_from_those_of_boxes(data: Path, tmp_path: Path):
    """Table 4 names them; in A.20 a row is of either, and both rows are one run."""
    launch = InThisProcess()
    ending = run(plan_of("4", tmp_path, data), launch)
    assert not ending.failures
    found = row(ending, "rs")["measured"][0]["seeds"][0]
    truth = json.loads((tmp_path / "runs" / found["run"] / "test" / "evaluation.json").read_text())
    assert found["figures"]["mask_AP"] == pytest.approx(100 * truth["masks"]["AP"])
    assert found["figures"]["AP"] == pytest.approx(100 * truth["AP"])
    num_trained = len(launch.trained)
    both = run(plan_of("A.20", tmp_path, data), launch)
    assert len(launch.trained) == num_trained
    boxes, masks = (row(both, f"{task}-mask_rcnn-r_50")["measured"][0]["mean"] for task in ("box", "mask"))
    for name in ("AP", "AP50", "oLRP"):
        assert boxes[name] == pytest.approx(100 * truth[name])
        assert masks[name] == pytest.approx(100 * truth["masks"][name])
    assert masks["seconds_per_iteration"] == boxes["seconds_per_iteration"]


def test_figures_of_frequencies_are_carried_and_a_row_may_have_data_of_its_own(data: Path, tmp_path: Path):
    """Table 5 is of the long-tailed set alone; in Table 10 one row is, and shares its run."""
    (tmp_path / "shapes").symlink_to(data)
    make_long_tailed_shapes(tmp_path / "long_tailed_shapes", train=8, val=4, test=4, size=64)
    common = {"out": tmp_path, "rows_of": ROWS.__getitem__, "seeds": "0", "learning_rates": "0.003", "iterations": 2}
    five, ten = (make_plan(name, device="cpu", threads=1, **common) for name in ("5", "10"))
    assert five.settings.scale is LONG_TAILED_SHAPES
    assert ten.settings.scale is SHAPES
    launch = InThisProcess()
    ending = run(five, launch)
    assert not ending.failures
    assert ending.files[0].name == "table_5-long_tailed_shapes.md"
    assert {"APr", "APc", "APf"} <= set(table(ending)["figures"])
    found = row(ending, "rs")["measured"][0]["seeds"][0]
    truth = json.loads((tmp_path / "runs" / found["run"] / "test" / "evaluation.json").read_text())
    for name in ("AP", "APr", "APc", "APf"):
        expected = truth["masks"][name]
        figure = found["figures"].get(f"mask_{name}")
        assert figure == (None if expected is None else pytest.approx(100 * expected))
    both = run(ten, launch)
    assert not both.failures
    assert "APr" not in table(both)["figures"]
    assert len(launch.trained) == 2
    own = row(both, "lvis-none-none")["measured"][0]
    assert own["budget"] == "on long_tailed_shapes, equal iterations"
    assert own["mean"]["AP"] == pytest.approx(100 * truth["masks"]["AP"])
    assert row(both, "none-none")["measured"][0]["budget"] == "equal iterations"
    assert "here, on long_tailed_shapes, equal iterations" in both.files[0].read_text()


def test_what_a_row_needs_is_made_or_named(tmp_path: Path):
    lines = list(make_plan("10", out=tmp_path / "out").describe())
    made = [line for line in lines if "make-shapes" in line]
    assert [line.split("out/")[1] for line in made] == [
        "long_tailed_shapes --test 200 --long-tailed", "shapes --test 200"
    ]  # fmt: skip
    full = make_plan("5", full=True, data=tmp_path)
    assert any("no annotations of a known layout" in line
               for line in full.missing())  # fmt: skip


def test_folder_given_is_that_of_nuclei_where_no_row_is_for_blood_cells(tmp_path: Path):
    masks, boxes = make_plan("4", data=tmp_path), make_plan("1", data=tmp_path)
    assert (masks.settings.scale, boxes.settings.scale) == (NUCLEI, BCCD)
    assert masks.settings.data == Path("runs/reproduce/nuclei")  # with the test split that the folder lacks
    assert boxes.settings.data == tmp_path


def test_nuclei_get_a_test_split_of_a_fixed_list(shared: Callable[..., Path], tmp_path: Path):
    given = shared("data", "nuclei_dsb2018")
    names = names_of_test()
    assert len(names) == 133
    for _ in range(2):
        cut_nuclei(given, tmp_path / "cut")
    splits = {name: source.read(masks=False)[0] for name, source in find_layout(tmp_path / "cut").sources.items()}
    files = {name: {name.decode() for name in truth.file_names} for name, truth in splits.items()}
    assert files["test"] == names
    assert (len(files["train"]), len(files["val"])) == (531 - 133, 133)
    assert not files["train"] & (files["test"] | files["val"])
    with pytest.raises(InputError, match="lacks 133 images of the test split"):
        cut_nuclei(shared("data", "bccd"), tmp_path / "other")


def test_nuclei_are_cut_again_from_a_folder_that_has_moved_and_names_files_with_their_folder(tmp_path: Path):
    names = sorted(names_of_test())
    for place in ("old", "new"):
        (tmp_path / place / "annotations").mkdir(parents=True)
        (tmp_path / place / "images").mkdir()
        for split, files in {"train": [*names, "other.jpg"], "val": ["val.jpg"]}.items():
            images = [
                {"id": number, "file_name": f"stage1/{name}", "width": 9, "height": 9}
                for number, name in enumerate(files)
            ]
            annotations = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}]
            document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus"}]}
            (tmp_path / place / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
            for name in files:
                (tmp_path / place / "images" / name).touch()
        cut_nuclei(tmp_path / place, tmp_path / "cut")
        assert (tmp_path / "cut" / "images").resolve() == tmp_path / place / "images"
    train, test = (find_layout(tmp_path / "cut").source(split).read(masks=False)[0] for split in ("train", "test"))
    assert (list(train.file_names), len(test.file_names)) == ([b"other.jpg"], 133)


def test_own_tables_show_no_figures_of_a_paper(data: Path, tmp_path: Path):
    plan = make_plan("balance", data=data, out=tmp_path, rows="value")
    text = markdown(summarize("balance", plan.studies, None, plan.settings))
    assert "paper" not in text.lower()
    assert re.search(r"\| value +\| L_RS / L \(published\)", text)
    assert "not run" in text


def test_trainings_that_share_processors_are_compared_by_seconds_of_the_processor(data: Path, tmp_path: Path):
    settings = plan_of("1", tmp_path, data, rows="rs")
    ending = run(settings, InThisProcess())
    entry = row(ending, "rs")["measured"][0]["seeds"][0]
    folder = tmp_path / "runs" / entry["run"]
    timing = [record for record in read_log(folder / "log.jsonl") if record["kind"] == "train"][-1]["timing"]
    assert entry["seconds"] == timing["seconds"]
    (folder / "jobs.json").write_text('{"jobs": 2}')
    shared = row(run(settings, InThisProcess()), "rs")["measured"][0]["seeds"][0]
    assert shared["seconds"] == timing["processor_seconds"] > 0


def test_imbalance_of_instances_and_of_tasks_is_that_of_the_log(data: Path, tmp_path: Path):
    ending = run(plan_of("A.17", tmp_path, data), InThisProcess())
    assert not ending.failures
    for name in ("none-none", "random-random"):
        [seed] = row(ending, name)["measured"][0]["seeds"]
        log = (tmp_path / "runs" / seed["run"] / "log.jsonl").read_text().splitlines()
        records = [record["statistics"] for record in map(json.loads, log) if record["kind"] == "train"]
        for head, classes in (("rpn", 1), ("rcnn", 5)):
            positives, background, negatives = (
                sum(record[f"{head}/{kind}"] for record in records) for kind in ("positives", "background", "negatives")
            )
            assert seed["figures"][f"instance_negatives_per_positive_{head}"] == pytest.approx(background / positives)
            tasks = (classes - 1) + classes * background / positives
            assert seed["figures"][f"negatives_per_positive_{head}"] == pytest.approx(negatives / positives)
            assert negatives / positives == pytest.approx(tasks)
    sampled_rpn, whole_rpn = (
        row(ending, name)["measured"][0]["mean"]["instance_negatives_per_positive_rpn"]
        for name in ("random-random", "none-none")
    )
    assert sampled_rpn < whole_rpn


def test_samplers_are_switched_for_each_stage_of_any_detector():
    masks = sampled(method("rs_mask_rcnn"), method("mask_rcnn"), ("rcnn",)).experiments[SHAPES]
    detector = load_recipe(masks.base().name, masks.overrides()).detector
    assert detector.rpn.sampler is None
    assert detector.rcnn.sampler == RECIPES["mask_rcnn_shapes"]().detector.rcnn.sampler
    cascade = sampled(method("rs_cascade_rcnn"), method("cascade_rcnn"), ("rpn", "rcnn2")).experiments[COCO]
    detector = load_recipe(cascade.base().name, cascade.overrides()).detector
    samplers = [getattr(detector, head).sampler for head in detector.heads]
    nums = [sampler and sampler.num for sampler in samplers]
    assert nums == [256, None, 512, None]
    with pytest.raises(ValueError, match=r"no heads \['rcnn'\]; it has \['rcnn1', 'rcnn2', 'rcnn3', 'rpn'\]"):
        sampled(method("rs_cascade_rcnn"), method("cascade_rcnn"), ("rcnn",)).experiments[COCO].overrides()


def test_approximation_differs_from_the_exact_loss_in_nothing_else():
    rows = {found.name: found.experiments for found in table_rows("bucketed")}
    for detector in ("faster_rcnn", "atss", "paa"):
        exact, bucketed = rows[f"{detector}-exact"], rows[f"{detector}-bucketed"]
        assert exact.keys() == bucketed.keys()
        for scale, experiment in exact.items():
            first, second = (each.change(each.base()) for each in (experiment, bucketed[scale]))
            assert first.changed(losses=second.losses) == second
            for head, loss in second.losses.items():
                assert loss.type == "bucketed_rank_sort"
                assert all(getattr(loss, field) == getattr(first.losses[head], field) for field in loss.own)


def test_first_epoch_is_a_run_of_its_own_that_starts_like_the_whole_one(data: Path, tmp_path: Path):
    launch = InThisProcess()
    ending = run(plan_of("A.12", tmp_path, data, iterations=5), launch)  # an epoch has 3
    found = row(ending, "rs-standard")
    assert (found["status"], found["measured"][0]["iterations"]) == ("complete", 5)
    [whole] = found["measured"][0]["seeds"]
    [first] = set(launch.trained) - {whole["run"]}
    logs = [
        [json.loads(line) for line in (tmp_path / "runs" / name / "log.jsonl").read_text().splitlines()]
        for name in (whole["run"], first)
    ]
    losses = [[record["loss"] for record in log if record["kind"] == "train"] for log in logs]
    assert len(losses[1]) == 3
    assert losses[0][:3] == losses[1]
    measured = json.loads((tmp_path / "runs" / first / "test" / "evaluation.json").read_text())
    assert whole["figures"]["AP_epoch_1"] == pytest.approx(100 * measured["AP"])
    again = InThisProcess()
    run(plan_of("A.12", tmp_path, data, iterations=5), again)
    assert again.commands == []
