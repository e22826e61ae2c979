"""The set ``shapes`` with a long tail, in LVIS format: few classes are frequent, many are common or rare.

Legend: C classes.
"""

from pathlib import Path

from rankdet.data.hashing import mix
from rankdet.data.shapes import SPLITS, Document, Layout, falling, make_set, make_stamp
from rankdet.data.shapes_drawing import INSIDE, PATTERNS

RARE, COMMON = 10, 100
"""LVIS calls a class rare in up to so many training images, and common in up to so many."""
TAIL = 0.8
"""Objects of a class in training divided by those of the class before it."""


def _classes() -> tuple[str, ...]:
    """Every shape with every pattern, 21 classes; neighbors in frequency share neither."""
    shapes, patterns = list(INSIDE), list(PATTERNS)
    pairs = [
        (patterns[(turn + place) % len(patterns)], shape)
        for turn in range(len(patterns))
        for place, shape in enumerate(shapes)
    ]
    return tuple(f"{pattern}_{shape}".lstrip("_") for pattern, shape in pairs)


CLASSES = _classes()


def make_long_tailed_shapes(
    folder: Path,
    *,
    train: int = 600,
    val: int = 200,
    test: int = 0,
    size: int = 128,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Make a long-tailed set as a folder in LVIS format.

    The images are those of `make_shapes` with 21 classes: seven shapes, plain, striped or spotted. In training each
    class has 0.8 times as many objects as the one before it, from some 350 down to a few in 600 images. In validation
    and test all classes are equally frequent, so that AP of a rare class rests on more than an object or two. Every
    object is annotated. About half of the classes that an image lacks were looked for (``neg_category_ids``), and
    detections of the others do not count there.

    Images are in ``train2017``, ``val2017`` and ``test2017``, annotations in ``annotations/lvis_v1_{split}.json``.

    Parameters are those of `make_shapes`. Whether a class is rare, common or frequent depends on ``train``.

    Raises
    ------
    InputError
        When a parameter is out of its range, something else is at ``folder``, or it cannot be written.
    """
    stamp = make_stamp(train, val, test, size, seed, CLASSES, TAIL) | {"long_tailed": True}
    equal = [1.0] * len(CLASSES)
    frequencies = {"train": falling(len(CLASSES), TAIL), "val": equal, "test": equal}
    layout = Layout(
        images="{split}2017",
        annotations="annotations/lvis_v1_{split}.json",
        image_fields=lambda file: {"coco_url": f"{file.parent.name}/{file.name}"},
        complete=lambda documents: _complete(documents, seed),
    )
    return make_set(Path(folder), stamp, frequencies, layout, progress)


def _complete(documents: dict[str, Document], seed: int) -> None:
    """Add what LVIS has beyond COCO: how frequent classes are in training, and where they were looked for."""
    images: dict[int, set[int]] = {category["id"]: set() for category in documents["train"]["categories"]}
    objects = dict.fromkeys(images, 0)
    for row in documents["train"]["annotations"]:
        images[row["category_id"]].add(row["image_id"])
        objects[row["category_id"]] += 1
    for number, split in enumerate(SPLITS):
        document = documents.get(split, {"categories": [], "images": [], "annotations": []})
        for category in document["categories"]:
            count = len(images[category["id"]])
            category["frequency"] = "r" if count <= RARE else "c" if count <= COMMON else "f"
            category |= {"image_count": count, "instance_count": objects[category["id"]]}
        present: dict[int, set[int]] = {image["id"]: set() for image in document["images"]}
        for row in document["annotations"]:
            present[row["image_id"]].add(row["category_id"])
        for image in document["images"]:
            absent = [id_ for id_ in images if id_ not in present[image["id"]]]
            image["neg_category_ids"] = [id_ for id_ in absent if int(mix(seed, number, image["id"], id_)) % 2]
            image["not_exhaustive_category_ids"] = []
