"""Fixtures that tests of losses share."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="needs numba")


@pytest.fixture(params=["torch", pytest.param("numba", marks=needs_numba)])
def each_implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test of the module runs once with each ``IMPLEMENTATION``, which is a global name of it."""
    monkeypatch.setattr(request.module, "IMPLEMENTATION", request.param)
