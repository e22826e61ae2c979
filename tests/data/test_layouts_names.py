"""Names of images as tools write them, and sizes that they do not write."""

import itertools
import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from rankdet.coco import grouped
from rankdet.data import CocoDataset, find_layout, find_source
from rankdet.data.layouts import Source
from rankdet.data.layouts.names import with_files, with_sizes


@pytest.fixture
def images(tmp_path):
    """Makes empty files below a folder, and returns what names mean there: name → file or None, and the findings."""

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()

        def read(*names):
            rows = [{"id": place, "file_name": name} for place, name in enumerate(names)]
            found, findings = with_files(rows, tmp_path, "a.json")
            assert [row["id"] for row in found] == list(range(len(names)))
            return [row["file_name"] for row in found], findings

        return read

    return make


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.png", r"train\a.png"),  # of Windows
        ("sub/a.png", r"sub\a.png"),
        ("a.png", r"..\..\media\upload\4\a.png"),  # of Label Studio
        ("a.png", "/data/upload/1/a.png"),
        ("13cdb71f-a.png", "/data/upload/1/13cdb71f-a.png"),
        ("a.png", "/data/upload/1/13cdb71f-a.png"),
        ("a.png", "13cdb71f__a.png"),
        ("set/a.png", "/data/local-files/?d=set/a.png"),
        ("set/a.png", "/data/local-files/?d=project%2Fset%2Fa.png"),
        ("a.png", "https://host/bucket/a.png?token=b"),
        ("a.png", "s3://bucket/set/a.png"),
        ("train/a.png", "/home/somebody/set/train/a.png"),  # of labelme2coco
        ("train/a.png", r"C:\Users\somebody\train\a.png"),
        ("deep/train/a.png", "/home/somebody/train/a.png"),
        ("a b.png", "a%20b.png"),
        ("ä ö.png", "%C3%A4%20%C3%B6.png"),
        ("a.JPG", "a.jpg"),
        ("Train/A.jpeg", "train/a.JPEG"),
        ("a.png", "a"),  # of readers of YOLO
        ("b/img_jpg.rf.00ff.jpg", "b/img_jpg.rf.00ff"),
        ("train/a.png", "images/train/a.png"),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
    ],
)
def test_a_name_in_another_form_means_the_file(images, path, name):
    read = images(path, "other.png")
    found, findings = read(name, "other.png")
    assert found == [path, "other.png"]
    assert [(finding.severity, finding.record) for finding in findings] == [("note", "image 0")]
    assert repr(path) in findings[0].detail


@pytest.mark.parametrize("folder", ["below", "below/there", "Images of 2026"])
def test_the_last_part_of_a_name_is_enough_where_no_name_is_a_file(images, folder):
    read = images(f"{folder}/a.png", "other/b.png", "notes.txt")
    assert read("a.png", "b.png")[0] == [f"{folder}/a.png", "other/b.png"]


@pytest.mark.parametrize("name", ["a.png", "sub/a.png", "a%20b.png", r"sub\a.png", "sub/../a.png", "./a.png"])
def test_a_name_that_is_a_file_stays(images, name):
    plain = name.replace("../", "").replace("./", "")
    read = images(plain, "a b.png", "sub/b.png") if ".." not in name else images("a.png", "sub/b.png")
    found, findings = read(name)
    assert found == ([name] if ".." not in name else ["a.png"])
    assert len(findings) == (".." in name)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/1.png", "b/1.png"], ["1.png"]),
        (["a/1.png", "b/1.png"], ["/elsewhere/1.png", "/elsewhere/2.png"]),
        (["x/a/1.png", "y/a/1.png"], ["a/1.png"]),
        (["1.png", "1.jpg"], ["/elsewhere/1"]),
    ],
)
def test_a_name_that_fits_several_files_is_not_guessed(images, paths, names):
    found, findings = images(*paths)(*names)
    assert found == names
    assert [finding.severity for finding in findings][:1] == ["warning"]
    assert "fits several files" in findings[0].problem
    assert "data.train_images" in findings[0].remedy


def test_two_names_never_mean_one_file(images):
    found, findings = images("1.png", "2.png")("a/1.png", "b/1.png", "2.png")
    assert found == ["a/1.png", "b/1.png", "2.png"]
    assert [finding.problem for finding in findings] == ["file_name fits the file of another name: none is taken"] * 2


@pytest.mark.parametrize("prefix", ["", "train/", "/data/train/", "train\\"])
def test_a_missing_image_is_not_looked_for_in_the_folder_of_another_split(images, prefix):
    read = images("train/1.png", "train/2.png", "val/3.png") if prefix else images("1.png", "2.png", "val/3.png")
    found, _ = read(*(f"{prefix}{number}.png" for number in (1, 2, 3)))
    folder = "train/" if prefix else ""
    assert found == [f"{folder}1.png", f"{folder}2.png", f"{prefix}3.png"]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "sub/../../secret.png", r"..\secret.png"])
