"""What every part of a recipe has in common."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen part of a recipe: unknown fields are refused, and the text under a field describes it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
