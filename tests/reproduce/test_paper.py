"""The figures of the paper: whole, and as they were transcribed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rankdet.reproduce import Table, all_tables

BOX = ("AP", "AP50", "AP75", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
SIZES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
SHORT = ("AP", "AP50", "AP75", "oLRP")
CELLS = ("const_1", "const_2", "const_3", "sb_value", "sb_magnitude")
INSTANCES = ("desired_instance_rpn", "desired_instance_rcnn", "actual_instance_rpn", "actual_instance_rcnn")

COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "1": ("table_1", (*BOX, "H")),
    "3": ("table_3", SIZES),
    "4": ("table_4", ("AP_mask", "AP50_mask", "AP75_mask", "oLRP_mask", "AP_box", "H")),
    "5": ("table_5", ("AP_mask", "AP_r", "AP_c", "AP_f", "AP_box")),
    "7": ("table_7", (*SHORT, "H")),
    "8": ("table_8", SIZES),
    "9": ("table_9", ("AP", "H")),
    "10": ("table_10", ("desired_rpn", "desired_rcnn", "actual_rpn", "actual_rcnn", "AP")),
    "A.13": ("table_A13", ("AP",)),
    "A.14": ("table_A14", ("AP",)),
    "A.15": ("table_A15", SHORT),
    "A.16": ("table_A16", ("mask_AP", "mask_AP50", "mask_AP75", "box_AP", "box_AP50", "box_AP75")),
    "A.17": ("table_A17", (*INSTANCES, "actual_task_rpn", "actual_task_rcnn", "AP")),
    "A.18": ("table_A18", ("AP", "AP50", "AP75")),
    "A.20": ("table_A20", (*BOX, "fps")),
}
"""Our table → that of the transcription, and its columns of figures in our order."""


def transcribed(source: dict[str, Any], name: str) -> Iterator[Sequence[Any]]:
    """The figures of each of our rows, read from the transcription."""
    if name in COLUMNS:
        table, columns = COLUMNS[name]
        yield from ([row[column] for column in columns] for row in source[table]["rows"])
    elif name == "2":
        for row in source["table_2"]["rows"]:
            yield from ([*(row[detector][column] for column in SHORT), row["H"]] for detector in ("ATSS", "PAA"))
    elif name == "6":
        for row in source["table_6"]["rows"]:
            yield [*(row[part][column] for part in ("mask", "box") for column in SHORT), row["H"]]
    elif name == "A.11":
        yield from ([row[cell]] for row in source["table_A11"]["rows"] for cell in CELLS)
    elif name == "A.12":
        for row in source["table_A12"]["rows"]:
            yield row["heavy_epoch_1"], row["heavy_epoch_100"]
            yield row["standard_epoch_1"], row["standard_epoch_12"]
    elif name == "A.19":
        columns = ("standard_loss_sec", "rs_loss_sec")
        yield from ([row[column]] for row in source["table_A19"]["rows"] for column in columns)
    else:
        values = source["text_numbers"]["spearman_rs_rcnn"]
        for form in ("without", "with"):
            yield values[f"{form}_sorting_all"], values[f"{form}_sorting_last100"]


def of_paper() -> dict[str, Table]:
    return {name: table for name, table in all_tables().items() if table.setup is not None}


def test_every_table_of_the_paper_is_there():
    assert list(of_paper()) == [*map(str, range(1, 11)), *(f"A.{number}" for number in range(11, 21)), "sorting"]


def test_figures_equal_their_transcription(shared: Callable[..., Path]):
    source = yaml.safe_load(shared("spec", "paper_tables.yaml").read_text(encoding="utf-8"))
    for name, table in of_paper().items():
        assert [list(row.figures) for row in table.rows] == [list(row) for row in transcribed(source, name)], name


def test_settings_equal_their_transcription(shared: Callable[..., Path]):
    """So that no figure stands in the row of another."""
    source = yaml.safe_load(shared("spec", "paper_tables.yaml").read_text(encoding="utf-8"))
    for name, column in (("1", "method"), ("3", "method"), ("4", "method"), ("8", "method"), ("A.20", "method")):
        place = all_tables()[name].settings.index("method")
        methods = [row[column] for row in source[COLUMNS[name][0]]["rows"]]
        assert [row.settings[place] for row in all_tables()[name].rows] == methods


def test_detectors_of_others_are_references():
    references = {row.name for row in all_tables()["1"].rows if row.reference}
    assert references == {"iou_net", "libra_rcnn", "autoloss_a", "dynamic_rcnn"}
    assert not any(row.reference for row in all_tables()["A.11"].rows)


@pytest.mark.parametrize(
    "rows",
    [
        [{"name": "a", "settings": [1], "figures": [2.0]}, {"name": "a", "settings": [1], "figures": [2.0]}],
        [{"name": "a", "settings": [], "figures": [2.0]}],
        [{"name": "a", "settings": [1], "figures": [2.0, 3.0]}],
        [{"name": "a", "settings": [1], "figures": [float("nan")]}],
        [{"name": "a", "settings": [1], "figures": [2.0], "ours": True}],
    ],
)
def test_table_that_is_not_whole_is_refused(rows: list[dict]):
    with pytest.raises(ValidationError):
        Table.model_validate({"title": "", "setup": "", "settings": ["x"], "figures": ["AP"], "rows": rows})
