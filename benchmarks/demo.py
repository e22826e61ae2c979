"""The time of `rankdet demo` of several builds, side by side, and what it trains to.

    python benchmarks/demo.py SRC [SRC ...] [--threads 1] [--iterations N]

Each SRC is the folder ``src`` of a checkout. Their demos run one after another, in processes of their own. Printed are
for each the seconds of the processor, all of it, and the ratio to the first, which other processes disturb less than
seconds on the wall, and AP and AP50 of its runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from rankdet.report import markdown_table


def run_demo(
    source: Path, out: Path, threads: int, iterations: int | None
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Seconds of the processor of a demo, and AP and AP50 by run."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": str(threads)}
    length = [] if iterations is None else ["--iterations", str(iterations)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "rankdet", "demo", "--out", str(out), *length]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    entries = json.loads((out / "table.json").read_text())
    return seconds, {entry["run"]: (entry["metrics"]["AP"], entry["metrics"]["AP50"]) for entry in entries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+", metavar="SRC")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--iterations", type=int)
    options = parser.parse_args()
    rows: list[list[str | int | float | None]] = []
    names: list[str] = []
    first = None
    with tempfile.TemporaryDirectory() as place:
        for number, source in enumerate(options.sources):
            seconds, found = run_demo(source, Path(place, str(number)), options.threads, options.iterations)
            first = first or seconds
            names = list(found)
            quality = [f"{ap:.3f}, {ap50:.3f}" for ap, ap50 in found.values()]
            rows.append([str(source), round(seconds), f"{seconds / first:.2f}", *quality])
    print(markdown_table(["build", "seconds", "ratio", *(f"{name}: AP, AP50" for name in names)], rows))


if __name__ == "__main__":
    main()
