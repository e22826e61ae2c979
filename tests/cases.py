"""Runs every input of a folder of small data sets, each with one property that real tools write.

    python tests/cases.py FOLDER [--only 27a 44 …] [--keep RUNS]

The folder has a sub-folder per input. What is expected of each is a row of `CASES`: command lines with an exit status,
words that they print or never print, and relations between numbers. Each training is preceded by ``rankdet doctor``
with the same recipe, whose exit status must be that of the training. Exit status 1 where any row is not OK.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGES = [
    "schedule.iterations=3",
    "schedule.warmup_iterations=1",
    "data.batch_size=2",
    "data.workers=0",
    "evaluation.batch_size=4",
    "runtime.device=cpu",
    "runtime.threads=1",
]
"""What makes a training of seconds of a recipe, on one thread."""
RECIPES = {"BOX": "rs_faster_rcnn_shapes", "MASK": "rs_mask_rcnn_shapes"}
COLUMNS = "case", "kind", "expected", "what happened", ""


@dataclass(frozen=True)
class Run:
    """A command line, what it must end with, and what it prints.

    command
        ``BOX`` or ``MASK`` and changes: doctor and a training with the recipe of that name. Anything else is a command
        of ``rankdet``; ``{case}`` is the folder of the case, ``{runs}`` a folder for results.
    status
        The exit status; for a training also that of doctor.
    says, never
        Patterns that the output of the training, or of the command, has or has not. Line breaks in it count as spaces.
    doctor
        Patterns that the output of doctor has.
    """

    command: str
    status: int = 0
    says: Sequence[str] = ()
    never: Sequence[str] = ()
    doctor: Sequence[str] = ()


Check = Callable[[Path, Path], str | None]
"""Takes the folder of the case and the one for results, and returns what is wrong."""


@dataclass(frozen=True)
class Case:
    """An input: its folder, the kind of fault that it shows, what a user expects in words, and how that is seen."""

    name: str
    kind: str
    expected: str
    steps: Sequence[Run | Check]
    folder: str = field(default="")

    def in_(self, folder: Path) -> Path:
        """The folder of the case in that of all cases."""
        return folder / (self.folder or self.name)


def command(*arguments: object) -> tuple[int, str]:
    """The exit status and the output of a command of rankdet, run in this process."""
    from rankdet import cli

    output, before = io.StringIO(), sys.argv
    sys.argv = ["rankdet", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                cli.main()
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else int(end.code is not None)
            except Exception:
                status = 1
                output.write(traceback.format_exc())
    finally:
        sys.argv = before
    return status, output.getvalue()


def training(recipe: str, case: Path, out: Path, changes: Sequence[str] = ()) -> tuple[int, str]:
    """The exit status and the output of a training of three iterations."""
    shutil.rmtree(out, ignore_errors=True)
    return command("train", RECIPES[recipe], "--data", case, "--out", out, *CHANGES, *changes)


def doctor(recipe: str, case: Path, changes: Sequence[str] = ()) -> tuple[int, str]:
    """The exit status and the output of doctor with the recipe of a training."""
    return command("doctor", case, "--recipe", RECIPES[recipe], *CHANGES, *changes)


def outcome(step: Run | Check, case: Path, runs: Path) -> tuple[str | None, str]:
    """What is wrong with a step, or None, and its decisive line."""
    if not isinstance(step, Run):
        problem = step(case, runs)
        return problem, problem or f"{step.__name__.replace('_', ' ')}: holds"
    first, *changes = step.command.split()
    if first in RECIPES:
        examined, examination = doctor(first, case, changes)
        status, output = training(first, case, runs / first, changes)
        problem = missing(examination, step.doctor, "doctor does not say")
        if problem is None and examined != status:
            problem = f"doctor ends with {examined}, the training with {status}: {last_line(examination)}"
    else:
        arguments = [part.format(case=case, runs=runs) for part in step.command.split()]
        status, output = command(*arguments)
        problem = None
    said = f"{first} {status}: {decisive(output, step.says)}"
    if status != step.status:
        return f"{first} ends with {status}, not {step.status}: {last_line(output)}", said
    found = [pattern for pattern in step.never if re.search(pattern, flat(output))]
    problem = problem or missing(output, step.says, f"{first} does not say")
    return problem or (f"{first} says {found}" if found else None), said


def flat(output: str) -> str:
    """The output as one line: where lines are broken is not what a case is about."""
    return " ".join(output.split())


def missing(output: str, patterns: Sequence[str], words: str) -> str | None:
    lost = [pattern for pattern in patterns if not re.search(pattern, flat(output))]
    return f"{words} {lost}" if lost else None


def decisive(output: str, patterns: Sequence[str]) -> str:
    """The line that the first pattern is in, or the last that says something."""
    lines = [line for line in output.splitlines() if any(re.search(pattern, line) for pattern in patterns)]
    return lines[0].strip() if lines else last_line(output)


def last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if re.search(r"\w", line)]
    return lines[-1] if lines else ""


def run_case(case: Case, folder: Path, runs: Path) -> tuple[bool, str]:
    """Whether an input behaves as its row says, and the decisive lines or what is wrong."""
    place = runs / case.name
    place.mkdir(parents=True, exist_ok=True)
    lines = []
    for step in case.steps:
        problem, line = outcome(step, case.in_(folder), place)
        if problem is not None:
            return False, problem
        lines.append(line)
    return True, "; ".join(lines)


# What relates several commands of a case.


def doctor_prints_fewer_than_thirty_lines(case: Path, runs: Path) -> str | None:
    _, output = command("doctor", case)
    lines = len(output.splitlines())
    return None if lines < 30 else f"doctor prints {lines} lines"


def detections_of(run: Path, case: Path, batch_size: int) -> dict[str, Any]:
    """The evaluation of a run on the split val, at a batch size, with its detections."""
    import rankdet
    from rankdet.inference.evaluation import evaluate_model

    model = rankdet.load(run)
    assert model.origin is not None
    dataset = model.origin.recipe.data.at(case).build_test_dataset("val")
    evaluation = evaluate_model(model, dataset, batch_size=batch_size, workers=0)
    assert evaluation is not None
    return {"AP": evaluation.metrics["AP"], "detections": evaluation.detections}


def differs(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]], tolerance: float = 1e-3) -> str | None:
    """How two lists of detections differ in number, scores or boxes."""
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} detections"
    key = lambda row: (row["image_id"], -row["score"], row["bbox"])  # noqa: E731
    for first, second in zip(sorted(one, key=key), sorted(other, key=key), strict=True):
        if abs(first["score"] - second["score"]) > tolerance:
            return f"scores {first['score']:.4f} and {second['score']:.4f} in image {first['image_id']}"
    return None


def learned(case: Path, runs: Path) -> Path:
    """A run of enough iterations that scores tell images apart."""
    run = runs / "learned"
    if not run.exists():
        changes = ["schedule.iterations=40", "schedule.warmup_iterations=10"]
        training("BOX", case, run, changes)
    return run


def batch_sizes_give_the_same_detections(case: Path, runs: Path) -> str | None:
    run = learned(case, runs)
    first, *others = [detections_of(run, case, size) for size in (1, 2, 4, 8)]
    for other in others:
        problem = differs(first["detections"], other["detections"])
        if problem or abs(first["AP"] - other["AP"]) > 1e-3:
            return f"AP {first['AP']:.3f} and {other['AP']:.3f}: {problem}"
    return None


def detect_finds_what_evaluate_measures(case: Path, runs: Path) -> str | None:
    """The detections of ``detect``, evaluated as a file, have the AP that ``evaluate`` finds for the checkpoint."""
    run, found = learned(case, runs), runs / "found"
    truth = case / "annotations" / "instances_val.json"
    status, output = command("evaluate", run, "--data", case, "--out", runs / "evaluated", "--no-thresholds")
    if status:
        return f"evaluate ends with {status}: {last_line(output)}"
    status, output = command("detect", run, case / "images" / "val", "--out", found, "--threshold", "0")
    if status:
        return f"detect ends with {status}: {last_line(output)}"
    status, output = command(
        "evaluate", "--detections", found / "detections.json", "--ground-truth", truth, "--out", runs / "again"
    )
    if status:
        return f"evaluate --detections ends with {status}: {last_line(output)}"
    first, second = (json.loads((runs / name / "evaluation.json").read_text())["AP"] for name in ("evaluated", "again"))
    return None if abs(first - second) < 1e-3 else f"AP {first:.3f} of evaluate, {second:.3f} of the file of detect"


def a_finished_run_goes_on(case: Path, runs: Path) -> str | None:
    """A finished run is asked for six iterations in its recipe.yaml, and goes on to them."""
    run = runs / "resumed"
    status, output = training("BOX", case, run)
    if status:
        return f"the first training ends with {status}: {last_line(output)}"
    recipe = run / "recipe.yaml"
    recipe.write_text(re.sub(r"(?m)^(\s+iterations): 3$", r"\1: 6", recipe.read_text()))
    status, output = command("train", "--resume", run)
    if status:
        return f"--resume ends with {status}: {last_line(output)}"
    return None if "3" in output and any((run / "checkpoints").glob("*6.pt")) else "the run has no iteration 6"


def a_run_goes_on_where_its_data_have_moved(case: Path, runs: Path) -> str | None:
    run, old, new = runs / "moved", runs / "old", runs / "new"
    for place in (old, new):
        shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(case, old)
    status, output = training("BOX", old, run)
    if status:
        return f"the first training ends with {status}: {last_line(output)}"
    old.rename(new)
    recipe = run / "recipe.yaml"
    text = recipe.read_text().replace(str(old), str(new))
    recipe.write_text(re.sub(r"(?m)^(\s+iterations): 3$", r"\1: 6", text))
    status, output = command("train", "--resume", run)
    return f"--resume ends with {status}: {last_line(output)}" if status else None


def two_processes_train_and_evaluate(case: Path, runs: Path) -> str | None:
    """torchrun ends by itself and well; a process that waits for the other would wait for ever."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rankdet"]
    arguments = ["train", RECIPES["MASK"], "--data", case, "--out", runs / "two", *CHANGES]
    ended = subprocess.run([*launch, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode:
        return f"torchrun ends with {ended.returncode}: {last_line(ended.stderr)}"
    return missing(ended.stdout, [r"\bAP\b"], "the main process does not say")


FRACTION = Run("BOX data.validation_fraction=0.34", says=["held out", r"\bAP\b"])
NO_VAL = Run("BOX", says=["nothing is evaluated: there is no split val", "validation_fraction"], never=[r"\bAP50\b"])
TRAINS = Run("BOX", says=[r"\bAP\b"])
WITH_MASKS = Run("MASK", says=[r"\bmasks\b", r"\bAP\b"])

CASES = (
    Case("00", "plain", "trains; doctor finds nothing", [
        Run("doctor {case}", says=["0 errors, 0 warnings"]),
        Run("BOX", says=[r"12 of 12 objects|12 objects"], never=["left out", "warning"]),
        WITH_MASKS,
    ]),
    Case("01", "K5", "the name of a split in any case", [TRAINS]),
    Case("02", "K5 K9", "instances_default.json trains; a part held out, or no evaluation, said", [NO_VAL, FRACTION]),
    Case("03a", "K9", "labels.json beside data/", [NO_VAL, FRACTION]),
    Case("04", "K5", "no val: trains without evaluation, said", [NO_VAL, FRACTION]),
    Case("05", "K9", "one JSON: a reproducible split", [NO_VAL, FRACTION]),
    Case("06b", "K2", "crowds counted at the start", [
        Run("BOX", says=[r"\b6 (?:\w+ ){0,4}crowd|crowd\D*\b6\b"], doctor=["crowd"]),
        Run("MASK", says=[r"\b6 (?:\w+ ){0,4}crowd|crowd\D*\b6\b"]),
    ]),
    Case("07a", "K8 K11", "backslashes in names are read, counted", [Run("BOX", says=[r"\bAP\b"], doctor=[r"\b6\b"])]),
    Case("07b", "K8 K12", "upload paths are read, counted", [
        Run("BOX", says=[r"\bAP\b"], doctor=[r"\b6\b"]),
        doctor_prints_fewer_than_thirty_lines,
    ]),
    Case("08a", "K6", "iscrowd: null is 0", [TRAINS, WITH_MASKS]),
    Case("09", "K7 K12", "objects without a category are left out, counted in one line", [
        Run("BOX", says=[r"category_id", r"\b6\b"], doctor=[r"category_id"]),
        doctor_prints_fewer_than_thirty_lines,
    ]),
    Case("10a", "K8", "boxes from polygons, counted", [Run("BOX", says=[r"\bAP\b"], doctor=[r"bbox|box"]), WITH_MASKS]),
    Case("11a", "K7", "a line as polygon is left out where masks are learned", [
        TRAINS,
        Run("MASK", says=[r"left out|without"], doctor=["polygon|points"]),
    ]),
    Case("12a", "K7", "objects without mask are left out, counted", [
        TRAINS,
        Run("MASK", says=[r"segmentation|mask", r"left out"], doctor=["segmentation|mask"]),
    ]),
    Case("12b", "K3", "a val object without mask does not end the run; told at the start", [
        Run("MASK", says=[r"segmentation|mask", r"\bAP\b"], doctor=["segmentation|mask"]),
    ]),
    Case("12b two", "K4", "the same in two processes, none of which waits for ever",
         [two_processes_train_and_evaluate], "12b"),
    Case("13", "K8", "a flat polygon is one polygon", [TRAINS, WITH_MASKS]),
    Case("14", "K6 K7", "an empty RLE is left out, counted", [
        TRAINS,
        Run("MASK", says=["left out", r"\bAP\b"], doctor=["RLE|mask|segmentation"]),
    ]),
    Case("16", "K7", "annotation ids that repeat are renumbered, said", [
        Run("BOX", says=[r"\bAP\b"], doctor=[r"id\b.*(?:twice|repeat|again|renumber)|(?:repeat|occur)\w*.*id"]),
    ]),
    Case("18", "K10", "classes matched by name, said", [Run("BOX", says=[r"by name", r"\bAP\b"], doctor=["by name"])]),
    Case("20", "K2", "relative boxes: one finding, no silent training on nothing", [
        Run("BOX", status=2, says=["relative"], doctor=["relative"]),
        doctor_prints_fewer_than_thirty_lines,
    ]),
    Case("21", "contradiction", "doctor sees boxes that area and polygons contradict", [
        Run("BOX", doctor=[r"x2|corner", r"\b6\b"]),
    ]),
    Case("22", "K2", "empty images that are left out are counted, with the field", [
        Run("BOX data.keep_empty=false", says=[r"\b3\b", r"data\.keep_empty"], doctor=[r"data\.keep_empty"]),
        Run("BOX data.keep_empty=true", never=[r"data\.keep_empty=true keeps"]),
    ]),
    Case("23", "K2", "sides below 32: an error where nothing is left", [
        Run("BOX data.keep_empty=false", status=2, says=[r"\b32\b"], doctor=[r"\b32\b"]),
        Run("BOX data.keep_empty=true", says=[r"\bAP\b"]),
    ]),
    Case("24", "K2", "ignore: 1 is no object, counted", [Run("BOX", says=["ignore", r"\b6\b"], doctor=["ignore"])]),
    Case("27a", "K1", "one orientation: evaluate and detect agree, doctor counts", [
        Run("BOX", doctor=[r"orientation|EXIF"]),
        detect_finds_what_evaluate_measures,
    ]),
    Case("28", "K1", "raw size beside turned boxes: doctor names it", [Run("BOX", doctor=[r"orientation|EXIF"])]),
    Case("29", "K2", "12 bits in 16: not black, or said", [Run("BOX", doctor=[r"16.bit|12.bit|bits"])]),
    Case("32", "K3", "an unreadable val image is told and counted, the run measured", [
        Run("BOX", says=[r"decoded|unreadable|cannot be read", r"\bAP\b"]),
        Run("doctor {case} --images", says=[r"decoded|unreadable|cannot be read"]),
    ]),
    Case("54a", "K3", "a missing val image is told and counted, the run measured", [
        Run("BOX", says=["missing", r"\bAP\b"], doctor=["missing"]),
    ]),
    Case("33", "K14", "a broken image in a folder: the rest is done, the exit status tells", [
        lambda case, runs: None if learned(case.parent / "00", runs).exists() else "no model",
        Run("detect {runs}/learned {case}/pictures --out {runs}/found", status=1, says=["000.jpg"]),
        lambda case, runs: None if len(list((runs / "found").glob("00[1-5]*"))) == 5 else "not all others are drawn",
    ]),
    Case("33b", "K14", "a file of `detect` fits the truth by name", [detect_finds_what_evaluate_measures], "00"),
    Case("43", "K15", "a cap on detections is told, and there is an option", [
        Run("evaluate --detections {case}/detections.json --ground-truth {case}/annotations/instances_val.json",
            says=["150", "100", "--max-detections"]),
        Run("evaluate --detections {case}/detections.json --ground-truth {case}/annotations/instances_val.json "
            "--max-detections 150", says=[r"\b1\.0|\b100\.0"]),
    ]),
    Case("44", "K16", "the same at every batch size", [batch_sizes_give_the_same_detections]),
    Case("49b", "K9 K14", "a test file without annotations: detections are written", [
        TRAINS,
        Run("evaluate {runs}/BOX --data {case} --split test --out {runs}/test", says=["annotations|objects"]),
        lambda case, runs: None if json.loads((runs / "test" / "detections.json").read_text()) else "no detections",
    ]),
    Case("56a", "K8", "whole numbers as floats are integers", [TRAINS, WITH_MASKS]),
    Case("K13", "K13", "a finished run goes on to more iterations, and where its data have moved", [
        a_finished_run_goes_on,
        a_run_goes_on_where_its_data_have_moved,
    ], "00"),
    Case("d02", "K2", "datumaro: masks as crowds are counted", [
        Run("MASK", says=[r"\b2 (?:\w+ ){0,4}crowd|crowd\D*\b2\b"], doctor=["crowd"]),
    ]),
    Case("d03b", "K8", "Label Studio: an empty task without size", [TRAINS]),
    Case("d04", "K8 K10", "labelme2coco: absolute names, other ids in val", [
        Run("BOX", says=["by name", r"\bAP\b"], doctor=["by name"]),
    ]),
    Case("d40", "K7", "datumaro: tiny masks without polygon are left out", [Run("MASK", says=["left out", r"\bAP\b"])]),
    Case("d50", "K17", "plain COCO by hotcoco's writer is plain COCO", [
        Run("BOX", says=[r"\bAP\b"], never=["LVIS", "APr"]),
        WITH_MASKS,
    ]),
    Case("d60", "K8", "no width and height: from the image", [TRAINS]),
    Case("d62", "K3", "fiftyone: a crowd without mask", [Run("MASK", says=[r"\bAP\b"], doctor=["crowd"])]),
    Case("d71", "K9 K7", "datumaro: instances_default.json", [NO_VAL, Run("MASK", says=["left out"])]),
    Case("d80", "K18", "names with brackets are printed as they are", [
        Run("evaluate --detections {case}/dt.json --ground-truth {case}/gt.json",
            says=[r"light \[red\]", r"light \[green\]", r"screw \[/M4\]", r"bolt \[10\]"]),
    ]),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print their table."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of the cases")
    parser.add_argument("--only", nargs="+", metavar="CASE", help="names of cases; all by default")
    parser.add_argument("--keep", type=Path, metavar="RUNS", help="keep the runs in this folder")
    given = parser.parse_args(arguments)
    names = {case.name for case in CASES}
    unknown = sorted(set(given.only or ()) - names)
    if unknown:
        parser.error(f"there is no case {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    chosen = [case for case in CASES if given.only is None or case.name in given.only]
    table, bad, start = Table(*COLUMNS), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        for case in track(chosen, "Cases", console=Console(stderr=True)):
            is_ok, line = run_case(case, given.folder.resolve(), given.keep or Path(temporary))
            bad += not is_ok
            row = (case.name, case.kind, case.expected, line, "OK" if is_ok else "NOT OK")
            table.add_row(*(cell.replace("[", r"\[") for cell in row))
    Console(width=200).print(table)
    print(f"{len(chosen) - bad} of {len(chosen)} OK, {time.perf_counter() - start:.0f} s")
    without = sorted(entry.name for entry in given.folder.iterdir() if entry.is_dir())
    without = [name for name in without if not any((case.folder or case.name) == name for case in CASES)]
    if without and given.only is None:
        print(f"folders without a row: {', '.join(without)}")
    return 1 if bad or (without and given.only is None) else 0


if __name__ == "__main__":
    sys.exit(main())
