"""The first part of a report: the numbers of all runs side by side, and what was odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdet.report import Section, comparison_table
from rankdet.review.reading import Subject

MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
RANKS = {"rank_correlation": "ρ"}
ERRORS = {"oLRP": "oLRP", "oLRP_Loc": "Loc", "oLRP_FP": "FP", "oLRP_FN": "FN"}

TERMS = """\
AP is the mean precision over recalls and over IoU thresholds from 0.50 to 0.95. AP50 and AP75 are at one of them; APs,
APm and APl are those of small, medium and large objects. oLRP is the least error over all score thresholds of a class,
and lower is better. At that threshold Loc is the localization error, 1 − IoU, of what is found; FP is the share of
false positives among detections, and FN the share of objects that are missed.
ρ is Spearman's rank correlation of score and IoU over the true positives: 1 where the better box has the better score.
"""


def summary_sections(subjects: Sequence[Subject]) -> list[Section]:
    """The table of all numbers, and findings."""
    rows: dict[str, Mapping[str, Any]] = {}
    for subject in subjects:
        masks = subject.metrics.get("masks")
        if "AP" in subject.metrics:
            rows[f"{subject.name}, boxes" if masks else subject.name] = subject.metrics
        if masks:
            rows[f"{subject.name}, masks"] = masks
    if not rows:
        return [Section("Summary", "Nothing is measured yet."), *_findings(subjects)]
    for subject in subjects:  # evaluations that were written before have no rank correlation
        if subject.measured is not None and subject.shown:
            name = next(name for name, metrics in rows.items() if metrics is subject.shown)
            rows[name] = {**subject.measured.metrics, **rows[name]}
    measures = {name: name for name in MEASURES if any(name in row for row in rows.values())} | ERRORS | RANKS
    return [Section("Summary", TERMS, comparison_table(rows, measures, "run")), *_findings(subjects)]


def _findings(subjects: Sequence[Subject]) -> list[Section]:
    said = dict.fromkeys(line for subject in subjects for line in subject.findings)
    for subject in subjects:
        if (point := subject.metrics.get("operating_point")) is not None:
            nms = "" if point.get("nms_iou") is None else f", NMS {point['nms_iou']:g}"
            line = (
                f"{subject.name} was evaluated at the operating point score threshold {point['score_threshold']:g}{nms}"
            )
            said |= {line: None}
        if "calibration" in subject.metrics:
            said |= {f"{subject.name} was evaluated with calibrated scores": None}
    digests = {subject.name: digest for subject in subjects if (digest := subject.digest) is not None}
    # Runs that have held out other parts of one file were measured on other images.
    if len(set(digests.values())) > 1:
        files = sorted({str(subject.source.annotations) for subject in subjects if subject.source is not None})
        named = ", ".join(files if len(files) > 1 else digests)
        said |= {f"warning: measured on different data, which cannot be compared: {named}": None}
    return [Section("Findings", "\n\n".join(said), is_part=True)] if said else []
