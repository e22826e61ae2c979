"""Memory and time of reading annotations as many as those of Objects365, and of `rankdet doctor` on them.

    python benchmarks/data_index.py [--images 1000000] [--workers 4] [--out FOLDER]

Writes an annotation file with fifteen boxes an image, in the form of Objects365, into a temporary folder, and measures
each step in a process of its own. There are no image files: workers draw gray ones. Memory is above that of a process
which has only imported what is measured, and in parts of the size of the file.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

BOXES = 15
CLASSES = 365
IMAGE = (
    '{"height": 480, "id": %d, "license": 5, "width": 640, "file_name": "images/v1/patch%d/objects365_v1_%08d.jpg", '
    '"url": ""}'
)
ANNOTATION = (
    '{"id": %d, "iscrowd": %d, "isfake": 0, "area": %s, "isreflected": 0, "bbox": [%s, %s, %s, %s], "image_id": %d, '
    '"category_id": %d}'
)


def main() -> None:
    """Print a table, or one of its rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--out", type=Path, help="the folder for the file, which is kept there; default: a temporary one"
    )
    parser.add_argument("--step", choices=["start", "doctor"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "start":
        print(json.dumps(start(options.out, options.workers)))
    elif options.step == "doctor":
        print(json.dumps(doctor(options.out)))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            measure(options.out or Path(temporary), options.images, options.workers)


def measure(folder: Path, num_images: int, workers: int) -> None:
    """Make the file where it is not there, and print a row for each step."""
    path = annotations(folder)
    if not path.exists():
        write(path, num_images)
    total = path.stat().st_size
    print(f"{num_images:,} images, {BOXES * num_images:,} boxes, {total / 1e9:.2f} GB of JSON\n")
    print(f"| step | seconds | peak / JSON | afterwards / JSON | each of {workers} workers and their parent / JSON |")
    print("|---|---|---|---|---|")
    environment = {**os.environ, "RANKDET_CACHE": str(folder / "cache")}
    for name, step in (("first start", "start"), ("second start", "start"), ("doctor", "doctor")):
        command = [sys.executable, __file__, "--step", step, "--out", str(folder), "--workers", str(workers)]
        row = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
        parts = [f"{row[key] / total:.3f}" if key in row else "" for key in ("peak", "afterwards", "shared")]
        print(f"| {name} | {row['seconds']:.1f} | {' | '.join(parts)} |", flush=True)


def annotations(folder: Path) -> Path:
    """The annotation file."""
    return folder / "annotations" / "instances_train.json"


def write(path: Path, num_images: int) -> None:
    """Write the annotation file a thousand images at a time."""
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    (path.parent.parent / "images").mkdir()
    with path.open("w") as file:
        file.write('{"images": [')
        for first in range(0, num_images, 1000):
            ids = range(first, min(first + 1000, num_images))
            file.write(", " * (first > 0) + ", ".join([IMAGE % (id_, id_ % 51, id_) for id_ in ids]))
        file.write('], "annotations": [')
        for first in range(0, num_images, 1000):
            images = np.repeat(np.arange(first, min(first + 1000, num_images)), BOXES)
            boxes = random.uniform([0, 0, 8, 8], [400, 300, 240, 180], (len(images), 4)).round(4)
            crowds, classes = random.random(len(images)) < 0.01, random.integers(1, CLASSES + 1, len(images))
            ids, areas = np.arange(len(images)) + first * BOXES + 1, boxes[:, 2:].prod(axis=1).round(4)
            columns = (column.tolist() for column in (ids, crowds, areas, *boxes.T, images, classes))
            file.write(", " * (first > 0) + ", ".join([ANNOTATION % row for row in zip(*columns, strict=True)]))
        classes = [{"id": id_, "name": f"class {id_}"} for id_ in range(1, CLASSES + 1)]
        file.write(f'], "categories": {json.dumps(classes)}}}')


def start(folder: Path, workers: int) -> dict[str, float]:
    """What a training does with its annotations before the first iteration, and what its workers do with them."""
    from rankdet.data import CocoDataset

    before, began = memory()["Pss"], time.perf_counter()
    dataset = CocoDataset(annotations(folder), folder / "images", keep_empty=False, read_pixels=gray)
    seconds, peak, afterwards = time.perf_counter() - began, peak_memory() - before, memory()["Pss"] - before
    context = multiprocessing.get_context("fork")
    barrier, reports = context.Barrier(workers + 1), context.SimpleQueue()
    processes = [
        context.Process(target=read_some, args=(dataset, number, barrier, reports)) for number in range(workers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    own = memory()["Pss"]
    shared = own + sum(reports.get() for _ in processes)
    barrier.wait()
    for process in processes:
        process.join()
    # The libraries are shared as well; one process has them alone.
    return {
        "seconds": seconds,
        "peak": peak,
        "afterwards": afterwards,
        "shared": (shared - before) / (workers + 1),
    }


def gray(place: int) -> torch.Tensor:
    """An image of the size in the annotations, without a file."""
    return torch.full((3, 480, 640), 128, dtype=torch.uint8)


def read_some(dataset, number: int, barrier, reports) -> None:
    """Read images from all over the file, and report the memory of this process."""
    from rankdet.data.sampling import SampleKey

    for index in np.random.default_rng(number).integers(0, len(dataset), 5000).tolist():
        dataset[SampleKey(index, 0)]
    barrier.wait()
    reports.put(memory()["Pss"])
    barrier.wait()


def doctor(folder: Path) -> dict[str, float]:
    """`rankdet doctor`."""
    from rankdet.recipes.doctor import diagnose
    from rankdet.recipes.schema.data import Data

    before, began = memory()["Rss"], time.perf_counter()
    data = Data(train_annotations=annotations(folder), train_images=folder / "images", batch_size=1)
    lines = diagnose(data).describe().splitlines()
    print(*(line[:200] for line in lines), sep="\n", file=sys.stderr)
    return {"seconds": time.perf_counter() - began, "peak": peak_memory() - before}


def memory() -> dict[str, int]:
    """Bytes of this process; of pages that several have, ``Pss`` has a part."""
    rows = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {name.rstrip(":"): 1024 * int(value) for name, value, *_ in rows}


def peak_memory() -> int:
    """The most that this process has had, in bytes."""
    rows = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(1024 * int(row[1]) for row in rows if row[0] == "VmHWM:")


if __name__ == "__main__":
    main()