def test_no_name_leaves_the_folder(images, tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").touch()
    (tmp_path / "images" / "a.png").touch()
    rows = [{"id": 1, "file_name": name}, {"id": 2, "file_name": "a.png"}]
    assert with_files(rows, tmp_path / "images", "a.json") == (rows, [])


def test_folders_behind_links_are_looked_into_once(images, tmp_path):
    read = images("there/1.png")
    (tmp_path / "there" / "again").symlink_to(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train").symlink_to(tmp_path / "there")
    assert read("/data/1.png")[0] in (["there/1.png"], ["images/train/1.png"])


@pytest.mark.parametrize("rows", [[], [3, "x", None], [{"id": 1}], [{"id": 1, "file_name": None}], [{"file_name": 7}]])
def test_records_without_a_name_are_left_to_the_reader(rows, tmp_path):
    assert with_files(rows, tmp_path, "a.json") == (rows, [])


@pytest.mark.parametrize("count", [1, 5, 5000])
def test_a_file_without_any_of_its_images_is_one_line_that_names_the_field(tmp_path, count):
    rows = [{"id": place, "file_name": f"{place}.png"} for place in range(count)]
    findings = with_files(rows, tmp_path, "a.json")[1]
    assert grouped(findings) == [
        f"warning: a.json: none of the {count} images is in {tmp_path}: '0.png', …; data.train_images or "
        "data.validation_images names the folder of the images"
    ]


@pytest.mark.parametrize("parent", ["/data/labels/raw", "//server/set", "../../set"])
@pytest.mark.parametrize("inside", [0, 1, 4])
def test_names_that_lead_out_of_the_folder_are_one_finding_that_names_the_field(tmp_path, parent, inside):
    (tmp_path / "images").mkdir()
    rows = [{"id": place, "file_name": f"{parent}/{place}.png", "width": 9, "height": 9} for place in range(5)]
    for row in rows[:inside]:
        row["file_name"] = f"{row['id']}.png"
        Image.new("RGB", (9, 9)).save(tmp_path / "images" / row["file_name"])
    objects = [{"id": one, "image_id": one % 5, "category_id": 1, "bbox": [1, 1, 5, 5]} for one in range(20)]
    content = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    truth, findings = Source("COCO", tmp_path / "a.json", tmp_path / "images").read(masks=False)
    assert len(truth.labels) == 4 * inside
    told = [line for line in grouped(findings) if "categories" not in line]
    assert len(told) == 2
    assert "file_name leaves the folder of images: left out" in told[0]
    assert told[0].startswith("warning" if inside else "error")
    assert told[0].endswith("; data.train_images or data.validation_images names the folder of the images")
    left_out = f"{20 - 4 * inside} annotations are of images that are left out: left out with these"
    assert told[1] == f"warning: {tmp_path / 'a.json'}: {left_out}"


@pytest.mark.parametrize(
    "given", [{}, {"width": None, "height": None}, {"width": 8, "height": None}, {"width": 0, "height": 0}]
)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_size_that_is_not_given_is_that_of_the_upright_image(tmp_path, given, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((6, 8, 3), dtype=np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    rows = [{"id": 1, "file_name": "a.jpg", **given}, {"id": 2, "file_name": "b.jpg", "width": 3, "height": 4}]
    sized, findings = with_sizes(rows, tmp_path, "a.json")
    assert (sized[0]["width"], sized[0]["height"]) == ((6, 8) if orientation == 6 else (8, 6))
    assert sized[1] == rows[1]
    assert [(finding.severity, finding.record) for finding in findings] == [("note", "image 1")]


@pytest.mark.parametrize("name", ["absent.png", "broken.png", "../a.png", "/a.png", "", None, "a\0.png"])
def test_a_size_that_no_file_has_stays_open(tmp_path, name):
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [{"id": 1, "file_name": name, "width": None}, "nothing"]
    assert with_sizes(rows, tmp_path, "a.json") == (rows, [])


@pytest.mark.parametrize(
    "form",
    [r"images\{}", "/data/upload/4/{}", r"..\..\media\upload\4\{}", "https://host/{}", "/home/somebody/images/{}"],
)
def test_a_whole_set_with_names_in_another_form_is_read(folder, form):
    for row in folder.document["images"]:
        row["file_name"] = form.format(row["file_name"])
        del row["width"], row["height"]
    folder.write()
    source = find_layout(folder.root).source("train")
    truth, findings = source.read(masks=True)
    assert len(truth.image_ids) == 4
    assert {finding.severity for finding in findings} == {"note"}
    assert len(grouped(findings)) == 2
    dataset = CocoDataset(folder.annotations, source.images)
    assert [dataset.path(index).name for index in range(4)] == ["10.png", "11.png", "12.png", "13.png"]
    assert dataset.size(2) == (40, 80)


def test_images_are_found_where_only_later_names_have_files(folder):
    names = (f"https://host/{number}.png" for number in itertools.count())
    absent = [{"id": 100 + n, "file_name": next(names), "width": 9, "height": 9} for n in range(5)]
    folder.document["images"][:0] = absent
    folder.write()
    assert find_source(folder.annotations).images == folder.images
