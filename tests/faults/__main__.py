"""``python -m tests.faults --count 300``: trainings that faults befall, and a table of how they end.

The exit status is 1 where one fails. ``--results FILE`` keeps a line for each trial, and goes on behind those that are
there.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from rankdet.data import make_shapes

from .faults import FAULTS
from .running import load_compiled
from .trials import EXACT, FAILED, TOLD, Bench, Mistake, drawn

Found = dict[str, str]


def table(found: list[Found]) -> str:
    """How often each kind of fault ended in each way."""
    counts = Counter((each["fault"], each["verdict"]) for each in found)
    rows = [[fault.name, *(counts[fault.name, verdict] for verdict in (EXACT, TOLD, FAILED))] for fault in FAULTS]
    rows.append(["all", *(sum(row[column] for row in rows) for column in (1, 2, 3))])
    lines = ["| kind | count | exact | with message | failed |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {sum(numbers)} | {' | '.join(map(str, numbers))} |" for name, *numbers in rows if sum(numbers)
    ]
    return "\n".join(lines)


def main() -> int:
    """Make the trials that are left to make, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="trials")
    parser.add_argument("--seed", type=int, default=0, help="of what is left to chance")
    parser.add_argument("--recipe", help="that of the trainings, instead of all")
    parser.add_argument("--results", type=Path, help="a file with a line for each trial, which is gone on with")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load_compiled()
    lines = options.results.read_text().splitlines() if options.results and options.results.exists() else []
    found: list[Found] = [json.loads(line) for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        data = make_shapes(Path(folder) / "shapes", train=8, val=3, size=48)
        Path(folder).chmod(0o755)
        bench = Bench(Path(folder), data)
        for number, trial in enumerate(drawn(options.count, options.seed, options.recipe)):
            if number < len(found):
                continue
            said = ""
            try:
                verdict = bench.verdict(trial)
            except Mistake as mistake:
                verdict, said = FAILED, str(mistake)
                print(f"{trial}\n{said}\n", file=sys.stderr, flush=True)
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            line = {"fault": trial.fault.name, "scenario": trial.scenario.name, "verdict": verdict, "said": said}
            line["processor seconds so far"] = f"{used.ru_utime + used.ru_stime:.1f}"
            found.append(line)
            if options.results:
                with options.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print(table(found[: options.count]))
    return int(any(each["verdict"] == FAILED for each in found[: options.count]))


if __name__ == "__main__":
    sys.exit(main())
