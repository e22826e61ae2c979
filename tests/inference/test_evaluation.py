"""Evaluation, ranking quality, detection in files, and the time of losses."""

import io
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from rankdet.data import CocoDataset, SampleKey, find_layout
from rankdet.inference.detections import Detections
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.evaluation import evaluate_model, evaluate_on_folder, store_thresholds
from rankdet.inference.files import find_images
from rankdet.inference.loading import load
from rankdet.inference.model import Model
from rankdet.inference.profiling import loss_seconds
from rankdet.inference.ranking_quality import rank_qualities, ranking_quality
from rankdet.recipes import Recipe, load_recipe
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.processes import joined_world
from rankdet.structures import Batch, Candidates, Detection, Images, InputError, LossOutput, Matched
from rankdet.training.running import train

Load = Callable[..., Recipe]
CPU = torch.device("cpu")


class Oracle(nn.Module):
    """Finds every object of a data set; answers in pixels of the resized image, as detectors do."""

    def __init__(self, dataset: CocoDataset) -> None:
        super().__init__()
        self.dataset, self.next = dataset, 0

    def detect(self, images: Images) -> list[Detection]:
        found = []
        for _ in range(len(images)):
            target = self.dataset[SampleKey(self.next, 0)].target
            found.append(Detection(target.boxes, torch.ones(len(target.boxes)), target.labels))
            self.next += 1
        return found


@pytest.mark.parametrize(
    "resize", ["null", "{type: fixed, height: 96, width: 40}", "{type: keep_ratio, long: 99, shorts: [99]}"]
)
def test_perfect_detections_score_one_in_the_coordinates_and_ids_of_the_files(resize: str, tiny: Load):
    recipe = tiny(f"data.resize={resize}")
    dataset = recipe.data.build_test_dataset()
    evaluation = evaluate_model(Model(Oracle(dataset), dataset.categories), dataset)
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert evaluation.metrics["oLRP"] == pytest.approx(0.0, abs=1e-4)
    assert {record["category_id"] for record in evaluation.detections} <= {1, 3, 7, 13, 21}


def candidates(logits: torch.Tensor, num_classes: int) -> Candidates:
    """Two positives of classes 1 and 0; IoU 1 and 0.5."""
    predicted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    target = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20]])
    labels = torch.tensor([num_classes, 1, -1, 0])
    return Candidates("rcnn", logits, labels, num_classes, boxes=Matched(predicted, target))


def test_rank_qualities_pair_the_score_of_the_class_with_the_iou():
    sigmoid = torch.tensor([[9.0, 9.0], [5.0, 1.0], [9.0, 9.0], [0.0, 7.0]])
    scores, ious = rank_qualities(candidates(sigmoid, 2))
    assert torch.allclose(scores, torch.tensor([1.0, 0.0]).sigmoid())
    assert ious.tolist() == [1.0, 0.5]
    softmax = torch.tensor([[9.0, 9.0, 9.0], [0.0, 0.0, 0.0], [9.0, 9.0, 9.0], [0.0, 0.0, math.log(2.0)]])
    scores, _ = rank_qualities(candidates(softmax, 2))
    assert torch.allclose(scores, torch.tensor([1 / 3, 1 / 4]))


class FixedHeads(nn.Module):
    def forward(self, batch: Batch) -> list[Candidates]:
        return [candidates(torch.tensor([[9.0, 9.0], [5.0, 3.0], [9.0, 9.0], [1.0, 7.0]]), 2)]


class CountingLoss(nn.Module):
    def forward(self, heads: Candidates) -> LossOutput:
        loss = heads.logits.sum() + heads.boxes.predicted.sum()
        return LossOutput({"ranking": loss}, {"positives": torch.tensor(2), "negatives": torch.tensor(4)})


