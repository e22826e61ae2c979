"""The formats of annotation files: how each is found in a folder, and how it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rankdet.data.lvis import find_lvis_images, find_lvis_split, read_lvis_records
from rankdet.data.records import ReadRecords, read_records
from rankdet.data.splits import Split, find_images, find_split


@dataclass(frozen=True)
class Format:
    """A format of annotation files.

    Parameters
    ----------
    find_split
        The files of a split in a folder.
    find_images
        The folder of the images of an annotation file in a folder.
    read
        Reads and checks an annotation file.
    patterns
        Of all annotation files that a folder may have.
    """

    find_split: Callable[[Path, str], Split]
    find_images: Callable[[Path, Path], Path]
    read: ReadRecords
    patterns: tuple[str, ...]

    def files(self, folder: Path) -> list[Path]:
        """The annotation files of a folder."""
        return [path for pattern in self.patterns for path in sorted(folder.glob(pattern))]


COCO = Format(find_split, find_images, read_records, ("annotations/instances_*.json", "*/_annotations.coco.json"))
LVIS = Format(find_lvis_split, find_lvis_images, read_lvis_records, ("annotations/lvis_*.json",))
