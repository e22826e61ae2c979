"""Where mmdetection cannot be imported, one test says so, and the others are not looked at."""

import importlib.util
from pathlib import Path

ALWAYS = "test_version.py"

if importlib.util.find_spec("mmdet") is None:
    collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if path.name != ALWAYS]
