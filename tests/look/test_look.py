"""The page about a data set: what it says, what it embeds, and that nothing in a data set can break or enter it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rankdet.coco import encode_bitmap
from rankdet.coco.segmentations import decode_polygons
from rankdet.look import write_look
from rankdet.look.outlines import outline_path
from rankdet.look.page import Overview
from rankdet.recipes import load_recipe
from rankdet.structures import InputError

from .scene import Scene, crowded, fill


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "set")


def embedded(html: str) -> dict[str, Any]:
    """What the script of a page works with."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def kinds(overview: Overview) -> dict[str, tuple[int, int]]:
    return {kind.name: count for kind, count in overview.kinds.items()}


def test_a_sound_set_has_nothing_suspicious_and_all_of_its_images(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "set", classes=("cat",))
    fill(scene)
    overview, html = scene.look()
    assert not overview.kinds
    assert not overview.findings
    assert [split.objects for split in overview.splits] == [3, 3]
    assert len(embedded(html)["images"]) == 6
    assert "All records read as they stand" in html


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ([40, 30, 70, 55], "corners as size?"),
        ([50, 40, 40, 10], "leaves the image"),
        ([-9, 10, 30, 20], "leaves the image"),
        ([10, 40, 20, 30.5], "leaves the image"),
        ([0.2, 0.3, 0.4, 0.5], "relative?"),
        ([0.0, 0.0, 1.0, 0.25], "relative?"),
        ([10, 10, 4, 5], "tiny"),
        ([10, 10, 30, 1.1], "tiny"),
        ([0, 0, 80, 60], "huge"),
        ([1, 1, 78, 57], "huge"),
        ([200, 10, 20, 20], "not trained on"),
        ([10, 10, 20, 0.4], "not trained on"),
    ],
)
def test_a_box_is_recognized_by_its_numbers(scene: Scene, box: list[float], kind: str) -> None:
    fill(scene)
    scene.object(scene.image(), box)
    overview, html = scene.look()
    assert kinds(overview) == {kind: (1, 1)}
    first = embedded(html)["images"][0]
    assert first[1] == "004.png"
    assert [embedded(html)["kinds"][number][0] for number, _ in first[5]] == [kind]


@pytest.mark.parametrize("shift", [(0, 0), (0.5, 0.5), (1, 0)])
def test_two_boxes_of_a_class_that_are_nearly_the_same_are_one_object_twice(
    scene: Scene, shift: tuple[float, float]
) -> None:
    fill(scene)
    image = scene.image()
    scene.object(image, [10, 10, 40, 40])
    scene.object(image, [10 + shift[0], 10 + shift[1], 40, 40])
    scene.object(image, [10, 10, 40, 40], category=2)
    assert kinds(scene.look()[0]) == {"twice": (1, 2)}


def test_a_box_that_its_outline_contradicts_is_a_finding_of_its_image(scene: Scene) -> None:
    outline = [[30, 20, 50, 20, 50, 40, 30, 40]]
    scene.object(scene.image(), [30, 20, 20, 20], segmentation=outline, area=400)
    scene.object(scene.image(), [5, 5, 12, 12], segmentation=outline, area=400)
    overview, html = scene.look()
    assert kinds(overview)["warning"] == (1, 1)
    assert embedded(html)["images"][0][1] == "002.png"


@pytest.mark.parametrize("boxes", [[[5, 6, 29, 30], [10, 20, 40, 50]], [[3, 3, 27, 27], [20, 8, 44, 32]]])
def test_corners_in_place_of_sizes_are_found_where_outlines_contradict(tmp_path: Path, boxes: list[list[int]]) -> None:
    scene = Scene(tmp_path / "set", ("train",))
    for x1, y1, x2, y2 in boxes:
        scene.object(scene.image(), [x1, y1, x2, y2], segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]])
    overview, _ = scene.look()
    assert any("corners" in text for _, text in overview.findings)


def test_crowds_and_images_without_objects_are_named_last(scene: Scene) -> None:
    fill(scene)
    scene.image()
    scene.object(scene.image(), [10, 10, 30, 30], iscrowd=1)
    overview, html = scene.look()
    assert kinds(overview) == {"crowd": (1, 1), "no objects": (1, 0)}
    assert [row[1] for row in embedded(html)["images"][:2]] == ["005.png", "004.png"]


