"""Errors of calibration before and after, of trained runs, on images that neither thresholds nor maps have seen.

    python benchmarks/calibration.py DATA RUN [RUN ...] [--iou-type segm]

DATA is a folder in COCO format with the splits val and test. The runs are those of ``rankdet reproduce``: RUN has
``detections.json`` of val, and ``test/detections.json``. No network runs. Thresholds and maps are found on every other
image of val, and measured on the other half of val and on test; then the halves change places. Rows are means over
halves and runs of a recipe, with the standard deviation over runs.

IoUs, thresholds and AP are those of boxes, or with ``--iou-type segm`` those of masks.

Scores are those of the network, or calibrated by an isotonic map or by Platt scaling, to the IoU or to the precision at
IoU 0.5. Errors are in percent, of detections from the LRP-optimal threshold of their class on; these thresholds are
means over classes, in percent. AP, of all detections, is measured with each kind of scores; where calibration changes
that of any class the command stops.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from rankdet.coco import GroundTruth, Results, read_ground_truth, read_results
from rankdet.inference.calibration import errors, fit, halves
from rankdet.inference.evaluation import alone
from rankdet.inference.score_maps import Calibration, Method, Target
from rankdet.metrics import evaluate
from rankdet.metrics.calibration import Outcomes
from rankdet.metrics.evaluator import IouType
from rankdet.report.tables import markdown_table

Row = tuple[str, str, str]
"""Form, split, and what the scores are."""
COLUMNS = ("LaECE₀", "LaACE₀", "D-ECE", "threshold", "detections", "AP")


def read(data: Path, split: str, detections: Path, iou_type: IouType) -> tuple[GroundTruth, Results]:
    """The objects of a split, and what a run has found there."""
    masks = iou_type == "segm"
    truth, _ = read_ground_truth(data / "annotations" / f"instances_{split}.json", masks=masks)
    results, _ = read_results(detections, truth, masks=masks)
    return truth, alone(results, iou_type)


def calibrated(truth: GroundTruth, results: Results, calibration: Calibration) -> Results:
    """The same detections with calibrated scores."""
    scores = results.scores.copy()
    for label, change in enumerate(calibration.maps):
        rows = results.category_ids == truth.category_ids[label]
        scores[rows] = change(scores[rows])
    return replace(results, scores=scores)


def aps(truth: GroundTruth, results: Results, iou_type: IouType, cap: int) -> list[float]:
    """AP of each class in percent."""
    return [100 * row["AP"] for row in evaluate(truth, results, iou_type, max_detections=cap)["per_class"].values()]


def measure(run: Path, data: Path, iou_type: IouType = "bbox") -> dict[Row, list[float]]:
    """The columns of each row of a run."""
    form = re.sub(r"([-+](lr|seed|schedule|runtime).*|_(bccd|nuclei).*)$", "", run.name)
    val = read(data, "val", run / "detections.json", iou_type)
    test = read(data, "test", run / "test" / "detections.json", iou_type)
    cap = int(max(np.unique(results.image_ids, return_counts=True)[1].max() for _, results in (val, test)))
    found: dict[Row, list[list[float]]] = defaultdict(list)
    parts = [*halves(*val), test]
    first, second, on_test = ((part, Outcomes.of(*part, iou_type, cap)) for part in parts)
    for (_, seen), unseen in ((first, second), (second, first)):
        for split, ((truth, results), outcomes) in (("other half of val", unseen), ("test", on_test)):
            own = aps(truth, results, iou_type, cap)
            for target in get_args(Target):
                for method in get_args(Method):
                    fitted = fit(seen, method, target)
                    before, after = errors(outcomes, fitted)
                    if aps(truth, calibrated(truth, results, fitted.calibration), iou_type, cap) != own:
                        raise SystemExit(f"{run}: AP is not the same after calibration")
                    cuts = np.array(fitted.thresholds)
                    new = [change(cut) for change, cut in zip(fitted.calibration.maps, cuts, strict=True)]
                    for name, error, used in (("network", before, cuts), (f"{method} to {target}", after, new)):
                        percent = [100 * value for value in (*error[:3], float(np.mean(used)))]
                        found[form, split, name].append([*percent, error.detections, float(np.mean(own))])
    return {row: np.mean(values, axis=0).tolist() for row, values in found.items()}


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--iou-type", choices=get_args(IouType), default="bbox")
    arguments = parser.parse_args()
    measured: dict[Row, list[list[float]]] = defaultdict(list)
    for run in arguments.runs:
        for row, values in measure(run, arguments.data, arguments.iou_type).items():
            measured[row].append(values)
    rows = []
    for (form, split, name), values in sorted(measured.items(), key=lambda item: item[0][:2]):
        laece, laace, dece, cut, detections, ap = zip(*values, strict=True)
        cells = [*map(spread, (laece, laace, dece, cut)), f"{np.mean(detections):.0f}", spread(ap)]
        rows.append([form, split, name, *cells])
    print(markdown_table(["form", "measured on", "scores", *COLUMNS], rows))
    print(f"\nRuns of each form: {sorted({len(values) for values in measured.values()})}")


if __name__ == "__main__":
    main()
