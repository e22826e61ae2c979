"""Reports: tables, curves, images and an HTML page from numbers and detections."""

from rankdet.extras import require

require(__name__)

from rankdet.report.curves import History, Panel, Series, draw_curves, draw_equal_budgets, select_series
from rankdet.report.images import class_color, draw_detections, draw_grid, write_image
from rankdet.report.page import Illustration, Section, write_page
from rankdet.report.tables import Table, comparison_table, format_value, markdown_table, per_class_table

__all__ = [
    "History",
    "Illustration",
    "Panel",
    "Section",
    "Series",
    "Table",
    "class_color",
    "comparison_table",
    "draw_curves",
    "draw_detections",
    "draw_equal_budgets",
    "draw_grid",
    "format_value",
    "markdown_table",
    "per_class_table",
    "select_series",
    "write_image",
    "write_page",
]
