"""A trial: a training that a fault befalls, which is resumed, and must end as one that nothing disturbed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from rankdet.runs.folder import Run

from ..training.comparing import clean, equal, records
from .faults import FAULTS, Fault, Place
from .running import Ended, Moment, Process, free_port
from .scenarios import SCENARIOS, Scenario

EXACT, TOLD, FAILED = "exact", "with message", "failed"
"""Verdicts: ended with the same bits; the same after a message that says what is wrong; anything else."""


@dataclass(frozen=True)
class Trial:
    """A fault, the training that it befalls, when, and a seed for what else is left to chance."""

    fault: Fault
    scenario: Scenario
    when: float
    seed: int


def drawn(count: int, seed: int, recipe: str | None = None) -> Iterator[Trial]:
    """So many trials: each kind of fault as often as the others, each with trainings and moments by chance.

    ``recipe`` is that of the trainings; None: all.
    """
    draw, scenarios = Random(seed), [one for one in SCENARIOS if recipe in (None, one.recipe)]
    for number in range(count):
        fault = FAULTS[number % len(FAULTS)]
        fitting = [one for one in scenarios if one.processes > fault.rank and (one.workers or not fault.needs_workers)]
        yield Trial(fault, draw.choice(fitting), draw.random(), draw.randrange(2**32))


class Mistake(Exception):
    """What a trial should not have seen."""


class Whole(NamedTuple):
    """A run that nothing disturbed: its folder, what it leaves, and how many calls each of its phases has."""

    folder: Path
    left: dict[str, Any]
    calls: dict[str, int]


class Bench:
    """A folder to work in, the data, and each training as it ends undisturbed."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self._whole: dict[Scenario, Whole] = {}

    @cached_property
    def _images(self) -> Path:
        """A copy of the data, to repair them by."""
        return Path(shutil.copytree(self.data, self.folder / "copy"))

    def whole(self, scenario: Scenario) -> Whole:
        """A run that nothing disturbs."""
        if scenario not in self._whole:
            out, calls = self.folder / f"whole{len(self._whole)}", self.folder / "calls.json"
            for ended in self._train(scenario, self._new(scenario, out), calls=calls):
                if ended.status != 0:
                    raise Mistake(f"an undisturbed run of {scenario.name} ends with {ended.status}: {ended.text}")
            self._whole[scenario] = Whole(out, left(out), json.loads(calls.read_text()))
        return self._whole[scenario]

    def verdict(self, trial: Trial) -> str:
        """How a trial ends; raises Mistake where it should not end so."""
        if trial.fault.of_evaluation:
            return self._verdict_of_evaluation(trial)
        _, expected, calls = self.whole(trial.scenario)
        out, copy = self.folder / "run", self._images
        shutil.rmtree(out, ignore_errors=True)
        place, draw = Place(out, self.data), Random(trial.seed)
        moment = trial.fault.phase, 1 + int(trial.when * calls[trial.fault.phase])
        try:
            ended = self._struck(trial, place, draw, moment)
        finally:
            shutil.copytree(copy, self.data, dirs_exist_ok=True)
            for folder in filter(Path.exists, (out, out / "checkpoints")):
                folder.chmod(0o755)
        messages = sum(one.errors for one in ended)
        if trial.fault.afterwards is not None:
            trial.fault.afterwards(place, draw)
        if trial.fault.is_foreign:
            messages += self._refused(trial, out)
        for one in self._train(trial.scenario, self._again(trial.scenario, out)):
            if "holds no other to go on from" in one.text and one.status == 2 and trial.fault.afterwards is not None:
                return TOLD  # nothing is left of the run that could be used
            if one.status != 0 or "Traceback" in one.text:
                raise Mistake(f"resuming ends with {one.status}: {one.text}")
            messages += one.text.count("is set aside")
        if not equal(left(out), expected):
            raise Mistake(f"the run ends otherwise than one that nothing disturbed: {difference(left(out), expected)}")
        return TOLD if messages else EXACT

    def _refused(self, trial: Trial, out: Path) -> int:
        """See the newest checkpoint refused, and delete it as the message asks for; returns whether there is one."""
        for path in Run(out).checkpoints()[-1:]:
            ended = self._train(trial.scenario, self._again(trial.scenario, out))
            said = "".join(one.text for one in ended)
            if {one.status for one in ended} != {2} or f"checkpoint {path} does not fit" not in said or "Trace" in said:
                raise Mistake(f"the checkpoint of another run is not refused: {ended}")
            path.unlink()
            return 1
        return 0

    def _verdict_of_evaluation(self, trial: Trial) -> str:
        """How a run ends whose evaluation is struck, and repeated: as where nothing strikes it."""
        whole, out, calls = self.whole(trial.scenario), self.folder / "run", self.folder / "calls.json"
        arguments = ["evaluate", str(out), "--data", str(self.data), "--device", "cpu"]
        place, draw = Place(out, self.data), Random(trial.seed)
        results = []
        for is_struck in (False, True):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(whole.folder, out)
            if is_struck:
                number = 1 + int(trial.when * json.loads(calls.read_text())[trial.fault.phase])
                strike = partial(trial.fault.strike, place, draw)
                ended = Process(arguments, strike, (trial.fault.phase, number)).wait()
                if ended is None or ended.status not in trial.fault.statuses | {0}:
                    raise Mistake(f"an evaluation that is struck ends with {ended}")
            ended = Process(arguments, calls=None if is_struck else calls).wait()
            if ended is None or ended.status != 0 or "Traceback" in ended.text:
                raise Mistake(f"an evaluation ends with {ended}")
            results.append(left(out))
        if not equal(*results):
            raise Mistake(f"the run ends otherwise than one that was evaluated at once: {difference(*results)}")
        return EXACT

    def _struck(self, trial: Trial, place: Place, draw: Random, moment: Moment) -> list[Ended]:
        fault, scenario = trial.fault, trial.scenario
        strike = partial(fault.strike, place, draw)
        processes = self._started(scenario, self._new(scenario, place.run), strike, moment, fault.rank)
        struck = processes[fault.rank]
        try:
            if fault.beside is not None and struck.wait(until_stopped=True) is None:
                again = self._new if fault.beside == "new" else self._again
                second = Process(again(scenario, place.run)).wait()
                struck.go_on()
                if second is None or second.status != 2 or second.errors != 1:
                    raise Mistake(f"a second command is not refused: {second}")
            ended = [one for process in processes if (one := process.wait()) is not None]
        finally:
            for process in processes:
                process.kill()
        for rank, one in enumerate(ended):
            allowed = fault.statuses | {0} if rank == fault.rank else {0, 2, *fault.statuses}
            if one.status not in allowed or "Traceback" in one.text or one.errors > 1:
                raise Mistake(f"process {rank} ends with {one.status}: {one.text}")
            if one.status == 2 and one.errors != 1 and len(ended) == 1:
                raise Mistake(f"an error without a message: {one.text}")
        return ended

    def _train(self, scenario: Scenario, arguments: list[str], calls: Path | None = None) -> list[Ended]:
        processes = self._started(scenario, arguments, calls=calls)
        return [ended for process in processes if (ended := process.wait()) is not None]

    def _started(
        self,
        scenario: Scenario,
        arguments: list[str],
        strike: Callable[[], None] | None = None,
        moment: Moment | None = None,
        rank: int = 0,
        calls: Path | None = None,
    ) -> list[Process]:
        port = free_port()
        return [
            Process(
                arguments,
                strike if number == rank else None,
                moment,
                calls if number == 0 else None,
                number,
                scenario.processes,
                port,
            )
            for number in range(scenario.processes)
        ]

    def _new(self, scenario: Scenario, out: Path) -> list[str]:
        return ["train", *scenario.arguments, "--data", str(self.data), "--out", str(out)]

    def _again(self, scenario: Scenario, out: Path) -> list[str]:
        """As a user goes on: by ``--resume``, or by the same command where the run was not begun."""
        return ["train", "--resume", str(out)] if Run(out).recipe.exists() else self._new(scenario, out)


def left(folder: Path) -> dict[str, Any]:
    """What a run leaves, apart from times."""
    run = Run(folder)
    states = {path.name: clean(path) for path in sorted((folder / "checkpoints").glob("*.pt"))}
    texts = {path.name: path.read_text() for path in (run.recipe, run.data, run.evaluation, run.detections)}
    names = sorted(path.name for path in folder.iterdir())
    parts = sorted(path.name for path in folder.rglob("*.part"))
    return {"states": states, "log": records(folder), "texts": texts, "names": names, "parts": parts}


def difference(first: Any, second: Any, where: str = "run") -> str:
    """The first place where two things that runs leave differ."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return next(
            difference(first[key], second[key], f"{where}/{key}") for key in first if not equal(first[key], second[key])
        )
    named = [sorted(each) if isinstance(each, dict) else each for each in (first, second)]
    return f"{where}: {str(named[0])[:300]} and {str(named[1])[:300]}"