def test_broken_records_are_findings_and_their_images_come_first(scene: Scene) -> None:
    fill(scene)
    image = scene.image()
    scene.object(image, [10, 10, 30, 30])
    scene.object(image, [10, 10, "wide", 30])
    scene.object(image, [10, 10, 30, 30], category=9)
    overview, html = scene.look()
    text = " ".join(text for _, text in overview.findings)
    assert "wide" in text
    assert "category_id" in text
    assert embedded(html)["images"][0][1] == "004.png"
    assert kinds(overview).keys() <= {"error", "warning"}


def test_thousands_of_broken_records_are_few_lines(scene: Scene) -> None:
    fill(scene)
    for number in range(3000):
        scene.object(1, [10, 10, -number - 1, 30])
    assert len(scene.look()[0].findings) < 10


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"images": []}'])
def test_a_file_that_cannot_be_read_is_a_finding(scene: Scene, content: bytes) -> None:
    fill(scene)
    scene.look()
    (scene.root / "annotations" / "instances_val.json").write_bytes(content)
    overview = write_look(scene.root, scene.root / "look.html")
    assert overview.findings[0][0] == "error"
    assert [split.images for split in overview.splits] == [3, 0]


def test_images_that_are_missing_broken_or_of_another_size_are_shown_as_such(scene: Scene) -> None:
    fill(scene)
    scene.object(scene.image(name="gone.png", pixels=False), [10, 10, 30, 30])
    scene.object(scene.image(name="cut.png"), [10, 10, 30, 30])
    (scene.root / "train" / "cut.png").write_bytes((scene.root / "train" / "cut.png").read_bytes()[:200])
    scene.object(scene.image(name="other.png", pixels=np.zeros((50, 40, 3), dtype=np.uint8)), [10, 10, 20, 30])
    overview, html = scene.look()
    assert kinds(overview) == {"unreadable": (2, 0), "error": (1, 0)}
    assert [row[1] for row in embedded(html)["images"][:3]] == ["gone.png", "cut.png", "other.png"]
    assert "80 × 60 in the annotations" in json.dumps(embedded(html), ensure_ascii=False)
    assert any("another size" in text for _, text in overview.findings)
    assert any("cannot be decoded" in text for _, text in overview.findings)


@pytest.mark.parametrize("highest", [255, 4095, 65535])
def test_images_of_many_bits_are_shown(scene: Scene, highest: int) -> None:
    pixels = np.linspace(0, highest, 60 * 80).reshape(60, 80).astype(np.uint8 if highest == 255 else np.uint16)
    fill(scene)
    scene.object(scene.image(pixels=pixels), [10, 10, 30, 30])
    _, html = scene.look()
    assert all(row[4].startswith("data:image/webp;base64,") for row in embedded(html)["images"])


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_photo_is_shown_as_training_sees_it(scene: Scene, orientation: int) -> None:
    photo = Image.fromarray(scene.random.integers(0, 255, (60, 80, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    fill(scene)
    height, width = (60, 80) if orientation == 3 else (80, 60)
    scene.object(scene.image(width=width, height=height, name="turned.jpg", pixels=False), [10, 10, 30, 30])
    photo.save(scene.root / "train" / "turned.jpg", exif=exif)
    overview, html = scene.look()
    (row,) = (row for row in embedded(html)["images"] if row[1] == "turned.jpg")
    assert row[2:4] == [height, width]
    assert kinds(overview) == ({"warning": (1, 0)} if orientation == 3 else {})


def test_identical_and_similar_images_of_two_splits_are_told(scene: Scene) -> None:
    fill(scene)
    first = Image.open(scene.root / "train" / "001.png")
    scene.object(scene.image("val", name="same.png", pixels=first), [10, 12, 30, 20], "val")
    second = np.array(Image.open(scene.root / "train" / "002.png"))
    brighter = np.clip(second.astype(int) + 3, 0, 255).astype(np.uint8)
    scene.object(scene.image("val", name="alike.png", pixels=brighter), [10, 12, 30, 20], "val")
    overview, html = scene.look()
    assert ("identical", ["train: 001.png", "val: same.png"]) in list(overview.copies)
    assert ("nearly identical", ["train: 002.png", "val: alike.png"]) in list(overview.copies)
    assert "val: same.png" in html


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a & b", "\"quoted\" 'too'", "\u2028 ☃ \U0001f600", "</script>"]
)
def test_names_are_text_whatever_they_hold(tmp_path: Path, name: str) -> None:
    scene = Scene(tmp_path / "set", classes=(name, "dog"))
    fill(scene)
    scene.object(scene.image(name=f"{name.replace('/', '_')}.png"), [10, 10, 20, 20])
    overview, html = scene.look()
    assert overview.classes[0].name == name
    assert embedded(html)["classes"][0] == name
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert not re.search(r'(src|href)="?https?:', html)


def test_outlines_have_the_form_of_their_objects(scene: Scene) -> None:
    image = scene.image(name="shapes.png")
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:30, 20:50] = True
    mask[15:20, 25:30] = False  # a hole
    scene.object(image, [20, 10, 30, 20], segmentation=encode_bitmap(mask))
    scene.object(image, [5, 5, 8, 8], segmentation=[[5, 5, 13, 5, 13, 13, 5, 13]])
    _, html = scene.look()
    (row,) = (row for row in embedded(html)["images"] if row[1] == "shapes.png")
    (*_, first), (*_, second) = row[6]
    assert row[7] == 0.5
    assert second == "M10 10l16 0 0 16-16 0z"
    assert first.count("M") == 2


