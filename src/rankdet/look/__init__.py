"""`rankdet look`: one page that shows a data set, suspicious images first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rankdet.extras import require

require(__name__)

from rankdet.coco import Finding
from rankdet.coco.findings import grouped
from rankdet.data.doctor import equal_files
from rankdet.data.progress import with_bar
from rankdet.look.anchors import anchor_fit
from rankdet.look.choosing import Candidate, candidates, chosen, kind_counts, rank_counts
from rankdet.look.copies import similar_pairs
from rankdet.look.page import Overview, Shown, render
from rankdet.look.reading import Split, read_splits
from rankdet.look.statistics import class_drift, class_names, class_numbers, labels_of, split_numbers
from rankdet.look.suspicion import ALIKE, COPIED, REPEATED, UNREADABLE
from rankdet.look.thumbnails import Thumbnail, drawings, thumbnails
from rankdet.recipes import Recipe
from rankdet.runs.folder import write_text

__all__ = ["write_look"]

BYTES_PER_IMAGE = 18_000
"""What each of many images may take on the page: with 500 of them it stays below 10 MB."""
MANY = 500
"""Number of images from which on a page grows."""
OUTLINES_SHARE = 0.4
"""Part of the budget that objects may take; images have the rest."""
MOST_COPIES = 100
"""Groups of identical or similar images that a page lists."""


def write_look(
    data: Path | None,
    out: Path,
    *,
    recipe: Recipe | None = None,
    images: int = 500,
    splits: Sequence[str] = (),
    files: Mapping[str, tuple[Path, Path | None]] = MappingProxyType({}),
    progress: bool = False,
) -> Overview:
    """Write a page about a data set: one HTML file with images, objects, statistics, and all that looks wrong.

    Parameters
    ----------
    data
        A data folder, or one annotation file; None: ``files`` alone.
    out
        The file to write.
    recipe
        Whose anchors and label assignment are tried on the objects; None: none.
    images
        Most images that the page shows; with 500 or fewer it takes less than 10 MB.
    splits
        Names of the splits to look at; none: all.
    files
        Split → annotation file, and folder of its images or None: beside those of the data folder, or in their place.
    progress
        Show a bar of progress on standard error, where that is a terminal.

    Raises
    ------
    InputError
        When there is no data set, or the page cannot be written.
    """
    found = read_splits(data, splits, files)
    place = found[0].source.annotations.parent if data is None else data
    every = candidates(found)
    copies = _mark_copies(found, every)
    names = class_names(found)
    shown = chosen(every, images)
    budget = BYTES_PER_IMAGE * max(MANY, len(shown))
    labels = [labels_of(split, names).tolist() for split in found]
    drawn, whole_outlines = drawings(found, shown, labels, int(OUTLINES_SHARE * budget))
    left = budget - sum(drawing.length() for drawing in drawn)
    embedded = list(with_bar(thumbnails(found, shown, left), "Reading images", progress, total=len(shown)))
    copies += _mark_similar(found, shown, embedded)
    rows = [
        Shown(_file_name(found, image), image, thumbnail, drawing)
        for image, thumbnail, drawing in zip(shown, embedded, drawn, strict=True)
    ]
    overview = Overview(
        name=place.resolve().name,
        folder=str(place),
        splits=[split_numbers(split) for split in found],
        classes=class_numbers(found, names),
        drifts=[drift for pair in _pairs(found) if (drift := class_drift(*pair, names)) is not None],
        findings=_lines(found, shown, place),
        kinds=kind_counts(every),
        ranks=rank_counts(every),
        images=sorted(rows, key=lambda row: row.image.order()),
        num_images=len(every),
        whole_outlines=whole_outlines,
        copies=copies[:MOST_COPIES],
        anchors=None if recipe is None else anchor_fit(recipe, found, len(names)),
    )
    write_text(out, render(overview))
    return overview


def _file_name(splits: Sequence[Split], image: Candidate) -> str:
    truth = splits[image.split].truth
    return "" if truth is None else truth.file_names[image.place].decode()


def _pairs(splits: Sequence[Split]) -> Iterator[tuple[Split, Split]]:
    """The first split, training as a rule, with each other one."""
    readable = [split for split in splits if split.truth is not None]
    yield from ((readable[0], other) for other in readable[1:])


def _lines(splits: Sequence[Split], shown: Sequence[Candidate], folder: Path) -> list[tuple[str, str]]:
    """(severity, text) of all findings, grouped; files are named from the folder on."""
    findings: list[Finding] = [finding for split in splits for finding in split.findings]
    for image in shown:  # some files are sound up to their pixels, which nobody has decoded before
        split = splits[image.split]
        if UNREADABLE in image.reasons and image.place not in split.of_images and split.truth is not None:
            problem, _, detail = image.reasons[UNREADABLE].partition(": ")
            record = f"image {split.truth.image_ids[image.place]}"
            findings.append(Finding("warning", split.truth.source, record, problem, detail))
    lines = [line.partition(": ") for line in grouped(findings)]
    return [
        (severity, text.replace(f"{folder}/", "").replace(f"{folder.resolve()}/", "")) for severity, _, text in lines
    ]


def _mark_copies(splits: Sequence[Split], images: Sequence[Candidate]) -> list[tuple[str, list[str]]]:
    """Note identical files in the reasons of their images, and list them."""
    lines = []
    for group in equal_files([splits[image.split].path(image.place) for image in images]):
        members = [images[place] for place in group]
        is_across = len({image.split for image in members}) > 1
        for image in members:
            others = [_shown_name(splits, other) for other in members if other is not image]
            image.reasons[COPIED if is_across else REPEATED] = f"same file as {_listed(others)}"
        lines.append(
            ("identical" if is_across else "identical in one split", [_shown_name(splits, m) for m in members])
        )
    return sorted(lines, key=lambda line: line[0] != "identical")


def _mark_similar(
    splits: Sequence[Split], images: Sequence[Candidate], embedded: Sequence[Thumbnail]
) -> list[tuple[str, list[str]]]:
    """Note images of different splits that look almost the same, and list them."""
    lines = []
    for first, second in similar_pairs([thumbnail.gray for thumbnail in embedded]):
        one, other = images[first], images[second]
        if one.split == other.split or (COPIED in one.reasons and COPIED in other.reasons):
            continue
        for image, twin in ((one, other), (other, one)):
            image.reasons.setdefault(ALIKE, f"looks like {_shown_name(splits, twin)}")
        lines.append(("nearly identical", [_shown_name(splits, one), _shown_name(splits, other)]))
    return lines


def _shown_name(splits: Sequence[Split], image: Candidate) -> str:
    return f"{splits[image.split].name}: {_file_name(splits, image)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
