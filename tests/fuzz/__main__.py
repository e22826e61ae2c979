"""``python -m tests.fuzz --count 10000``: odd input for every reader, loss and metric, and a table of verdicts.

The exit status is 1 where a case is unexplained: neither accepted, nor refused by a clear message. Such a case ends its
target, and the smallest one of its kind is printed. ``--results FILE`` keeps a line for each hundred cases, and goes on
behind those that are there; ``--seconds`` ends the command in time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from .fuzzing import Tally, Verdict, tried
from .targets import TARGETS

PART = 100
"""Cases that are tried at a time."""


class Part(NamedTuple):
    """Some cases of a target, by the seed that they follow from."""

    target: str
    seed: int
    size: int


Found = dict[Part, Tally]


def parts_of(targets: Iterable[str], count: int, seed: int) -> Iterator[Part]:
    """Cases of all targets, as many of each as of the others, a part of each in turn."""
    names = list(targets)
    shares = [count // len(names) + (place < count % len(names)) for place in range(len(names))]
    for start in range(0, max(shares), PART):
        for name, share in zip(names, shares, strict=True):
            if start < share:
                yield Part(name, zlib.crc32(f"{name} {seed} {start}".encode()), min(PART, share - start))


def table(found: Found) -> str:
    """How many cases of each target ended in each way."""
    rows: dict[str, list[int]] = {name: [0, 0, 0] for name in TARGETS}
    for part, tally in found.items():
        for place, number in enumerate([*tally.counts.values(), int(tally.unexplained is not None)]):
            rows[part.target][place] += number
    rows["all"] = [sum(row[place] for row in rows.values()) for place in range(3)]
    lines = [f"| target | cases | {' | '.join(verdict.value for verdict in Verdict)} | unexplained |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {name} | {sum(row):,} | {' | '.join(map('{:,}'.format, row))} |" for name, row in rows.items() if sum(row)
    ]
    return "\n".join(lines)


def read(path: Path | None) -> Found:
    """What an earlier command has found."""
    found = {}
    for line in path.read_text().splitlines() if path is not None and path.exists() else ():
        row = json.loads(line)
        counts = {verdict: row[verdict.value] for verdict in Verdict}
        found[Part(row["target"], row["seed"], row["size"])] = Tally(counts, row["unexplained"])
    return found


def line_of(part: Part, tally: Tally) -> str:
    """What `read` reads."""
    counts = {verdict.value: number for verdict, number in tally.counts.items()}
    return json.dumps({**part._asdict(), **counts, "unexplained": tally.unexplained}) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Try the cases that are left to try, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases, shared by the targets")
    parser.add_argument("--seed", type=int, default=0, help="of what is left to chance")
    parser.add_argument("--only", choices=TARGETS, action="append", help="this target, and others that are named so")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no further cases are begun")
    parser.add_argument("--results", type=Path, help="a file with a line for each hundred cases, which is gone on with")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before, found, end = read(options.results), {}, time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        prepared = {}
        for part in parts_of(options.only or TARGETS, options.count, options.seed):
            if any(one.target == part.target and tally.unexplained for one, tally in found.items()):
                continue
            if part in before:
                found[part] = before[part]
                continue
            if time.monotonic() > end:
                break
            if part.target not in prepared:
                place = Path(folder) / part.target
                place.mkdir()
                prepared[part.target] = TARGETS[part.target](place)
            found[part] = tried(prepared[part.target], part.size, part.seed)
            if found[part].unexplained:
                print(f"{part.target}: {found[part].unexplained}\n", file=sys.stderr, flush=True)
            if options.results:
                with options.results.open("a") as file:
                    file.write(line_of(part, found[part]))
    print(table(found))
    return int(any(tally.unexplained for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main())
