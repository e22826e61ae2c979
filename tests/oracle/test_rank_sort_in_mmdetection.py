"""Rank & Sort Loss in mmdetection, by the configurations of docs/plugging-in.md."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rankdet.losses import box_overlap, rank_sort_loss
from rankdet.structures import InputError

from .mmdetection import CONFIGS as THEIRS
from .mmdetection import MODELS, Config, DetDataSample, InstanceData
from .scenes import draw_batch

adapter = importlib.import_module("rankdet.adapters.mmdet")  # after the stand-in of mmcv's extension
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of what torch and numpy have deprecated
PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugging-in.md"
CONFIGS = {
    re.findall(r"mmdet::(\w+)/", block)[0]: block
    for block in re.findall(r"^```python\n(_base_.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
}
SMALL = {
    "faster_rcnn": {"roi_head.bbox_head.num_classes": 3, "roi_head.bbox_head.fc_out_channels": 64},
    "atss": {"bbox_head.num_classes": 3, "bbox_head.stacked_convs": 1},
    "retinanet": {"bbox_head.num_classes": 3, "bbox_head.stacked_convs": 1},
    "deformable_detr": {"bbox_head.num_classes": 3, "num_queries": 40},
    "dino": {"bbox_head.num_classes": 3, "num_queries": 40, "dn_cfg.group_cfg.num_dn_queries": 10},
}
DETRS = ("deformable_detr", "dino")


def changes(name: str) -> dict[str, Any]:
    """What makes a configuration small."""
    widths = [64, 128, 256, 512]
    common = {
        "backbone.init_cfg": None,
        "backbone.depth": 18,
        "backbone.frozen_stages": -1,
        "backbone.norm_eval": False,
        "neck.in_channels": widths[1:] if name in DETRS else widths,
    }
    if name in DETRS:
        common |= {"encoder.num_layers": 1, "decoder.num_layers": 2, "test_cfg.max_per_img": 100}
    return {f"model.{key}": value for key, value in (common | SMALL[name]).items()}


def build(name: str, folder: Path, *, theirs: bool = False) -> Any:
    """The detector of the page's configuration, or of the one that it is based on."""
    text = CONFIGS[name]
    text = re.findall(r"^_base_.*$", text, re.MULTILINE)[0] if theirs else text
    (folder / "config.py").write_text(text.replace("mmdet::", f"{THEIRS}/"))  # mmdet:: needs an older setuptools
    config = Config.fromfile(folder / "config.py")
    config.merge_from_dict(changes(name))
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    model.init_weights()
    return model.train()


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str, tmp_path: Path) -> Any:
    return build(name, tmp_path)


def inputs(model: Any, counts: list[int], training: bool = True) -> dict[str, Any]:
    batch = draw_batch([(96, 128)] * len(counts), counts, seed=1)
    images, samples = [], []
    for pixels, size, target in zip(batch.images.pixels, batch.images.sizes, batch.targets, strict=True):
        images.append(pixels[:, : size[0], : size[1]].flip(0))
        meta = {"img_shape": size, "ori_shape": size, "batch_input_shape": (96, 128), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=target.boxes.clone(), labels=target.labels % 3)
        samples.append(sample)
    raw = {"inputs": images, "data_samples": samples}
    return model.data_preprocessor(raw, training) if training else raw


def learned(model: nn.Module, terms: Mapping[str, Any]) -> set[str]:
    """Names of the weights that get a gradient, which must be finite."""
    model.zero_grad()
    loss, _ = model.parse_losses(terms)
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    return {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}


def test_the_page_has_a_configuration_of_each_detector() -> None:
    assert set(CONFIGS) == set(SMALL)


def test_all_weights_learn_that_learn_in_the_original(name: str, model: Any, tmp_path: Path) -> None:
    theirs = build(name, tmp_path, theirs=True)
    terms = model.loss(**to_loss(inputs(model, [4, 0])))
    expected = theirs.loss(**to_loss(inputs(theirs, [4, 0])))
    assert {key for key in terms if "loss" in key} == {key for key in expected if "loss" in key} - {"loss_centerness"}
    missing = learned(theirs, expected) - learned(model, terms)
    assert missing == {key for key in missing if "centerness" in key}
    if name == "atss":
        assert missing
        assert not any(weight.requires_grad for weight in model.bbox_head.atss_centerness.parameters())


