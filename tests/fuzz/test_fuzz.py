"""Some cases of each target; ``python -m tests.fuzz --count 10000`` tries as many as one likes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import strategies as st

from . import __main__ as command
from . import fuzzing
from .fuzzing import Fuzz, Verdict, refused, tried
from .targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_every_case_is_accepted_or_refused_by_a_clear_message(target: str, tmp_path: Path) -> None:
    tally = tried(TARGETS[target](tmp_path), 60, 0)
    assert tally.unexplained is None, tally.unexplained
    assert tally.cases > 30
    assert tally.counts[Verdict.ACCEPTED] > 0


def check(number: int) -> Verdict:
    """Odd numbers are refused, and two reasons are none."""
    if number == 7:
        raise IndexError(number)
    if number > 50:
        raise AssertionError("is large")
    return refused(ValueError(f"{number} is odd"), number) if number % 2 else Verdict.ACCEPTED


def test_the_smallest_unexplained_case_is_told() -> None:
    tally = tried(Fuzz(st.integers(51, 1000), check), 50, 0)
    assert tally.unexplained is not None
    assert tally.unexplained.startswith("51\nTraceback")
    assert "is large" in tally.unexplained
    assert tally.cases == 1


def test_each_verdict_is_counted_once() -> None:
    tally = tried(Fuzz(st.integers(8, 50), check), 500, 0)
    assert tally.counts == {Verdict.ACCEPTED: 22, Verdict.REFUSED: 21}


@pytest.mark.parametrize("message", ["", " ", "x" * 5000, "a\n" * 100, "without the name"])
def test_a_message_that_is_not_clear_is_no_verdict(message: str) -> None:
    with pytest.raises(AssertionError):
        refused(ValueError(message), "a.json")


def test_warnings_are_unexplained() -> None:
    def warn(_: object) -> Verdict:
        warnings.warn("odd", UserWarning, stacklevel=1)
        return Verdict.ACCEPTED

    assert "UserWarning: odd" in str(tried(Fuzz(st.none(), warn), 5, 0).unexplained)


def test_what_hangs_is_unexplained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzzing, "LONGEST_SECONDS", 0.05)

    def hang(_: object) -> Verdict:
        while True:
            pass

    assert "TimeoutError: takes more than 0.05 seconds" in str(tried(Fuzz(st.none(), hang), 1, 0).unexplained)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two targets, of which one has unexplained cases, in parts of ten."""
    monkeypatch.setattr(command, "PART", 10)
    sound, odd = Fuzz(st.integers(8, 50), check), Fuzz(st.integers(51, 1000), check)
    monkeypatch.setattr(command, "TARGETS", {"sound": lambda _: sound, "odd": lambda _: odd})


@pytest.mark.usefixtures("small")
def test_the_command_prints_a_table_and_the_smallest_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--count", "41"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("odd: 51\nTraceback")
    assert output.out.splitlines()[0] == "| target | cases | accepted | refused by message | unexplained |"
    assert output.out.splitlines()[-1].startswith("| all | 22 |")
    assert command.main(["--count", "20", "--only", "sound"]) == 0


@pytest.mark.usefixtures("small")
def test_the_command_goes_on_behind_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    arguments = ["--only", "sound", "--results", str(results)]
    assert command.main([*arguments, "--count", "20"]) == 0
    first = results.read_text()
    assert command.main([*arguments, "--count", "40", "--seconds", "0"]) == 0
    assert results.read_text() == first
    assert command.main([*arguments, "--count", "40"]) == 0
    assert results.read_text().startswith(first)
    assert len(results.read_text().splitlines()) == 4
    assert capsys.readouterr().out.splitlines()[-1].startswith("| all | 40 |")
    assert json.loads(first.splitlines()[0])["target"] == "sound"
