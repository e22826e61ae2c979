"""Annotation and result files of COCO and LVIS, for data and metrics alike: reading, checking, run lengths."""

from rankdet.coco.findings import Finding, findings_of, grouped, raise_errors
from rankdet.coco.ground_truth import Federation, GroundTruth
from rankdet.coco.packed import PackedBytes
from rankdet.coco.reading import GroundTruthSource, read_file_names, read_ground_truth
from rankdet.coco.results import Results, ResultsSource, read_results
from rankdet.coco.segmentations import encode_bitmap, encode_masks

__all__ = [
    "Federation",
    "Finding",
    "GroundTruth",
    "GroundTruthSource",
    "PackedBytes",
    "Results",
    "ResultsSource",
    "encode_bitmap",
    "encode_masks",
    "findings_of",
    "grouped",
    "raise_errors",
    "read_file_names",
    "read_ground_truth",
    "read_results",
]