def test_ranking_quality_of_well_ordered_positives_is_one():
    empty = Batch(Images(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), ()), (), ())
    model = Model(FixedHeads(), [(1, "one"), (2, "two")])
    quality = ranking_quality(model, {"rcnn": CountingLoss()}, [empty, empty])
    assert quality == {"head": "rcnn", "spearman": pytest.approx(1.0), "positives": 2.0, "negatives": 4.0}
    # Without a loss, its head is counted by its labels.
    candidates = model.forward(empty)[-1]
    counted = ranking_quality(model, {}, [empty, empty])
    assert counted["positives"] == int(candidates.is_positive.sum()) > 0
    assert counted["negatives"] == int((candidates.labels == 2).sum())
    assert loss_seconds(model, {"rcnn": CountingLoss()}, [empty, empty, empty]) > 0


@pytest.fixture(scope="module")
def checkpoint(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector as a checkpoint."""
    recipe = load_recipe(tiny_file, ["detector.testing.per_image=5"])
    torch.manual_seed(0)
    detector = recipe.detector.build(5)
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoints" / "iteration_00000000.pt"
    path.parent.mkdir()
    categories = [[1, "ellipse"], [3, "rectangle"], [7, "triangle"], [13, "ring"], [21, "cross"]]
    state = {"recipe": recipe.model_dump(mode="json"), "categories": categories, "thresholds": None,
             "detector": detector.state_dict()}  # fmt: skip
    save_checkpoint(path, state)
    return path


def test_evaluating_a_checkpoint_stores_its_thresholds(checkpoint: Path, shapes_folder: Path, tmp_path: Path):
    path = tmp_path / "copy.pt"
    shutil.copy(checkpoint, path)
    trained = load(path, CPU)
    assert trained.drawing_thresholds() == [0.5] * 5
    metrics = evaluate_on_folder(trained, shapes_folder, "val", out=tmp_path / "out")
    found = [numbers["threshold"] for numbers in metrics["per_class"].values()]
    again = store_thresholds(trained, found)
    stored = load(path, CPU)
    assert str(stored.thresholds) == str(found)
    assert str(again.thresholds) == str(found)
    before, after = load_checkpoint(checkpoint), load_checkpoint(path)
    assert all(torch.equal(before["detector"][name], after["detector"][name]) for name in before["detector"])


def test_class_that_was_not_detected_keeps_its_threshold(checkpoint: Path, tmp_path: Path):
    path = tmp_path / "copy.pt"
    save_checkpoint(path, load_checkpoint(checkpoint) | {"thresholds": [0.2, 0.4, math.nan, 0.9, 0.1]})
    store_thresholds(load(path, CPU), [0.5, math.nan, math.nan, 0.7, math.nan])
    assert str(load_checkpoint(path)["thresholds"]) == "[0.5, 0.4, nan, 0.7, 0.1]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": None}, "recipe is of type NoneType"),
        ({"categories": [[1]]}, "ValueError"),
        ({"categories": [[1, "one"]]}, "weight .* is "),
        ({"thresholds": [0.5]}, "1 thresholds for 5 categories"),
        ({"detector": {}}, "it has no weight"),
    ],
)
def test_checkpoint_that_does_not_fit_is_named(change: dict, message: str, checkpoint: Path, tmp_path: Path):
    path = tmp_path / "copy.pt"
    save_checkpoint(path, load_checkpoint(checkpoint) | change)
    with pytest.raises(InputError, match=rf"copy\.pt does not fit: .*{message}"):
        load(path, CPU)


def test_thresholds_of_the_checkpoint_choose_what_is_drawn(checkpoint: Path, tmp_path: Path):
    path = tmp_path / "copy.pt"
    save_checkpoint(path, load_checkpoint(checkpoint) | {"thresholds": [0.2, 0.4, math.nan, 0.9, 0.1]})
    model = load(path, CPU)
    assert model.drawing_thresholds() == [0.2, 0.4, 0.5, 0.9, 0.1]
    detection = Detection(torch.zeros(3, 4), torch.tensor([0.5, 0.3, 0.8]), torch.tensor([0, 1, 3]))
    found = Detections(detection, (8, 8), model.categories, model.drawing_thresholds())
    assert found.above().labels.tolist() == [0]
    assert found.above(0.4).labels.tolist() == [0, 3]


@pytest.fixture
def renamed(shapes_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """The shapes with other names of classes in the split val."""

    def rename(**names: str) -> Path:
        folder = tmp_path / "other"
        shutil.copytree(shapes_folder, folder)
        path = folder / "annotations" / "instances_val.json"
        content = json.loads(path.read_text())
        for row in content["categories"]:
            row["name"] = names.get(row["name"], row["name"])
        path.write_text(json.dumps(content))
        return folder

    return rename


def test_the_classes_that_model_and_data_have_in_common_are_measured(
    checkpoint: Path, shapes_folder: Path, renamed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    folder = renamed(ellipse="disc")
    some = evaluate_on_folder(load(checkpoint, CPU), folder, "val")
    said = capsys.readouterr().err
    assert re.search(r"warning: .*no class of .*: its objects are left out: 'disc' with \d+ annotations", said)
    assert re.search(r"note: .*is a class of .*, but no category of the file: it has no objects there", said)
    whole = evaluate_on_folder(load(checkpoint, CPU), shapes_folder, "val")
    names = list(whole["per_class"])
    assert list(some["per_class"]) == names
    for name in names[1:]:
        assert str(some["per_class"][name]) == str(whole["per_class"][name])
    assert math.isnan(some["per_class"]["ellipse"]["AP"])
    measured = [numbers["AP"] for name, numbers in whole["per_class"].items() if name != "ellipse"]
    assert some["AP"] == pytest.approx(sum(measured) / len(measured), abs=1e-9)


def test_data_without_a_class_of_the_model_are_refused(checkpoint: Path, renamed: Callable[..., Path], tmp_path: Path):
    folder = renamed(**{name: f"a {name}" for name in ("ellipse", "rectangle", "triangle", "ring", "cross")})
    with pytest.raises(InputError, match=r"no class of .*'a ellipse' with \d+ annotations.* which are 'ellipse'"):
        evaluate_on_folder(load(checkpoint, CPU), folder, "val", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_become_drawings_and_coco_json(checkpoint: Path, shapes_folder: Path, tmp_path: Path):
    split = find_layout(shapes_folder).source("val")
    said: list[str] = []
    detect_and_draw(load(checkpoint, "cpu"), find_images([split.images]), tmp_path / "out", 0.0, said.append)
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(content["images"]) == 6
    assert content["images"][0]["width"] == 64
    assert {category["id"] for category in content["categories"]} == {1, 3, 7, 13, 21}
    for row in content["annotations"]:
        x, y, width, height = row["bbox"]
        assert -1e-3 <= x <= x + width <= 64.001
        assert -1e-3 <= y <= y + height <= 64.001
        assert 0 <= row["score"] <= 1
    assert len(said) == 6


def test_images_of_one_name_do_not_overwrite_each_other(checkpoint: Path, shapes_folder: Path, tmp_path: Path):
    image = next(find_layout(shapes_folder).source("val").images.iterdir())
    (tmp_path / "a").mkdir()
    shutil.copy(image, tmp_path / "a" / image.name)
    detect_and_draw(
        load(checkpoint, "cpu"), find_images([image, tmp_path / "a"]), tmp_path / "out", None, lambda _: None
    )
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_images_are_never_overwritten_by_their_drawings(checkpoint: Path, shapes_folder: Path, tmp_path: Path):
    folder = tmp_path / "images"
    shutil.copytree(find_layout(shapes_folder).source("val").images, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "link").symlink_to(folder)
    for out in (folder, tmp_path / "link"):
        with pytest.raises(InputError, match=r"\.png is one of the images and would be overwritten"):
            detect_and_draw(load(checkpoint, "cpu"), find_images([folder]), out, None, lambda _: None)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_folder_in_the_place_of_a_result_is_named_and_nothing_is_written(
    checkpoint: Path, shapes_folder: Path, tmp_path: Path
):
    image = next(find_layout(shapes_folder).source("val").images.iterdir())
    (tmp_path / "detections.json").mkdir()
    with pytest.raises(InputError, match=r"detections\.json is a folder"):
        detect_and_draw(load(checkpoint, "cpu"), find_images([image]), tmp_path, None, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["detections.json"]


def test_images_of_a_folder_are_files_of_any_known_kind(tmp_path: Path):
    (tmp_path / "folder.png").mkdir()
    for name in ("a.bmp", "b.TIF", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images([tmp_path]).paths] == ["a.bmp", "b.TIF"]


def test_where_no_image_can_be_read_all_are_named_and_nothing_is_written(checkpoint: Path, tmp_path: Path):
    for name in ("one.png", "two.jpg"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(InputError, match=r"2 records: cannot be read: left out \(one\.png: .*two\.jpg"):
        detect_and_draw(load(checkpoint, "cpu"), find_images([tmp_path]), tmp_path / "out", None, lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", ["truncated", "empty", "text"])
def test_broken_images_are_left_out_and_the_others_are_done(broken: str, checkpoint: Path, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (30, 20), "red").save(folder / name)
    sound = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes({"truncated": sound[:60], "empty": b"", "text": b"no image"}[broken])
    (folder / "note.txt").write_text("nothing")
    (folder / "thumbs").mkdir()
    said: list[str] = []
    done = detect_and_draw(load(checkpoint, "cpu"), find_images([folder]), tmp_path / "out", 0.0, said.append)
    assert said[0] == "1 file that is no image and 1 folder were passed over (--recursive looks into folders)"
    assert (done.images, [finding.record for finding in done.unreadable]) == (2, ["b.png"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "detections.json"]
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(row["file_name"]).name for row in content["images"]] == ["a.png", "c.png"]


def test_what_is_done_is_kept_where_something_stops_the_command(checkpoint: Path, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (30, 20), "red").save(folder / name)

    def report(line: str) -> None:
        if "b.png" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect_and_draw(load(checkpoint, "cpu"), find_images([folder]), tmp_path / "out", 0.0, report)
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(row["file_name"]).name for row in content["images"]] == ["a.png", "b.png"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "detections.json"}


def test_images_without_objects_are_detected_in_and_not_measured(checkpoint: Path, shapes_folder: Path, tmp_path: Path):
    folder = tmp_path / "data"
    shutil.copytree(shapes_folder, folder)
    path = folder / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"] = []
    path.write_text(json.dumps(content))
    metrics = evaluate_on_folder(load(checkpoint, CPU), folder, "val", out=tmp_path / "out")
    assert "AP" not in metrics
    assert "has no objects: detections are written, and nothing is measured" in metrics["findings"][0]
    assert json.loads((tmp_path / "out" / "detections.json").read_text())


def test_missing_and_empty_places_of_images_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="none: no such file"):
        find_images([tmp_path / "none"])
    with pytest.raises(InputError, match="no images in this folder"):
        find_images([tmp_path])


def test_missing_gpu_is_reported():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="finds no GPU"), joined_world("cuda"):
        pass


@pytest.mark.parametrize("name", ["atss_shapes", "rs_atss_shapes", "paa_shapes", "rs_paa_shapes"])
def test_one_stage_detectors_train_evaluate_and_detect(name: str, shapes_folder: Path, tmp_path: Path):
    torch.set_num_threads(1)
    small = ["detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]", "data.batch_size=2"]
    short = ["schedule.iterations=2", "schedule.warmup_iterations=1", "runtime.log_interval=1", "runtime.device=cpu"]
    recipe = load_recipe(name, [f"data.folder={shapes_folder}", *small, *short])
    train(recipe, out=tmp_path / "run", console=Console(file=io.StringIO()))
    found = load(tmp_path / "run", "cpu").detect(
        find_images([find_layout(shapes_folder).source("val").images]).paths[0]
    )
    assert len(found.scores) <= 100
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert records[-1]["kind"] == "evaluation"
    assert set(records[0]["statistics"]) >= {"dense/localization", "dense/positives"}