def to_loss(prepared: dict[str, Any]) -> dict[str, Any]:
    return {"batch_inputs": prepared["inputs"], "batch_data_samples": prepared["data_samples"]}


def test_steps_lower_the_ranking_error(name: str, model: Any) -> None:
    prepared = to_loss(inputs(model, [3, 2]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    values = []
    for _ in range(8):
        terms = copy.copy(model).loss(**copy.deepcopy(prepared))
        loss, _ = model.parse_losses(terms)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        values.append(sum(value.item() for key, value in terms.items() if key.endswith("_cls") and "dn" not in key))
    assert min(values[-3:]) < 0.97 * values[0]


def test_without_objects_the_classes_have_no_loss(name: str, model: Any) -> None:
    terms = model.loss(**to_loss(inputs(model, [0, 0])))
    assert all(value == 0 for key, value in terms.items() if "_cls" in key)
    learned(model, terms)


def test_a_dense_head_ranks_all_levels_in_one_pool(name: str, model: Any) -> None:
    """The targets are asked for once more, and put in another order: image by image, levels inside."""
    if name in DETRS:
        pytest.skip("a decoder layer has no levels")
    head = model.rpn_head if name == "faster_rcnn" else model.bbox_head
    prepared = inputs(model, [4, 1])
    outputs = head(model.extract_feat(prepared["inputs"]))
    instances = [sample.gt_instances for sample in prepared["data_samples"]]
    if name == "faster_rcnn":
        for each in instances:
            each.labels = torch.zeros_like(each.labels)
    metas = [sample.metainfo for sample in prepared["data_samples"]]
    found = head.loss_by_feat(*outputs, instances, metas)

    logits, targets = [], []
    sizes = [level.shape[-2:] for level in outputs[0]]
    anchors, flags = head.get_anchors(sizes, metas, device="cpu")
    labels, weights, *_ = got = head.get_targets(anchors, flags, instances, metas)
    anchors, _ = head.get_anchors(sizes, metas, device="cpu")  # ATSS joins those that it is given
    if name == "atss":
        _, labels, weights, goals = got[:4]
    else:
        goals = got[2]
    for image in range(2):
        for level, boxes in enumerate(anchors[image]):
            own = outputs[0][level][image].permute(1, 2, 0).reshape(len(boxes), -1)
            deltas = outputs[1][level][image].permute(1, 2, 0).reshape(len(boxes), 4)
            decoded = head.bbox_coder.decode(boxes, deltas)
            goal = goals[level][image]
            iou = box_overlap(decoded, goal if name == "atss" else head.bbox_coder.decode(boxes, goal)).iou
            dense = torch.zeros_like(own)
            for row, label in enumerate(labels[level][image].tolist()):
                if weights[level][image][row] == 0:
                    dense[row] = -1
                elif label < head.num_classes:
                    dense[row, label] = max(iou[row].item(), 1e-30)
            logits.append(own)
            targets.append(dense)
    ranking, sorting = rank_sort_loss(torch.cat(logits), torch.cat(targets))
    key = "loss_rpn_cls" if name == "faster_rcnn" else "loss_cls"
    torch.testing.assert_close(found[key], ranking + sorting, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[key], found[key.replace("cls", "bbox")])


def test_a_box_head_has_a_sigmoid_per_class_and_ranks_by_iou(tmp_path: Path) -> None:
    model = build("faster_rcnn", tmp_path)
    head = model.roi_head.bbox_head
    assert head.fc_cls.out_features == 3
    torch.manual_seed(0)
    rois = torch.tensor([[0.0, 0, 0, 20, 20], [0, 10, 10, 40, 40], [1, 5, 5, 30, 30]])
    logits, deltas = torch.randn(3, 3), torch.randn(3, 12)
    labels = torch.tensor([2, 3, 0])
    goals = torch.randn(3, 4)
    terms = head.loss(logits, deltas, rois, labels, torch.ones(3), goals, torch.ones(3, 4))
    expected = torch.zeros(3, 3)
    for row, label in ((0, 2), (2, 0)):
        own, goal = deltas[row].view(3, 4)[label], goals[row]
        pair = [head.bbox_coder.decode(rois[row : row + 1, 1:], each[None]) for each in (own, goal)]
        expected[row, label] = box_overlap(*pair).iou
    torch.testing.assert_close(terms["loss_cls"], sum(rank_sort_loss(logits, expected)))
    assert "localization_error" in terms
    scores = head.loss_cls.get_activation(logits)
    torch.testing.assert_close(scores[:, :3], logits.sigmoid())
    assert not scores[:, 3].any()


def test_a_detr_ranks_the_queries_of_a_layer_by_their_iou() -> None:
    loss = adapter.RankSortLoss(delta=0.25, loss_weight=2.0)
    logits, labels = torch.randn(6, 3), torch.tensor([3, 1, 3, 0, 3, 2])
    iou = torch.tensor([0.0, 0.6, 0.0, 0.9, 0.0, 0.4])
    weight = torch.tensor([1.0, 1, 1, 1, 0, 1])
    targets = torch.zeros(6, 3)
    targets[1, 1], targets[3, 0], targets[5, 2], targets[4] = 0.6, 0.9, 0.4, -1.0
    expected = 2 * sum(rank_sort_loss(logits, targets, 0.25))
    torch.testing.assert_close(loss(logits, (labels, iou), weight, avg_factor=7.0), expected)


def test_atss_has_no_centerness_in_its_scores(tmp_path: Path) -> None:
    model = build("atss", tmp_path).eval()
    prepared = inputs(model, [2])
    logits, _, centerness = model.bbox_head(model.extract_feat(prepared["inputs"]))
    assert all((level.sigmoid() == 1).all() for level in centerness)
    assert len(logits) == 5


def test_heads_and_loss_without_each_other_are_refused(tmp_path: Path) -> None:
    model = build("retinanet", tmp_path)
    prepared = to_loss(inputs(model, [2]))
    loss, model.bbox_head.loss_cls = model.bbox_head.loss_cls, nn.BCEWithLogitsLoss()
    with pytest.raises(
        TypeError, match=r"RankSortRetinaHead needs loss_cls=dict\(_delete_=True, type='RankSortLoss', use_sigm"
    ):
        model.loss(**prepared)
    theirs = build("retinanet", tmp_path, theirs=True)
    theirs.bbox_head.loss_cls = loss
    with pytest.raises(TypeError, match="RankSortLoss gets no IoU from this head: use RankSortRPNHead"):
        theirs.loss(**prepared)


def test_after_calibration_the_usual_threshold_fits_and_the_order_stays(name: str, model: Any) -> None:
    head = model.roi_head.bbox_head if name == "faster_rcnn" else model.bbox_head
    settings = (model.roi_head if name == "faster_rcnn" else head).test_cfg
    for part, weight in model.named_parameters():
        if "cls" in part:
            nn.init.normal_(weight, std=0.05)
    model.eval()
    raw = inputs(model, [1, 1], training=False)
    with torch.no_grad():
        before = copy.deepcopy([sample.pred_instances for sample in model.test_step(copy.deepcopy(raw))])
    for sample, found in zip(raw["data_samples"], before, strict=True):
        sample.gt_instances = InstanceData(bboxes=found.bboxes[1:30:4] + 0.3, labels=found.labels[1:30:4])
    found = adapter.calibrate(model, [raw])
    assert found.threshold == (0.3 if name in DETRS else 0.05)
    assert settings.get("score_thr", 0.3) == found.threshold
    if name not in DETRS:
        settings.score_thr = 0.0
    with torch.no_grad():
        after = [sample.pred_instances for sample in model.test_step(copy.deepcopy(raw))]
    for one, other in zip(before, after, strict=True):
        number = min(len(one.scores), len(other.scores))
        assert number > 20
        scores = (found.scale * one.scores.double().logit() + found.shift).sigmoid()
        torch.testing.assert_close(other.scores[:number].double(), scores[:number], rtol=2e-2, atol=1e-4)
        torch.testing.assert_close(other.bboxes[:20], one.bboxes[:20], rtol=1e-4, atol=1e-2)
    assert found.ap50 - 0.005 <= found.kept_ap50


def test_a_detector_that_finds_nothing_cannot_be_calibrated(tmp_path: Path) -> None:
    model = build("atss", tmp_path)
    raw = inputs(model, [0], training=False)
    with pytest.raises(InputError, match="no detection hits an object"):
        adapter.calibrate(model, [raw])
    assert model.bbox_head.test_cfg.score_thr == 0
    assert model.training
