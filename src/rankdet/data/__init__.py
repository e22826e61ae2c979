"""From data folders to batches: layouts, transforms, sampling, loading, a check of folders, sets of shapes."""

from rankdet.extras import require

require(__name__)

from rankdet.coco import Finding, grouped
from rankdet.data.augmentation import Expansion, MinIoUCrop, PhotometricDistortion, Window
from rankdet.data.conversion import Conversion, convert_folder
from rankdet.data.dataset import CocoDataset, Sample
from rankdet.data.images import read_image
from rankdet.data.layouts import Layout, find_layout, find_source
from rankdet.data.loading import build_test_loader, build_training_loader, collate
from rankdet.data.long_tail import make_long_tailed_shapes
from rankdet.data.sampling import GroupedBatchSampler, SampleKey
from rankdet.data.shapes import make_shapes
from rankdet.data.transforms import FixedSize, KeepRatio, Placement, Transforms

__all__ = [
    "CocoDataset",
    "Conversion",
    "Expansion",
    "Finding",
    "FixedSize",
    "GroupedBatchSampler",
    "KeepRatio",
    "Layout",
    "MinIoUCrop",
    "PhotometricDistortion",
    "Placement",
    "Sample",
    "SampleKey",
    "Transforms",
    "Window",
    "build_test_loader",
    "build_training_loader",
    "collate",
    "convert_folder",
    "find_layout",
    "find_source",
    "grouped",
    "make_long_tailed_shapes",
    "make_shapes",
    "read_image",
]
