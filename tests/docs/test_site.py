"""The documentation site: it builds without a complaint, names everything public, and asks nobody else for anything."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from ..browser import CHROMIUM, browser

ROOT = Path(__file__).resolve().parents[2]
DOCS, PACKAGE = ROOT / "docs", ROOT / "src" / "rankdet"
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
missing = [name for name in ("zensical", "mkdocstrings", "griffe", "latex2mathml") if find_spec(name) is None]
needs_zensical = pytest.mark.skipif(bool(missing), reason=f"pip install 'rankdet[docs]': no {', '.join(missing)}")


def script(name: str) -> ModuleType:
    """A script of docs/site/."""
    spec = spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return script("build")


def public_names() -> dict[str, list[str]]:
    """``__all__`` of every package that has one; those of kernels are called by losses alone."""
    found = {}
    for file in set(PACKAGE.rglob("__init__.py")) - set(PACKAGE.rglob("kernels/**/__init__.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                found[".".join(file.parent.relative_to(ROOT / "src").parts)] = ast.literal_eval(node.value)
    return found


def test_every_public_name_is_in_the_reference() -> None:
    shown = re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE)
    assert len(shown) == len(set(shown))
    named = set(re.findall(r"`(\w+)`", REFERENCE))  # a name of two packages is shown once, and named for the other
    last = {name.rpartition(".")[2] for name in shown}
    names = public_names()
    assert {"rankdet", "rankdet.losses", "rankdet.data.layouts", "rankdet.adapters.torchvision"} <= set(names)
    absent = [
        f"{package}.{name}"
        for package, all_names in names.items()
        for name in all_names
        if f"{package}.{name}" not in shown and not {name} <= named & last
    ]
    assert not absent


def test_every_page_has_its_place_in_the_navigation(build: ModuleType) -> None:
    settings = (DOCS / "site" / "zensical.toml").read_text(encoding="utf-8")
    listed = set(re.findall(r'"([\w/.-]+\.md)"', settings))
    pages = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("reference/*.md"), *DOCS.glob("notebooks/*.py")]
    assert {str(build.place(page)) for page in [*pages, DOCS / "tables"]} == listed


def test_every_table_is_listed_by_its_title(build: ModuleType) -> None:
    page = build.list_of(DOCS / "tables")
    assert set(re.findall(r"\((table_\S+)\)", page)) == {table.name for table in (DOCS / "tables").glob("*.md")}
    assert "\n* [real-bccd](table_real-bccd.md): Standard and RS forms on real images\n" in page


def test_what_leads_nowhere_is_told(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="there">x</h1><a href="b.html#there">.</a><a href="#there">.</a><a href="https://example.org">.</a>'
        '<img src="no.png"><a href="c.html">.</a><a href="b.html#gone">.</a><script src="https://cdn.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<p id="there"><img src="data:image/png;base64,"><a href="..">.</a></p>')
    assert sorted(build.broken_links(tmp_path)) == [
        "a.html loads https://cdn.org/x.js",
        "a.html: b.html#gone has no such anchor",
        "a.html: c.html does not exist",
        "a.html: no.png does not exist",
        "b.html: .. does not exist",
    ]


NOTEBOOK = """\
# %% [markdown]
# # Title
#
# A [link](../formats.md).

# %%
x = 2
print("printed")
x + 1

# %%
# !python -c "print(6 * 7)"

# %%
import matplotlib.pyplot as plt

_ = plt.plot([1, 2])

# %%
from PIL import Image

Image.new("RGB", (4, 3))
"""


def test_a_notebook_is_shown_with_what_its_cells_print_and_draw(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NOTEBOOK)
    script("notebooks").main(tmp_path / "mine.py", tmp_path, is_run=True)
    page = (tmp_path / "mine.md").read_text()
    assert page.startswith("# Title\n\nA [link](../formats.md).\n\n```python\nx = 2\n")
    assert re.findall(r"```text\n(.*?)\n```", page, re.DOTALL) == ["printed\n3", "42"]
    images = re.findall(r"!\[.*\]\((.*)\)", page)
    assert images == ["mine_4_0.png", "mine_5_0.png"]
    assert [(tmp_path / name).read_bytes()[:4] for name in images] == [b"\x89PNG"] * 2
    cells = json.loads((tmp_path / "mine.ipynb").read_text())["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", *["code"] * 4]
    assert cells[2]["source"] == """!python -c "print(6 * 7)\""""
    assert cells[1]["outputs"][0]["text"] == "printed\n3\n"


def test_a_cell_that_fails_fails_the_notebook(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("# %%\n# !python -c 'raise SystemExit(3)'\n")
    with pytest.raises(subprocess.CalledProcessError):
        script("notebooks").main(tmp_path / "mine.py", tmp_path, is_run=True)


@needs_zensical
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_the_site_builds_and_its_pages_are_quiet_and_fit_and_are_searched_from_a_disk(
    build: ModuleType, tmp_path: Path
) -> None:
    build.main(tmp_path, run_notebooks=False)  # .ci/site runs them
    site = tmp_path / "site"
    with browser(tmp_path / "profile") as page:
        for name in ("index", "results", "notebooks/own_data", "reference/losses"):
            for width, dark in ((390, True), (1280, False)):
                page.open(site / f"{name}.html", width=width, dark=dark)
                assert page.run("document.documentElement.scrollWidth") <= width, (name, width)
                assert page.run("[...document.images].every(each => each.naturalWidth > 0)"), name
                background = page.run("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128) is dark, (name, background)
        page.run("document.querySelector('.md-search__button').click()")
        page.call("Input.insertText", text="EqualizationLossV2")
        links = """[...document.querySelectorAll('*')].filter(each => each.shadowRoot)
            .flatMap(each => [...each.shadowRoot.querySelectorAll('a')]).map(each => each.href)"""
        end = time.monotonic() + 60
        while not any("reference/losses.html" in link for link in page.run(links)):
            assert time.monotonic() < end, page.run(links)
            time.sleep(0.1)
        assert page.problems == []
        assert {url for url in page.requests if not url.startswith(site.as_uri())} == set()


@needs_zensical
def test_an_equation_is_mathml_and_a_name_of_the_reference_a_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from griffe import Docstring, Function

    module = script("docstrings")
    (tmp_path / "pages" / "reference").mkdir(parents=True)
    (tmp_path / "pages" / "reference" / "a.md").write_text("::: rankdet.losses.ap_loss\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "docstrings.py"))
    text = "See :func:`ap_loss`, `other` and ``x``.\n\n.. math::\n\n    a &= b \\\\\n    c &= d\n\nThe end :math:`s_i`."
    function = Function("f", docstring=Docstring(text))
    module.Markdown().on_object(obj=function)
    assert function.docstring is not None
    lines = function.docstring.value.splitlines()
    assert lines[0] == "See [`ap_loss`][rankdet.losses.ap_loss], `other` and ``x``."
    assert lines[2].startswith('<div class="equation"><math')
    assert lines[2].count("<mtr>") == 2
    assert lines[-1].startswith("The end <math")
