"""Which images a page shows, and in which order.

Legend: N images, A annotations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rankdet.coco.findings import SEVERITIES
from rankdet.look.reading import Split
from rankdet.look.suspicion import EMPTY, ERROR, KINDS, WARNING, Kind, objects_of_kinds

SUSPICIOUS_SHARE = 0.75
"""Share of the images that suspicious ones may take, so that ordinary ones are seen too."""


@dataclass(eq=False)
class Candidate:
    """An image of a data set, and why it is worth a look.

    Parameters
    ----------
    split, place
        The place of its split, and its own in the annotation file.
    objects
        Rows of its annotations.
    kinds
        Kinds of each of its objects.
    reasons
        Why it is worth a look, in words, by kind.
    """

    split: int
    place: int
    objects: list[int]
    kinds: dict[int, list[Kind]] = field(default_factory=dict)
    reasons: dict[Kind, str] = field(default_factory=dict)

    def order(self) -> tuple[int, int, int, int]:
        """Sort key: gravest reason first, then the number of reasons, then the order of the files."""
        gravest = min((KINDS.index(kind) for kind in self.reasons), default=len(KINDS))
        return gravest, -len(self.reasons), self.split, self.place


def candidates(splits: Sequence[Split]) -> list[Candidate]:
    """All images of all splits, with what records and boxes say about them; nothing is read from image files."""
    found = []
    for number, split in enumerate(splits):
        truth = split.truth
        if truth is None:
            continue
        order = np.argsort(truth.images, kind="stable")
        ends = np.cumsum(np.bincount(truth.images, minlength=len(truth.image_ids)))
        rows = np.split(order, ends[:-1]) if len(ends) else []
        own = [Candidate(number, place, objects.tolist()) for place, objects in enumerate(rows)]
        for kind, is_kind in objects_of_kinds(truth).items():
            per_image: dict[int, int] = defaultdict(int)
            for row in np.flatnonzero(is_kind).tolist():
                image = int(truth.images[row])
                per_image[image] += 1
                own[image].kinds.setdefault(row, []).append(kind)
            for image, count in per_image.items():
                own[image].reasons[kind] = f"{count} {'object' if count == 1 else 'objects'}"
        for row, severity in split.of_objects.items():
            own[int(truth.images[row])].kinds.setdefault(row, []).append(_kind(severity))
        for image, findings in split.of_images.items():
            one = min(findings, key=lambda finding: SEVERITIES.index(finding.severity))
            more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
            record = "" if one.record.startswith("image ") else one.record
            text = ": ".join(part for part in (record, one.problem, one.detail) if part)
            own[image].reasons[_kind(one.severity)] = f"{text}{more}"
        for candidate in own:
            if not candidate.objects:
                candidate.reasons.setdefault(EMPTY, "")
        found += own
    return found


def _kind(severity: str) -> Kind:
    return ERROR if severity == "error" else WARNING


def chosen(images: Sequence[Candidate], most: int) -> list[Candidate]:
    """At most ``most`` images, suspicious ones first.

    Where there are more, each kind of suspicion gets its turn, and a quarter of the images are ordinary ones, spread
    evenly over the data set.
    """
    if len(images) <= most:
        return sorted(images, key=Candidate.order)
    suspicious = [image for image in images if set(image.reasons) - {EMPTY}]
    ordinary = [image for image in images if not set(image.reasons) - {EMPTY}]
    wanted = max(round(SUSPICIOUS_SHARE * most), most - len(ordinary))
    taken = _in_turns(suspicious, wanted)
    left = most - len(taken)
    spread = np.linspace(0, len(ordinary) - 1, left).round().astype(int).tolist() if left else []
    return sorted([*taken, *(ordinary[place] for place in dict.fromkeys(spread))], key=Candidate.order)


def _in_turns(images: Sequence[Candidate], most: int) -> list[Candidate]:
    """At most ``most`` images, one of each kind in turn."""
    by_kind: Mapping[Kind, list[Candidate]] = {kind: [] for kind in KINDS}
    for image in images:
        for kind in image.reasons:
            by_kind[kind].append(image)
    # Spread over the data set: neighbors in a file often have the same fault.
    queues = [
        [members[place] for place in np.random.default_rng(0).permutation(len(members))]
        for kind, members in by_kind.items()
        if members and kind is not EMPTY
    ]
    taken: dict[int, Candidate] = {}
    while len(taken) < min(most, len(images)):
        for queue in queues:
            while queue:
                image = queue.pop()
                if id(image) not in taken:
                    taken[id(image)] = image
                    break
            if len(taken) == most:
                break
    return list(taken.values())


def kind_counts(images: Sequence[Candidate]) -> dict[Kind, tuple[int, int]]:
    """Kind → (images, objects) of it among all images."""
    counts: dict[Kind, tuple[int, int]] = {}
    for kind in KINDS:
        concerned = [image for image in images if kind in image.reasons]
        objects = sum(kind in kinds for image in concerned for kinds in image.kinds.values())
        if concerned:
            counts[kind] = len(concerned), objects
    return counts


def rank_counts(images: Sequence[Candidate]) -> dict[str, int]:
    """Number of images by the rank of their gravest reason; those without any objects count as ordinary."""
    counts = dict.fromkeys(("broken", "suspicious", "unusual"), 0)
    for image in images:
        ranks = {kind.rank for kind in image.reasons if kind is not EMPTY}
        gravest = next((rank for rank in counts if rank in ranks), None)
        if gravest is not None:
            counts[gravest] += 1
    return counts
