"""Recipes of the rows of the paper's tables. A table is a function that lists its rows.

A row of the paper that is not listed has published figures only. To add one, list a `Family`, or a change of one,
under the name that the row has in ``paper_tables.yaml``.
"""

from collections.abc import Callable

from . import one_stage, solov2, two_stage, yolact
from .rows import Family, Row


def table_a19() -> list[Row]:
    """Return the rows of Table A.19: standard and ranking form of each detector."""
    return [
        two_stage.FASTER_RCNN.row("faster_rcnn-standard"),
        two_stage.RS_FASTER_RCNN.row("faster_rcnn-rs"),
        two_stage.CASCADE_RCNN.row("cascade_rcnn-standard"),
        two_stage.RS_CASCADE_RCNN.row("cascade_rcnn-rs"),
        two_stage.MASK_RCNN.row("mask_rcnn-standard"),
        two_stage.RS_MASK_RCNN.row("mask_rcnn-rs"),
        one_stage.ATSS_STANDARD.row("atss-standard"),
        one_stage.RS_ATSS.row("atss-rs"),
        one_stage.PAA_STANDARD.row("paa-standard"),
        one_stage.RS_PAA.row("paa-rs"),
        yolact.YOLACT.row("yolact-standard"),
        yolact.RS_YOLACT.row("yolact-rs"),
        solov2.SOLOV2_LIGHT.row("solov2_light-standard"),
        solov2.RS_SOLOV2_LIGHT.row("solov2_light-rs"),
    ]


def nothing_yet() -> list[Row]:
    """Return no rows, for a table with published figures only."""
    return []


TABLES: dict[str, Callable[[], list[Row]]] = {
    "1": two_stage.table_1,
    "2": one_stage.table_2,
    "3": two_stage.table_3,
    "4": two_stage.table_4,
    "5": two_stage.table_5,
    "6": yolact.table_6,
    "7": solov2.table_7,
    "8": two_stage.table_8,
    "9": one_stage.table_9,
    "10": two_stage.table_10,
    "A.11": one_stage.table_a11,
    "A.12": two_stage.table_a12,
    "A.13": one_stage.table_a13,
    "A.14": one_stage.table_a14,
    "A.15": two_stage.table_a15,
    "A.16": yolact.table_a16,
    "A.17": two_stage.table_a17,
    "A.18": two_stage.table_a18,
    "A.19": table_a19,
    "A.20": two_stage.table_a20,
    "sorting": nothing_yet,
}
"""For each table the rows that can be trained. The names are those of ``paper_tables.yaml``."""

__all__ = ["TABLES", "Family", "Row"]
