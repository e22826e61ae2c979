"""The tables: those of the paper with the figures that it prints, and our own, as data of the package."""

from __future__ import annotations

import functools
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

Setting = bool | int | float | str | None


class _Printed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TableRow(_Printed):
    """One row of a table, or one cell of a table of the paper with one figure per cell."""

    name: str
    """Name of the row for ``--rows``."""
    settings: tuple[Setting, ...]
    """One value for each of the table's settings."""
    figures: tuple[int | float | None, ...] = ()
    """One value for each of the table's figures; None if nothing is printed."""
    reference: bool = False
    """True if the row quotes a detector of others, which is not trained here."""


class Table(_Printed):
    """One table of the paper, or one of our own, without printed figures."""

    title: str
    """Subject of the table."""
    setup: str | None = None
    """Detector and data of the paper's measurements; None: the table is our own."""
    note: str | None = None
    """Remarks that are necessary to read the figures."""
    settings: tuple[str, ...]
    """Names of the settings that distinguish the rows."""
    figures: tuple[str, ...] = ()
    """Names of the figures; AP and oLRP are in percent. Those that every table has need no mention."""
    rows: tuple[TableRow, ...]
    """Rows in their order."""

    @model_validator(mode="after")
    def _is_whole(self) -> Table:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"names of rows repeat: {names}")
        for row in self.rows:
            if (len(row.settings), len(row.figures)) != (len(self.settings), len(self.figures)):
                raise ValueError(f"row {row.name} has not one value for each setting and figure")
        return self

    def row(self, name: str) -> TableRow:
        """Return the row of a name; raises KeyError if there is none."""
        return {row.name: row for row in self.rows}[name]

    def printed(self, row: TableRow) -> dict[str, int | float | None]:
        """Return the figures of a row by name."""
        return dict(zip(self.figures, row.figures, strict=True))


@functools.cache
def all_tables() -> dict[str, Table]:
    """Return all tables by name.

    Those of the paper are ``1`` to ``10``, ``A.11`` to ``A.20``, and ``sorting`` for figures of its text.

    Examples
    --------
    >>> table = all_tables()["1"]
    >>> table.printed(table.row("rs"))["AP"]
    39.6
    """
    files = [resources.files("rankdet.reproduce").joinpath(name) for name in ("paper_tables.yaml", "own_tables.yaml")]
    reader = TypeAdapter(dict[str, Table])
    paper, own = (reader.validate_python(yaml.safe_load(file.read_text(encoding="utf-8"))) for file in files)
    return paper | own
