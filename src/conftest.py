"""What pytest leaves alone when it looks for doctests here: modules that import what is not installed."""

from importlib.util import find_spec

NEEDED = {
    "rankdet/losses/kernels/negatives.py": "triton",
    "rankdet/adapters/transformers.py": "transformers",
    "rankdet/adapters/mmdet.py": "mmdet",
}

# Importing rfdetr warns; tests/adapters/test_rfdetr.py runs the example of its adapter.
collect_ignore = ["rankdet/adapters/rfdetr.py"]
collect_ignore += [path for path, package in NEEDED.items() if find_spec(package) is None]
