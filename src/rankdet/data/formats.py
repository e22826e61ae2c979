"""The formats of annotation files: how each is found in a folder, and how it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rankdet.coco import Finding, GroundTruth, read_ground_truth
from rankdet.data.splits import Split, find_images, find_lvis_images, find_lvis_split, find_split


@dataclass(frozen=True)
class Format:
    """A format of annotation files."""

    find_split: Callable[[Path, str], Split]
    find_images: Callable[[Path, Path], Path]
    patterns: tuple[str, ...]
    """Patterns of the names of all annotation files that a folder may have."""
    is_lvis: bool = False

    def files(self, folder: Path) -> list[Path]:
        """The annotation files of a folder."""
        return [path for pattern in self.patterns for path in sorted(folder.glob(pattern))]

    def read(self, path: Path, masks: bool) -> tuple[GroundTruth, list[Finding]]:
        """Read and check an annotation file whose images are there, with segmentations or without.

        Returns the sound records and what is wrong with the others; raises InputError when the file cannot be read.
        """
        return read_ground_truth(path, files=True, masks=masks, lvis=self.is_lvis)


COCO = Format(find_split, find_images, ("annotations/instances_*.json", "*/_annotations.coco.json"))
LVIS = Format(find_lvis_split, find_lvis_images, ("annotations/lvis_*.json",), is_lvis=True)
