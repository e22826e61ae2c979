"""The command ``rankdet reproduce``: tables of the paper, with its printed figures beside those of own runs."""

from rankdet.reproduce.paper import PaperRow, PaperTable, paper_tables
from rankdet.reproduce.plan import Plan, make_plan, overview

__all__ = ["PaperRow", "PaperTable", "Plan", "make_plan", "overview", "paper_tables"]
