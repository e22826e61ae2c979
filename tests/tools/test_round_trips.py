"""Real tools read a data set and write it in all forms; `-m slow` installs each and compares with docs/formats.md."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

import rankdet

HERE = Path(__file__).resolve().parent
NAMES = (
    "datumaro", "supervision", "labelme2coco", "globox", "sahi", "pylabel", "label_studio", "fiftyone", "ultralytics",
    "hotcoco",
)  # fmt: skip


@pytest.fixture(scope="module")
def trips() -> ModuleType:
    sys.path.insert(0, str(HERE))
    try:
        import round_trips
    finally:
        sys.path.remove(str(HERE))
    return round_trips


@pytest.fixture(scope="module")
def original(trips: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trips.make_original(tmp_path_factory.mktemp("tools") / "original")


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("environments")


def test_the_original_has_everything_that_tools_lose(trips: ModuleType, original: Path) -> None:
    row = trips.measured("–", original, original)
    assert (row.images, row.objects, row.crowds, row.empty) == ("12 of 12", "33 of 33", "1 of 1", "2 of 2")
    assert row.boxes == "exact"
    assert row.masks == "plain 24/24, holes 1/1, parts 8/8"
    assert row.box_ap == pytest.approx(1)
    assert row.mask_ap == pytest.approx(1)


def test_every_tool_has_a_case(trips: ModuleType) -> None:
    assert [tool.script for tool in trips.TOOLS] == [f"of_{name}.py" for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_a_tool_loses(
    name: str, trips: ModuleType, original: Path, environments: Path, tmp_path: Path
) -> None:
    tool = next(each for each in trips.TOOLS if each.script == f"of_{name}.py")
    try:
        rows = trips.rows_of(tool, original, tmp_path, environments)
    except OSError as error:
        pytest.skip(str(error))
    page = trips.PAGE.read_text(encoding="utf-8").splitlines()
    assert [row for row in trips.table(rows).splitlines()[2:] if row not in page] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form"), [("datumaro", "COCO"), ("supervision", "YOLO boxes"), ("globox", "CVAT")])
def test_an_export_trains(
    name: str, form: str, trips: ModuleType, original: Path, environments: Path, tmp_path: Path
) -> None:
    tool = next(each for each in trips.TOOLS if each.script == f"of_{name}.py")
    try:
        trips.export(tool, original, tmp_path / "out", environments)
    except OSError as error:
        pytest.skip(str(error))
    changes = {"schedule.iterations": 3, "schedule.warmup_iterations": 1, "data.batch_size": 2, "data.workers": 0}
    run = rankdet.train(
        "rs_faster_rcnn_shapes",
        data=tmp_path / "out" / form,
        out=tmp_path / "run",
        changes=changes | {"runtime.device": "cpu"},
    )
    assert 0 <= run.metrics["AP"] <= 1
