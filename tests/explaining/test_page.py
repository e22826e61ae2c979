"""The page and the image of an explanation: figures of the explanation, no error, no request, small."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rankdet import cli
from rankdet.explaining import Explanation, draw_explanations, explain, worked_example, write_explanations
from rankdet.recipes import load_recipe
from rankdet.runs.checkpoint import save_checkpoint

from ..browser import CHROMIUM, Page, browser, check_quiet


class Tables(HTMLParser):
    """The tables of a page, in their order: what a cell holds, exactly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[list[list[str]]] = []
        self._text, self._exact = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.found.append([])
        elif tag == "tr":
            self.found[-1].append([])
        elif tag in ("td", "th"):
            self._text, self._exact = "", dict(attributes).get("data-value") or ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.found[-1][-1].append(self._exact or self._text)


@pytest.fixture(scope="module")
def many() -> Explanation:
    """As large as that of a detector: 400 positives among 100,000 logits."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(100_000, generator=generator)
    targets = torch.zeros(100_000)
    targets[:400] = torch.rand(400, generator=generator).clamp(min=0.01)
    return explain(logits, targets, title="<b>many</b>")


def test_figures_of_the_page_are_those_of_the_explanation(tmp_path: Path) -> None:
    found = worked_example(delta=0.5)
    write_explanations([found], tmp_path / "page.html")
    errors, ranking, sorting, candidates = Tables((tmp_path / "page.html").read_text()).found
    columns = dict(zip(errors[0], np.array(errors[1:]).T, strict=True))
    for part in found.parts:
        assert columns[f"{part.name} ℓ"].astype(float).tolist() == part.error.tolist()
        assert columns[f"{part.name} ℓ*"].astype(float).tolist() == part.target_error.tolist()
        assert columns[f"gradient of {part.name}"].astype(float).tolist() == part.gradient[found.positives].tolist()
    assert columns["gradient"].astype(float).tolist() == found.gradient[found.positives].tolist()
    for table, part in zip((ranking, sorting), found.parts, strict=True):
        assert table[0][1:-1] == [str(place) for place in range(8)]
        assert np.array(table[1:])[:, 1:-1].astype(float).tolist() == part.terms.tolist()
    assert [float(row[-1]) for row in candidates[1:]] == found.gradient.tolist()


def test_a_page_of_many_samples_what_it_draws_and_says_so(many: Explanation, tmp_path: Path) -> None:
    write_explanations([many, worked_example()], tmp_path / "page.html", ["Head mask is <not> explained."])
    html = (tmp_path / "page.html").read_text()
    assert len(html) < 5e6
    reached = int((many.gradient[many.negatives] != 0).sum())
    assert f"Of 99600 negatives {reached} have a gradient; 300 of these are drawn, evenly" in html
    assert "300 of 400 positives are drawn." in html
    assert "Primary terms are shown of 30 positives and 30 negatives; the column of all others has the sum" in html
    assert "&lt;b&gt;many&lt;/b&gt;" in html
    assert "Head mask is &lt;not&gt; explained." in html
    table = Tables(html).found[0]
    assert len(table) == 401
    assert float(table[200][3]) == many.parts[0].error[199]


def test_small_terms_are_scaled_which_the_heading_says(tmp_path: Path) -> None:
    """A thousand negatives above a positive: each has a thousandth of its error."""
    found = explain([0.0, *range(1, 1001)], [0.5] + [0] * 1000, delta=0)
    write_explanations([found], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "<h3>ranking, times 1,000</h3>" in html
    row = [float(text) for text in Tables(html).found[1][1][1:]]
    assert row[:30] == pytest.approx([1000 / 1001] * 30)
    assert row[30:] == pytest.approx([970 * 1000 / 1001, 1000 * 1000 / 1001])


@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_every_loss_has_a_page(delta: float, tmp_path: Path) -> None:
    for loss in ("rank_sort", "average_precision", "alrp"):
        write_explanations([worked_example(loss, delta)], tmp_path / "page.html")  # type: ignore[arg-type]
        said = "The paper prints" in (tmp_path / "page.html").read_text()
        assert said == (loss == "rank_sort" and delta == 0)


def test_explanations_are_drawn_one_below_the_other(tmp_path: Path) -> None:
    nothing = explain([2.0, 1.0, 0.0], [0, 0, -1])
    heights = []
    for drawn in ([worked_example("alrp")], [worked_example(), nothing]):
        draw_explanations(tmp_path / "image.png", drawn)
        with Image.open(tmp_path / "image.png") as image:
            heights.append(image.height)
            assert np.asarray(image.convert("L")).std() > 10
    assert heights[1] == 2 * heights[0]


@pytest.mark.parametrize("targets", [[0, 0, -1], [0.5, 0, 0]])
def test_where_nothing_is_to_be_learned_this_is_said(targets: list[float], tmp_path: Path) -> None:
    found = explain([2.0, 1.0, 0.0], targets, delta=0)
    write_explanations([found], tmp_path / "page.html")
    said = "There is no positive." if targets[0] == 0 else "Nothing is at fault"
    assert (tmp_path / "page.html").read_text().count(said) == 2


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rankdet", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_the_command_explains_the_example_a_file_and_a_run(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "explain", "--png", "a/example.png", "--out", "b/example.html") == 0
    assert "ranking 0.2071, sorting 0.0375" in capsys.readouterr().out
    assert Path("a/example.png").exists()
    assert Path("b/example.html").exists()
    Path("given.csv").write_text("logit,target\n1,0\n0,1\n")
    assert call(monkeypatch, "explain", "given.csv", "--loss", "average_precision", "--delta", "0") == 0
    assert "given.csv: AP Loss, δ = 0: precision 0.5000. It ranks 1 positive, 1 negative." in capsys.readouterr().out
    recipe = load_recipe("rs_faster_rcnn_shapes", {"data.folder": str(shapes_folder)})
    categories = recipe.data.build_test_dataset().categories
    network = recipe.detector.build(len(categories), pretrained=False)
    state = {"detector": network.state_dict(), "recipe": recipe.model_dump(mode="json"), "categories": categories}
    save_checkpoint(tmp_path / "run.pt", state | {"thresholds": None, "calibration": None, "operating_point": None})
    assert call(monkeypatch, "explain", "run.pt", "--image", "1", "--head", "rcnn", "--device", "cpu") == 0
    out = capsys.readouterr().out
    assert out.startswith("Head rcnn: Rank & Sort Loss, δ = 0.5: ranking ")
    assert "written: explanation.html" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "1"), "--data, --split, --annotations, --images, --image and --head are for a run"),
        (("run.pt", "--loss", "alrp"), "--loss and --delta are for a file: a run has losses of its own"),
        (("--png", "image.jpg"), "the file must end in .png, .svg or .pdf"),
        (("--out", "."), "is a folder: --out is the HTML file to write"),
        (("none.npz",), "there is no such file"),
        (("run.pt", "--data", "a", "--annotations", "b"), "give --data or --annotations, not both"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "explain", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_opens_without_an_error_or_a_request_and_fits(
    page: Page, many: Explanation, tmp_path: Path, width: int, dark: bool
) -> None:
    file = tmp_path / "page.html"
    write_explanations([worked_example(), many, worked_example("alrp")], file)
    page.open(file, width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.querySelectorAll('figure.chart svg[role=img][aria-label]').length") == 12
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark
    for _ in range(12):
        page.press("Tab")
    assert page.run("document.activeElement.tagName") in ("A", "BUTTON", "DIV")
    page.run("document.querySelector('thead button').click()")
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
    check_quiet(page, file)
