"""Where a data set keeps a split, and how it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import Finding, GroundTruth, read_ground_truth
from rankdet.coco.index import Index, Kept, Stamp, is_large
from rankdet.coco.streaming import read_document
from rankdet.data.layouts.names import as_given, with_files, with_sizes
from rankdet.data.layouts.splits import canonical, without_year
from rankdet.data.progress import with_spinner
from rankdet.structures import InputError

Reading = tuple[Mapping[str, Any], list[Finding]]
"""The content of annotations in the form of a COCO file, and what is wrong with them or was changed."""


@dataclass(frozen=True)
class Source:
    """Annotations of a split and the folder of its images.

    Parameters
    ----------
    layout
        What messages call the way in which it is laid out: ``"COCO"``, ``"YOLO"``, ``"Pascal VOC"``.
    annotations
        The annotation file, or the folder or file that annotations of another format lie in.
    images
        The folder that the file names of images are relative to.
    document
        Reads annotations of another format as the content of a COCO file; None: ``annotations`` is one.
    is_lvis
        Whether the file is in LVIS format.
    crowds_are_objects
        Whether crowd regions are read as objects.
    part
        Chooses the images of the split, (N,) bool, where the annotations are those of other images as well.
    """

    layout: str
    annotations: Path
    images: Path
    document: Callable[[], Reading] | None = None
    is_lvis: bool = False
    crowds_are_objects: bool = False
    part: Callable[[GroundTruth], NDArray[np.bool_]] | None = None

    def given(self) -> Reading:
        """Return the annotations as they are, in the form of a COCO file; raises InputError where there are none."""
        if self.document is not None:
            return self.document()
        with with_spinner(f"Reading {self.annotations}"):
            return read_document(self.annotations), []

    def content(self, given: Reading | None = None) -> Reading:
        """Return the annotations in the form of a COCO file, with names of files below ``images`` and with sizes.

        Records are not checked. ``given`` is what `given` has returned. Raises InputError when nothing can be read.
        """
        file = str(self.annotations)
        document, findings = self.given() if given is None else given
        # Names in LVIS are addresses, which are not written in other ways.
        if isinstance(document, Mapping) and isinstance(document.get("images"), list) and not self.is_lvis:
            named, of_names = with_files(document["images"], self.images, file)
            sized, of_sizes = with_sizes(named, self.images, file)
            document, findings = {**document, "images": sized}, [*findings, *of_names, *of_sizes]
        return document, findings

    def read(self, masks: bool, content: Reading | None = None) -> tuple[GroundTruth, list[Finding]]:
        """Read and check the annotations, with segmentations or without; ``content`` is what `content` has returned.

        Returns the sound records and what is wrong with the others; raises InputError when nothing can be read.
        """
        if content is None and self.is_indexed:
            truth, found = self._read_by_index(masks)
            return self.chosen(truth), found
        document, odd = self.content() if content is None else content
        truth, found = self.check(document, masks)
        return self.chosen(truth), [*odd, *found]

    @property
    def is_indexed(self) -> bool:
        """Whether what is read is kept in an index, as that of large files is."""
        return self.document is None and is_large(self.annotations)

    def _read_by_index(self, masks: bool) -> tuple[GroundTruth, list[Finding]]:
        """All annotations and what is wrong with them, read from an index, or read and kept in one."""
        options = {"masks": masks, "lvis": self.is_lvis, "crowds_are_objects": self.crowds_are_objects}
        index = Index(self.annotations, options)
        with index.locked():
            said = []
            try:
                kept = index.load()
                odd = None if kept is None else self._of_names({*kept.truth.file_names.texts(), *kept.other_names})
                if kept is not None and odd is not None:
                    return kept.truth, [*odd, *kept.findings]
            except ValueError as error:
                problem = f"its index {error}: it is made anew"
                said = [Finding("note", str(self.annotations), "", problem, str(index.path))]
            stamp, given = Stamp.of(self.annotations), self.given()
            document, odd = self.content(given)
            truth, found = self.check(document, masks)
            names = self._given_names(given[0], document, odd)
            del given, document
            if names is not None:
                others = sorted(names.difference(truth.file_names.texts()))
                try:
                    truth = index.save(Kept(truth, found, others), stamp).truth
                except (OSError, ValueError) as error:
                    problem = "its index cannot be kept: it is read anew each time"
                    remedy = "RANKDET_CACHE names another folder for indexes"
                    said = [Finding("note", str(self.annotations), "", problem, str(error), remedy)]
        return truth, [*odd, *found, *said]

    def _of_names(self, names: Set[str]) -> list[Finding] | None:
        """What is said of names of files that stay as they are; None where one is changed, or is not clear."""
        return [] if self.is_lvis else as_given(names, self.images, str(self.annotations))

    def _given_names(
        self, given: Mapping[str, Any], document: Mapping[str, Any], odd: Iterable[Finding]
    ) -> set[str] | None:
        """The names of files in annotations that the image files add nothing to; None where they do.

        What they add may be another thing the next time.
        """
        rows, same = given.get("images"), document.get("images")
        if self.is_lvis or not isinstance(rows, list) or not isinstance(same, list):
            return set()
        if any(one is not other for one, other in zip(rows, same, strict=True)) or any(one.record for one in odd):
            return None
        records = [row for row in rows if isinstance(row, Mapping)]
        if not all(row.get("width") and row.get("height") for row in records):
            return None
        return {name for row in records if isinstance(name := row.get("file_name"), str)}

    def chosen(self, truth: GroundTruth) -> GroundTruth:
        """The part of the annotations that is this split, of all that are read."""
        return truth if self.part is None else truth.subset(np.flatnonzero(self.part(truth)))

    def check(self, document: Mapping[str, Any], masks: bool) -> tuple[GroundTruth, list[Finding]]:
        """The sound records of what `content` returns, with segmentations or without, and what is wrong with others."""
        with with_spinner(f"Checking {self.annotations}"):
            return read_ground_truth(
                document,
                files=True,
                masks=masks,
                lvis=self.is_lvis,
                crowds_are_objects=self.crowds_are_objects,
                name=str(self.annotations),
            )

    def __str__(self) -> str:
        """What is read, for messages: the layout, the annotations and the folder of the images."""
        return f"{self.layout}: {self.annotations} with the images of {self.images}"


@dataclass(frozen=True)
class Layout:
    """The splits of a data folder.

    Parameters
    ----------
    folder
        The data folder.
    name
        What messages call the layout: ``"COCO"``, ``"YOLO"``.
    sources
        Split → where it is. Splits are called train, val and test, whatever the folder calls them; others keep their
        name in lower case. Where several files claim a split, the path of each is behind its name.
    """

    folder: Path
    name: str
    sources: Mapping[str, Source]

    def has(self, split: str) -> bool:
        """Whether a file claims the split."""
        return bool(self._fitting(split))

    def source(self, split: str) -> Source:
        """Return where a split is, by any of its names.

        Raises
        ------
        InputError
            When there is no such split, or several files claim it; names what is there.
        """
        fitting = self._fitting(split)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            listed = ", ".join(self._place(source) for source in fitting)
            raise InputError(
                f"{self.folder}: several annotation files fit the split {split!r}: {listed}; name one of them with "
                "data.train_annotations or data.validation_annotations"
            )
        listed = ", ".join(f"{name} ({self._place(source)})" for name, source in self.sources.items())
        raise InputError(
            f"{self.folder}: no annotation file for the split {split!r}; there is {listed} ({self.name}); name another "
            "split with data.train_split, data.validation_split or --split, or a file with data.train_annotations or "
            "data.validation_annotations"
        )

    def _place(self, source: Source) -> str:
        path = source.annotations
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)

    def _fitting(self, split: str) -> list[Source]:
        """The source of a split, or all whose names begin like it."""
        wanted = canonical(split)
        if wanted in self.sources:
            return [self.sources[wanted]]
        same = self.sources.get(without_year(wanted))
        if same is None and len(self.sources) == 1:  # a single file has a split of any name
            same = next(iter(self.sources.values()))
        # The set of another year is another set.
        if same is not None and split.lower() in same.annotations.name.lower():
            return [same]
        return [source for name, source in self.sources.items() if name.startswith(wanted)]


def by_split(found: Iterable[tuple[str, Source]]) -> dict[str, Source]:
    """Sources by the names of their splits, as `Layout` has them.

    ``found`` has pairs of a split, as the folder calls it, and a source.
    """
    named = [(canonical(split), source) for split, source in found]
    bare = Counter(without_year(split) for split, _ in named)
    splits = [(without_year(split) if bare[without_year(split)] == 1 else split, source) for split, source in named]
    shared = Counter(split for split, _ in splits)
    return {split if shared[split] == 1 else f"{split} {source.annotations}": source for split, source in splits}