@pytest.mark.parametrize("grid", [0.5, 1, 2, 3.0])
@pytest.mark.parametrize("kind", ["disk", "two parts", "ring", "line"])
def test_an_outline_encloses_the_pixels_of_its_mask(kind: str, grid: float) -> None:
    y, x = np.mgrid[:60, :80]
    mask = (x - 30) ** 2 + (y - 25) ** 2 < 400
    if kind == "two parts":
        mask |= (x > 60) & (y > 40)
    elif kind == "ring":
        mask &= (x - 30) ** 2 + (y - 25) ** 2 > 100
    elif kind == "line":
        mask = (abs(x - y) < 6) & (x < 55)
    path = outline_path(encode_bitmap(mask), grid)
    parts = [[float(number) for number in re.findall(r"-?\d+", part)] for part in path.split("M")[1:]]
    polygons = [grid * np.cumsum(np.reshape(part, (-1, 2)), axis=0) for part in parts]
    drawn = sum(decode_polygons([polygon.ravel().tolist()], (60, 80)).astype(int) for polygon in polygons) % 2
    assert (drawn != mask).sum() <= 0.25 * grid * len(np.concatenate(polygons)) + 0.06 * grid * mask.sum()


@pytest.mark.parametrize(("images", "objects", "side"), [(500, 3, 160), (500, 120, 96), (40, 300, 400)])
def test_a_page_of_500_images_is_smaller_than_10_megabytes(
    tmp_path: Path, images: int, objects: int, side: int
) -> None:
    scene = crowded(tmp_path / "set", images, objects, side)
    overview, html = scene.look()
    assert len(overview.images) == images
    assert len(html.encode()) < 10_000_000


def test_more_images_than_are_shown_are_chosen_by_kind_and_spread(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "set")
    small = np.zeros((60, 80, 3), dtype=np.uint8)
    for number in range(120):
        image = scene.image(pixels=small + np.uint8(number))
        scene.object(image, [10, 10, 3, 3] if number < 40 else [10, 10, 30, 30])
        if number == 77:
            scene.object(image, [60, 40, 70, 55])
    scene.object(scene.image("val"), [10, 10, 30, 30], "val")
    overview, _ = scene.look(images=20)
    shown = [row.image.reasons for row in overview.images]
    assert len(shown) == 20
    assert next(iter(shown[0])).name == "corners as size?"
    assert sum(bool(reasons) for reasons in shown) == 15
    assert overview.num_images == 121


def test_1200_classes_make_a_table_of_as_many_rows(tmp_path: Path) -> None:
    scene = crowded(tmp_path / "set", 6, 200, 128, classes=1200)
    overview, html = scene.look()
    assert len(embedded(html)["table"]) == 1200
    assert len(overview.drifts[0].classes) == 1200


