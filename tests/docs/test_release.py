"""Files that a release must keep in step: versions, and the checks that run before a commit and in CI."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from rankdet import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_names_the_same_version() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert re.findall(r'^version = "(.*)"$', project, re.MULTILINE) == [citation["version"]] == [__version__]


def test_the_changelog_starts_with_what_is_unreleased_or_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.*?)\]", changelog, re.MULTILINE)
    assert sections[0] in {"Unreleased", __version__}


def test_ci_runs_every_check_that_runs_before_a_commit() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    checked = {line.removesuffix(" .") for line in ci if line.startswith(".venv/bin/")}
    assert {hook["entry"] for hook in hooks} == checked
