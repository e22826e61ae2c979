"""RF-DETR of rfdetr learns by Rank & Sort Loss. Run where rfdetr is installed (docs/plugging-in.md), by ``-m slow``."""

from __future__ import annotations

import doctest
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, box_iou

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rfdetr scripts functions when it is imported, which torch deprecates
        import rfdetr
except ImportError:
    pytest.skip("rfdetr is not installed", allow_module_level=True)

from rfdetr.config import RFDETRNanoConfig, TrainConfig
from rfdetr.models import build_criterion_from_config, build_model_from_config, lwdetr
from rfdetr.models.criterion import SetCriterion
from rfdetr.utilities.tensors import NestedTensor

import rankdet.adapters.rfdetr
from rankdet.adapters.rfdetr import RankSortCriterion, calibrate, rank_sort
from rankdet.losses import rank_sort_loss

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::rfdetr.config.PretrainWeightsCompatibilityWarning"),
]

SIZE, CLASSES, QUERIES, GROUPS = 64, 5, 20, 3
TINY = {
    "pretrain_weights": None,
    "resolution": SIZE,
    "positional_encoding_size": SIZE // 16,
    "num_queries": QUERIES,
    "num_select": QUERIES,
    "group_detr": GROUPS,
    "num_classes": CLASSES,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, RankSortCriterion, SetCriterion]:
    """A model of random weights, a criterion that ranks, and theirs."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model_config, config = RFDETRNanoConfig(**TINY), TrainConfig(dataset_dir=".", output_dir=".")
    with rank_sort():
        ours, _ = build_criterion_from_config(model_config, config)
    theirs, _ = build_criterion_from_config(model_config, config)
    return build_model_from_config(model_config, config).train(), ours, theirs


def targets_of(*counts: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    targets = []
    for count in counts:
        center = 0.3 + 0.4 * torch.rand(count, 2, generator=generator)
        boxes = torch.cat([center, 0.1 + 0.4 * torch.rand(count, 2, generator=generator)], dim=1)
        targets.append({"labels": torch.randint(0, CLASSES, (count,), generator=generator), "boxes": boxes})
    return targets


def outputs_of(model: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    images = torch.randn(2, 3, SIZE, SIZE)
    outputs: dict[str, Any] = model(NestedTensor(images, torch.zeros(2, SIZE, SIZE, dtype=torch.bool)))
    return outputs


def reached(model: Any, criterion: SetCriterion, targets: list[dict[str, Tensor]]) -> set[str]:
    """Names of the parameters that the loss has a gradient for."""
    model.zero_grad()
    terms = criterion(outputs_of(model), targets)
    sum(
        criterion.weight_dict[name] * value for name, value in terms.items() if name in criterion.weight_dict
    ).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    return {name for name, gradient in gradients.items() if gradient.any()}


def test_the_last_layer_has_the_loss_of_the_matched_queries_of_all_groups(parts: Any) -> None:
    model, ours, _ = parts
    outputs, objects = outputs_of(model), targets_of(3, 2)
    dense = torch.zeros_like(outputs["pred_logits"])
    for image, (queries, rows) in enumerate(ours.matcher(outputs, objects, group_detr=GROUPS)):
        assert len(queries) == GROUPS * len(objects[image]["labels"])
        for query, row in zip(queries.tolist(), rows.tolist(), strict=True):
            pair = (outputs["pred_boxes"][image, query].detach(), objects[image]["boxes"][row])
            corners = (box_convert(box[None], "cxcywh", "xyxy") for box in pair)
            dense[image, query, objects[image]["labels"][row]] = box_iou(*corners).clamp(min=1e-9)
    expected = rank_sort_loss(outputs["pred_logits"], dense)
    terms = ours(outputs, objects)
    torch.testing.assert_close(terms["ranking"], expected.ranking.detach())
    torch.testing.assert_close(terms["sorting"], expected.sorting.detach())


def test_all_terms_but_the_classification_are_theirs(parts: Any) -> None:
    model, ours, theirs = parts
    outputs, objects = outputs_of(model), targets_of(3, 2)
    found, expected = ours(outputs, objects), theirs(outputs, objects)
    for name in set(expected) - {"class_error"}:
        if not name.startswith("loss_ce"):
            torch.testing.assert_close(found[name], expected[name])
    assert {"ranking", "sorting", "ranking_0", "sorting_enc"} <= set(found)


def test_the_gradient_reaches_every_parameter_that_theirs_reaches(parts: Any) -> None:
    model, ours, theirs = parts
    assert reached(model, ours, targets_of(3, 2)) == reached(model, theirs, targets_of(3, 2))


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
def test_images_without_objects_are_learned_from(parts: Any, counts: tuple[int, int]) -> None:
    model, ours, _ = parts
    assert bool(reached(model, ours, targets_of(*counts))) == any(counts)


def test_objects_that_fill_targets_up_to_a_fixed_number_are_no_positives(parts: Any) -> None:
    model, ours, _ = parts
    outputs, objects = outputs_of(model), targets_of(3, 2)
    padded = []
    for target in objects:
        count = len(target["labels"])
        filler = {"labels": torch.zeros(4 - count, dtype=torch.int64), "boxes": torch.full((4 - count, 4), 0.5)}
        whole = {name: torch.cat([value, filler[name]]) for name, value in target.items()}
        padded.append(whole | {"valid": torch.arange(4) < count})
    indices = ours.matcher(outputs, padded, group_detr=GROUPS)
    kept = [
        (queries[rows < len(o["labels"])], rows[rows < len(o["labels"])])
        for o, (queries, rows) in zip(objects, indices, strict=True)
    ]
    found = ours.get_loss("labels", outputs, padded, indices, torch.tensor(1.0))
    torch.testing.assert_close(found, ours.get_loss("labels", outputs, objects, kept, torch.tensor(1.0)))


def test_the_criterion_can_be_pickled(parts: Any) -> None:
    """A training on several GPUs hands it to new processes."""
    _, ours, _ = parts
    assert pickle.loads(pickle.dumps(ours)).rank_sort == ours.rank_sort


def test_the_context_leaves_their_criterion_as_it_was() -> None:
    with pytest.raises(RuntimeError, match="no training of rfdetr began"), rank_sort():
        assert lwdetr.SetCriterion is not SetCriterion
    with pytest.raises(KeyError), rank_sort():
        raise KeyError
    assert lwdetr.SetCriterion is SetCriterion


def test_the_example_of_the_module_is_right() -> None:
    assert doctest.testmod(rankdet.adapters.rfdetr) == (0, 1)


def test_keypoints_are_refused() -> None:
    arguments = {"matcher": None, "weight_dict": {}, "focal_alpha": 0.25}
    with pytest.raises(ValueError, match="a training of keypoints divides all terms by the number of objects"):
        RankSortCriterion(CLASSES, losses=["labels", "boxes", "keypoints"], **arguments)


@pytest.mark.filterwarnings("ignore")
def test_after_calibration_predict_keeps_what_ap50_needs_in_the_same_order() -> None:
    torch.manual_seed(0)
    model = rfdetr.RFDETRNano(**TINY)
    with torch.no_grad():
        model.model.model.class_embed.weight.normal_(std=0.3)
    image = Image.fromarray((255 * torch.rand(SIZE, SIZE, 3)).byte().numpy())
    before = model.predict(image, threshold=0.0)
    boxes, classes = torch.from_numpy(before.xyxy[1::4] + 0.1), torch.from_numpy(before.class_id[1::4])
    found = calibrate(model, [(image, boxes, classes)])
    assert found.threshold == 0.5
    assert found.ap50 - 0.005 <= found.kept_ap50
    after, kept = model.predict(image, threshold=0.0), model.predict(image)
    scores = torch.from_numpy(after.confidence)
    expected = (found.scale * torch.from_numpy(before.confidence).double().logit() + found.shift).sigmoid()
    torch.testing.assert_close(scores.double(), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(after.xyxy), torch.from_numpy(before.xyxy))
    assert 0 < len(kept) == (scores > 0.5).sum() < len(after)


def write(folder: Path, split: str, images: int) -> None:
    """A split in the form of Roboflow: two squares in each image of noise."""
    (folder / split).mkdir(parents=True)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number in range(images):
        pixels = (255 * torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(number))).byte().numpy()
        Image.fromarray(pixels).save(folder / split / f"{number}.png")
        document["images"].append({"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE})
        for side in (16, 24):
            box = {"bbox": [4 + number, 4, side, side], "area": side * side, "iscrowd": 0, "category_id": 1}
            document["annotations"].append(box | {"id": len(document["annotations"]) + 1, "image_id": number})
    (folder / split / "_annotations.coco.json").write_text(json.dumps(document))


@pytest.mark.filterwarnings("ignore")  # Lightning warns of itself, and of what it is built on
def test_their_tutorial_trains_and_detects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, images in (("train", 4), ("valid", 2), ("test", 2)):
        write(tmp_path / "my_data", split, images)
    page = (Path(__file__).resolve().parents[2] / "docs" / "plugging-in.md").read_text(encoding="utf-8")
    tutorial = page.split("\n## rfdetr\n")[1].split("```python\n")[1].split("```")[0]
    smaller = {"RFDETRNano()": "RFDETRNano(**tiny)", "epochs=10, batch_size=4, grad_accum_steps=4": "**short"}
    for text, replacement in smaller.items():
        assert text in tutorial
        tutorial = tutorial.replace(text, replacement)
    short = {"epochs": 1, "batch_size": 2, "grad_accum_steps": 2, "num_workers": 0, "multi_scale": False}
    names: dict[str, Any] = {
        "tiny": TINY,
        "short": short | {"device": "cpu", "tensorboard": False, "output_dir": "out"},
    }
    monkeypatch.chdir(tmp_path)
    exec(compile(tutorial, "docs/plugging-in.md", "exec"), names)
    model = names["model"]
    logged = (tmp_path / "out" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/ranking", "train/sorting_enc", "train/loss_ce"} <= set(logged)
    assert len(model.predict(Image.open(tmp_path / "my_data" / "valid" / "0.png"), threshold=0.0)) == QUERIES
