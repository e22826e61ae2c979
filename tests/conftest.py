"""What the tests of every room share."""

from collections.abc import Callable
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def shared() -> Callable[..., Path]:
    """The path of a file of the shared material beside the checkout; the test is skipped where it is absent."""

    def find(*parts: str) -> Path:
        path = SHARED.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"needs ../shared/{'/'.join(parts)}, which is not beside this checkout")
        return path

    return find
