"""Cases by hypothesis, the verdict on each, and how many there were of each kind."""

from __future__ import annotations

import pprint
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

LONGEST, MOST_LINES = 1000, 30
"""Characters of a line, and lines, of a message that is still clear."""


LONGEST_SECONDS = 60.0
"""Of one case; the first ones of losses compile."""


class Verdict(str, Enum):
    """How a case ends that ends as it should; anything else is unexplained."""

    ACCEPTED = "accepted"
    REFUSED = "refused by message"


class Fuzz(NamedTuple):
    """One target, ready to go.

    cases
        What is tried. A case is a value whose text form tells all of it.
    check
        The verdict on a case. Whatever it raises is unexplained.
    """

    cases: st.SearchStrategy[Any]
    check: Callable[[Any], Verdict]


Prepare = Callable[[Path], Fuzz]
"""Makes a target from an empty folder of its own."""


@dataclass
class Tally:
    """The verdicts on some cases, and the smallest case without one, in words."""

    counts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    unexplained: str | None = None

    @property
    def cases(self) -> int:
        """All cases, of which at most the last one is unexplained."""
        return sum(self.counts.values()) + (self.unexplained is not None)


def refused(error: Exception, *names: object) -> Verdict:
    """The verdict on a message: refused, where it has a few clear lines and each of the names."""
    lines = str(error).splitlines()
    assert any(map(str.strip, lines)), "an error without a message"
    assert len(lines) <= MOST_LINES, f"a message of {len(lines)} lines: {lines[:3]}"
    assert max(map(len, lines)) <= LONGEST, f"a line of {max(map(len, lines))} characters"
    for name in names:
        assert str(name) in str(error), f"{str(name)!r} is not named by {str(error)!r}"
    return Verdict.REFUSED


def tried(fuzz: Fuzz, count: int, start: int) -> Tally:
    """Try ``count`` cases, or all there are, that follow from the seed ``start``; the first one unexplained is made
    small and ends them.
    """
    tally = Tally()

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(fuzz.cases)
    def every_case(case: Any) -> None:
        try:
            with warnings.catch_warnings(), in_time():
                warnings.simplefilter("error")
                verdict = fuzz.check(case)
        except Exception as error:
            tally.unexplained = described(case, error)  # the last one is the smallest
            raise
        if tally.unexplained is None:
            tally.counts[verdict] += 1

    try:
        every_case()
    except Exception:
        if tally.unexplained is None:
            raise  # a mistake in a strategy
    return tally


@contextmanager
def in_time() -> Iterator[None]:
    """Raise TimeoutError after `LONGEST_SECONDS` of processor time: whatever takes so long hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"takes more than {LONGEST_SECONDS} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def described(case: Any, error: BaseException) -> str:
    """A case and what came of it."""
    trace = "".join(traceback.format_exception(error))
    return f"{pprint.pformat(case, width=120, sort_dicts=False)}\n{trace}"
