"""Build the documentation site: `python docs/site/build.py [FOLDER]` writes FOLDER/site, by default build/docs/site.

Its pages are those of docs/, README.md and the other pages beside it. Links between them are those that a host of
Markdown follows; here they become links between the pages of the site. Notebooks are run, and shown with what they
print and draw. Whatever is said against a page is an error, and so is every broken link.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
DOCS, SITE = ROOT / "docs", ROOT / "docs" / "site"
CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)\s#]+)(?=(?:#[^)\s]*)?\))")
COMPLAINT = re.compile(r"^(?:griffe|mkdocstrings)\b.*|.*\bwarning\b.*", re.IGNORECASE | re.MULTILINE)


def place(file: Path) -> Path:
    """Where a file or folder of the repository is among the pages of the site."""
    if file.is_dir():
        file /= "index.md"
    if file.name == "README.md":
        file = file.with_name("index.md")
    if file.parent == DOCS / "notebooks":
        file = file.with_suffix(".md")
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS)
    return Path(file.name.lower() if file.suffix == ".md" else file.name)


def copy_page(file: Path, pages: Path) -> None:
    """Copy a page with links to where their targets are on the site, and what it links to beside docs/."""

    def link(match: re.Match[str]) -> str:
        target = (file.parent / match[0]).resolve()
        if target.suffix != ".md" and target.is_file() and not target.is_relative_to(DOCS):
            shutil.copy(target, pages / place(target))
        return os.path.relpath(place(target), place(file).parent)

    parts = CODE.split(file.read_text(encoding="utf-8"))
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    (pages / place(file)).write_text("".join(parts), encoding="utf-8")


def copy_notebook(file: Path, pages: Path, is_run: bool) -> None:
    """Write a notebook as a page, with what its cells print and draw, which it does in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, SITE / "notebooks.py", file, pages / "notebooks", *([] if is_run else ["--unrun"])]
        subprocess.run(command, cwd=folder, check=True)


def list_of(tables: Path) -> str:
    """The page of all tables of a folder, by their titles."""
    titles = {file: file.read_text(encoding="utf-8").partition("\n")[0] for file in sorted(tables.glob("*.md"))}
    lines = [
        f"* [{file.stem.removeprefix('table_')}]({file.name}): {title.partition(': ')[2]}"
        for file, title in titles.items()
    ]
    return "\n".join(["# All tables", "", "What `rankdet reproduce` wrote, each with its command.", "", *lines, ""])


class Page(HTMLParser):
    """The names of a page's elements, where its links lead, and what it loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.names: set[str] = {""}
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.names |= {values.get("id", ""), values.get("name", "")}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif "src" in values or (tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload")):
            self.loaded.add(values.get("src") or values["href"])


def broken_links(site: Path) -> Iterator[str]:
    """Links and images of the built pages that lead nowhere, and whatever a page would load from elsewhere."""
    pages = {file: Page(file) for file in site.rglob("*.html") if file.name != "404.html"}  # its links are absolute
    for file, page in pages.items():
        for link in sorted(page.links | page.loaded):
            url = urlsplit(link)
            target = (file.parent / unquote(url.path)).resolve() if url.path else file
            is_elsewhere = bool(url.scheme or url.netloc)
            if is_elsewhere and link in page.loaded and url.scheme != "data":
                yield f"{file.relative_to(site)} loads {link}"
            elif not is_elsewhere and not target.is_file():
                yield f"{file.relative_to(site)}: {link} does not exist"
            elif not is_elsewhere and target in pages and unquote(url.fragment) not in pages[target].names:
                yield f"{file.relative_to(site)}: {link} has no such anchor"


def main(folder: Path, run_notebooks: bool = True) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.json", "site", "__pycache__"))
    for file in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        copy_page(file, pages)
    for file in (DOCS / "notebooks").glob("*.py"):
        copy_notebook(file, pages, run_notebooks)
    (pages / "tables" / "index.md").write_text(list_of(DOCS / "tables"), encoding="utf-8")
    for name in ("site.css", "iframe-worker.js"):
        shutil.copy(SITE / name, pages)
    for name in ("zensical.toml", "docstrings.py"):
        shutil.copy(SITE / name, folder)
    (folder / "src").symlink_to(ROOT / "src")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="")
    problems = [*COMPLAINT.findall(done.stdout), *broken_links(folder / "site")] if done.returncode == 0 else []
    if done.returncode or problems:
        sys.exit("\n".join(["The site is not fit to be shown:", *problems]))
    print(folder / "site" / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").resolve())
