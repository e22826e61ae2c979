"""The page of a data set in a headless Chromium: no error, no request, and everything can be done by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rankdet.coco import encode_bitmap

from ..browser import CHROMIUM, Page, browser, check_quiet
from .scene import Scene, crowded, fill

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scene = Scene(tmp_path_factory.mktemp("set") / "a", classes=(HOSTILE, "dog"))
    fill(scene)
    image = scene.image(name="odd.png")
    scene.object(image, [50, 40, 40, 10], segmentation=[[50, 40, 90, 40, 90, 50, 50, 50]])
    scene.object(image, [5, 5, 20, 20], category=2)
    scene.object(scene.image(name="gone.png", pixels=False), [5, 5, 20, 20], category=2)
    scene.look()
    return scene.root / "look.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_opens_without_an_error_or_a_request_and_fits(page: Page, html: Path, width: int, dark: bool) -> None:
    page.open(html, width=width, dark=dark)
    assert page.run("document.querySelectorAll('.tile').length") == 8
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.title") == "a · rankdet look"
    assert page.run("document.querySelectorAll('img, script').length") == 2
    check_quiet(page, html)


def test_images_are_filtered_by_kind_class_split_and_name(page: Page, html: Path) -> None:
    page.open(html)
    tiles = "[...document.querySelectorAll('.tile .title span:first-child')].map(each => each.textContent).join()"
    assert page.run(tiles).startswith("gone.png,odd.png")
    page.run("[...document.querySelectorAll('#kinds button')].find(b => b.textContent.startsWith('leaves')).click()")
    assert page.run(tiles) == "odd.png"
    page.run("document.querySelector('#kinds .all').click()")
    choose = (
        "(id, value) => {{const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event({!r}))}}"
    )
    page.run(f"({choose.format('change')})('class', '1')")
    assert page.run(tiles) == "gone.png,odd.png"
    page.run(f"({choose.format('change')})('class', '')")
    page.run(f"({choose.format('change')})('split', '1')")
    assert page.run(tiles) == "001.png,002.png,003.png"
    page.run(f"({choose.format('input')})('file', '002')")
    assert page.run(tiles) == "002.png"
    assert page.run("document.getElementById('count').textContent") == "1 of 8 images"
    check_quiet(page, html)


def test_an_image_is_enlarged_and_left_by_keyboard(page: Page, html: Path) -> None:
    page.open(html)
    page.run("document.querySelectorAll('.tile')[1].focus()")
    page.press("Enter")
    assert page.run("document.getElementById('viewer').open")
    assert page.run("document.getElementById('name').textContent") == "odd.png"
    assert page.run("document.querySelectorAll('#objects button').length") == 2
    whole = page.run("document.getElementById('stage').getAttribute('viewBox')")
    page.run("document.querySelector('#objects button').click()")
    assert page.run("document.getElementById('stage').getAttribute('viewBox')") != whole
    page.press("0")
    assert page.run("document.getElementById('stage').getAttribute('viewBox')") == whole
    page.press("b")
    assert page.run("getComputedStyle(document.querySelector('#stage .o')).display") == "none"
    page.press("b")
    page.press("m")
    assert page.run("getComputedStyle(document.querySelector('#stage .m')).display") == "none"
    page.press("m")
    page.press("ArrowLeft")
    assert page.run("document.getElementById('name').textContent") == "gone.png"
    page.press("Escape")
    assert not page.run("document.getElementById('viewer').open")
    assert page.run("document.activeElement.className") == "tile"
    check_quiet(page, html)


def test_classes_are_sorted_found_copied_and_shown(page: Page, html: Path) -> None:
    page.open(html)
    rows = "[...document.querySelectorAll('#table tbody th')].map(each => each.textContent)"
    assert page.run(rows) == [HOSTILE, "dog"]
    page.run("document.querySelector('#table thead button').click()")
    page.run("document.querySelector('#table thead button').click()")
    assert page.run("document.querySelector('#table thead th').getAttribute('aria-sort')") == "descending"
    page.run("window.copied = ''; navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.run("document.getElementById('copy').click()")
    lines = page.run("window.copied").split("\n")
    assert lines[0].startswith("class,train objects,train images,val objects")
    assert any(line.startswith('"<img src=""https:') for line in lines)
    page.run("[...document.querySelectorAll('#table tbody button')].find(b => b.textContent === 'dog').click()")
    assert page.run("document.querySelectorAll('.tile').length") == 2
    check_quiet(page, html)


@pytest.mark.parametrize(("images", "objects", "classes"), [(1, 1, 1), (130, 4, 3), (6, 300, 1200)])
def test_pages_of_any_size_work(page: Page, tmp_path: Path, images: int, objects: int, classes: int) -> None:
    scene = crowded(tmp_path / "set", images, objects, 96, classes)
    scene.object(1, [0, 0, 96, 96], "val", segmentation=encode_bitmap(scene.random.random((96, 96)) > 0.5))
    scene.look()
    file = scene.root / "look.html"
    page.open(file)
    assert page.run("document.querySelectorAll('#table tbody tr').length") == classes
    page.run("document.querySelector('.tile').click()")
    page.press("ArrowRight")
    assert page.run("document.getElementById('place').textContent") == f"{min(2, images)} of {images}"
    check_quiet(page, file)