@pytest.mark.parametrize("splits", [("train",), ("val",), ("train", "val", "test")])
def test_any_number_of_splits_and_a_single_image_make_a_page(tmp_path: Path, splits: tuple[str, ...]) -> None:
    scene = Scene(tmp_path / "set", splits)
    for split in splits:
        scene.object(scene.image(split), [10, 10, 30, 30], split)
    overview, _ = scene.look()
    assert [split.name for split in overview.splits] == list(splits)
    assert len(overview.drifts) == len(splits) - 1


def test_a_set_without_objects_makes_a_page(scene: Scene) -> None:
    for split in scene.documents:
        scene.image(split)
    overview, _ = scene.look()
    assert kinds(overview) == {"no objects": (2, 0)}
    assert not overview.drifts


def test_one_split_can_be_looked_at_alone(scene: Scene) -> None:
    fill(scene)
    assert [split.name for split in scene.look(splits=["valid"])[0].splits] == ["valid"]
    with pytest.raises(InputError, match="'nothing'"):
        scene.look(splits=["nothing"])


def test_files_can_be_looked_at_wherever_they_lie(scene: Scene, tmp_path: Path) -> None:
    fill(scene)
    scene.look()
    file, out = scene.root / "annotations" / "instances_train.json", tmp_path / "other.html"
    moved = file.rename(tmp_path / "mine.json")
    overview = write_look(None, out, files={"train": (moved, scene.root / "train")})
    assert [(split.name, split.images) for split in overview.splits] == [("train", 3)]
    overview = write_look(scene.root, out, files={"train": (moved, scene.root / "train")})
    assert [split.name for split in overview.splits] == ["train", "val"]
    (scene.root / "train").rename(tmp_path / "images")
    overview = write_look(moved, out)
    assert [(split.name, split.images) for split in overview.splits] == [("mine", 3)]
    assert not overview.ranks["broken"]


def test_a_folder_of_yolo_is_looked_at_as_it_is(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (80, 60), (40 * number, 90, 30)).save(tmp_path / "images" / split / f"{split}{number}.png")
            (tmp_path / "labels" / split / f"{split}{number}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    settings = tmp_path / "data.yaml"
    settings.write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    for data in (tmp_path, settings):
        overview = write_look(data, tmp_path / "look.html")
        assert [(split.name, split.layout, split.objects) for split in overview.splits] == [
            ("train", "YOLO", 3),
            ("val", "YOLO", 3),
        ]


def test_classes_that_one_split_lacks_are_drift_and_equal_shares_are_none(tmp_path: Path) -> None:
    apart, alike = Scene(tmp_path / "apart"), Scene(tmp_path / "alike")
    for number in range(40):
        split = "val" if number % 2 else "train"
        apart.object(apart.image(split), [10, 10, 30, 30], split, category=1 + number % 2)
        alike.object(alike.image(split), [10, 10, 30, 30], split, category=1 + number % 4 // 2)
    (drift,) = apart.look()[0].drifts
    assert drift.distance == 1
    assert drift.is_unusual
    assert drift.missing == (["dog"], ["cat"])
    (drift,) = alike.look()[0].drifts
    assert drift.distance == 0
    assert not drift.is_unusual


@pytest.mark.parametrize(
    "recipe", ["rs_faster_rcnn_shapes", "rs_atss_shapes", "rs_paa_shapes", "rs_yolact_shapes", "cascade_rcnn_shapes"]
)
def test_anchors_of_a_recipe_match_objects_of_their_size(tmp_path: Path, recipe: str) -> None:
    scene = Scene(tmp_path / "set", ("train",))
    for side in (2, 16, 24, 32, 90):
        scene.object(scene.image(width=128, height=128), [20, 20, side, side])
    overview, html = scene.look(recipe=load_recipe(recipe))
    assert overview.anchors is not None
    assert sum(each.objects for each in overview.anchors.bins) == 5
    assert "Anchors of" in html
    best = {each.sides[0]: each.best_iou for each in overview.anchors.bins}
    assert best[0] < best[16]


def test_a_detector_without_anchors_says_so(scene: Scene) -> None:
    fill(scene)
    overview, html = scene.look(recipe=load_recipe("rs_solov2_shapes"))
    assert overview.anchors is not None
    assert not overview.anchors.bins
    assert "no anchors" in html
