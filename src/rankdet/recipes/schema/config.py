"""What every part of a recipe has in common, and how its mistakes are reported."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen part of a recipe: unknown fields are refused, and the text under a field describes it."""

    if TYPE_CHECKING:  # fields of parts are not known to type checkers

        def __init__(self, **fields: Any) -> None: ...

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def input_error(message: str) -> ValueError:
    """An InputError, whose module imports torch: a recipe without mistakes never needs it."""
    from rankdet.structures import InputError

    return InputError(message)


def suggestion(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'lr'?"`` for a name that is close to a known one, otherwise nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
