"""Whether there is something to compare with."""

import importlib.metadata

import pytest


def test_mmdetection_has_the_version_that_is_compared() -> None:
    try:
        version = importlib.metadata.version("mmdet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs an environment with mmdetection 3.3.0: docs/equality.md says how to make one")
    assert version == "3.3.0"
