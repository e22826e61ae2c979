"""Small data sets with one property each that real tools write: a few here, all by ``python tests/cases.py FOLDER``."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).with_name("cases.py")
SPEC = importlib.util.spec_from_file_location("cases", PATH)
assert SPEC is not None
assert SPEC.loader is not None
cases = importlib.util.module_from_spec(SPEC)
sys.modules["cases"] = cases  # where dataclasses look for the module of a class
SPEC.loader.exec_module(cases)

CHOSEN = ("00", "05", "09", "12b", "18", "54a", "d04", "d50")
"""Those of which each shows another rule."""


@pytest.mark.parametrize("name", CHOSEN)
def test_an_input_behaves_as_a_user_expects(name, shared, tmp_path):
    case = next(case for case in cases.CASES if case.name == name)
    is_ok, line = cases.run_case(case, shared("cases"), tmp_path)
    assert is_ok, line


def test_every_input_has_a_row(shared):
    folders = {entry.name for entry in shared("cases").iterdir() if entry.is_dir()}
    assert folders == {case.folder or case.name for case in cases.CASES} & folders
