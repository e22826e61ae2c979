"""Ranges of numbers are checked where a part is made."""

from __future__ import annotations

import math
from typing import Annotated

import pytest

from rankdet.ranges import Count, Fraction, NonNegative, OpenFraction, Positive, Range, checked


@checked
class Part:
    def __init__(
        self,
        weight: NonNegative = 1.0,
        *,
        num: Count | None = None,
        stds: tuple[Positive, ...] = (1.0,),
        angle: Annotated[float, Range(ge=0, lt=180)] = 0.0,
        share: Fraction = 0.5,
        prior: OpenFraction = 0.5,
        name: str = "",
    ) -> None:
        self.values = (weight, num, stds, angle, share, name)


def test_numbers_within_their_ranges_arrive_as_they_are() -> None:
    part = Part(0, num=3, stds=[0.1, 2], angle=179.9, share=1, name="x")  # type: ignore[arg-type]
    assert part.values == (0, 3, [0.1, 2], 179.9, 1, "x")
    assert Part().values == (1.0, None, (1.0,), 0.0, 0.5, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.1}, "Part: weight must be at least 0, got -0.1"),
        ({"weight": math.nan}, "Part: weight must be finite, got nan"),
        ({"weight": math.inf}, "Part: weight must be finite, got inf"),
        ({"num": 10**400}, f"Part: num must be finite, got {10**400}"),
        ({"weight": -(10**400)}, f"Part: weight must be finite, got {-(10**400)}"),
        ({"num": 0}, "Part: num must be at least 1, got 0"),
        ({"stds": (1.0, 0.0)}, "Part: stds must be greater than 0, got 0.0"),
        ({"angle": 180}, "Part: angle must be less than 180, got 180"),
        ({"share": 1.1}, "Part: share must be at most 1, got 1.1"),
        ({"prior": 1.0}, "Part: prior must be less than 1, got 1.0"),
        ({"prior": 0.0}, "Part: prior must be greater than 0, got 0.0"),
    ],
)
def test_a_number_out_of_range_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        Part(**arguments)  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_unknown_arguments_are_refused_as_ever() -> None:
    with pytest.raises(TypeError, match="wieght"):
        Part(wieght=1.0)  # type: ignore[call-arg]
