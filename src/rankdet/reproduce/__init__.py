"""The command ``rankdet reproduce``: tables of the paper, with its figures beside those of own runs, and our own."""

from rankdet.extras import require

require(__name__)

from rankdet.reproduce.paper import Table, TableRow, all_tables
from rankdet.reproduce.plan import Plan, make_plan, overview

__all__ = ["Plan", "Table", "TableRow", "all_tables", "make_plan", "overview"]
