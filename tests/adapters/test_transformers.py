"""Detectors of transformers learn by Rank & Sort Loss: every kind that the adapter takes, tiny and from a config.

This file is also the program of the second of two processes: ``test_transformers.py RANK FOLDER``.
"""

from __future__ import annotations

import copy
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torchvision.ops import box_convert, box_iou, generalized_box_iou

if __name__ == "__main__":
    import tiny_transformers as tiny
    import two_processes
else:
    pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra 'dev'")
    from . import tiny_transformers as tiny
    from . import two_processes

import transformers
from transformers import (
    AutoModelForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    PreTrainedModel,
    RTDetrModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    YolosConfig,
    YolosForObjectDetection,
)
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher
from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from rankdet.adapters.detr import RankSortLabels
from rankdet.adapters.transformers import MARK, plain, use_rank_sort
from rankdet.losses import RankSortValues, rank_sort_loss

BOXES_ALONE = [name for name in tiny.DETECTORS if "masks" not in name]
FLOAT32_ALONE = ("D-FINE", "DEIMv2", "DAB-DETR")
"""Models whose own code does not run in float64."""
SHIFT = "reg_conf.layers.1.bias"
"""A bias of D-FINE and DEIMv2 that moves all logits of a layer alike, for which a ranking loss has no gradient."""


@pytest.fixture(params=list(tiny.DETECTORS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def loss_and_reached(model: PreTrainedModel, counts: tuple[int, ...] = (3, 2)) -> tuple[Any, set[str]]:
    """The outputs of a step, and the names of the parameters that its loss has a gradient for."""
    torch.manual_seed(0)
    outputs = model(**tiny.batch(counts))
    outputs.loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    return outputs, {name for name, gradient in gradients.items() if gradient.any() and not name.endswith(SHIFT)}


def last_layer_by_hand(model: PreTrainedModel, outputs: Any) -> RankSortValues:
    """Rank & Sort Loss of the last layer on dense targets, from their matcher and torchvision's IoU."""
    config, labels, groups = model.config, tiny.batch()["labels"], {}
    logits, boxes = outputs.logits, outputs.pred_boxes
    if "matcher_class_cost" in config.to_dict():
        matcher = RTDetrHungarianMatcher(config)
        _, logits = logits.split(outputs.denoising_meta_values["dn_num_split"], dim=1)
        _, boxes = boxes.split(outputs.denoising_meta_values["dn_num_split"], dim=1)
        assert logits.shape[1] == tiny.QUERIES
    else:
        grouped = "group_detr" in config.to_dict()
        groups = {"group_detr": config.group_detr} if grouped else {}
        matcher = (LwDetrHungarianMatcher if grouped else DeformableDetrHungarianMatcher)(
            config.class_cost, config.bbox_cost, config.giou_cost
        )
    targets = torch.zeros_like(logits)
    for image, (queries, objects) in enumerate(
        matcher({"logits": logits, "pred_boxes": boxes.clamp(0, 1)}, labels, **groups)
    ):
        for query, row in zip(queries.tolist(), objects.tolist(), strict=True):
            pair = (boxes[image, query].detach().clamp(0, 1), labels[image]["boxes"][row])
            corners = (box_convert(box[None], "cxcywh", "xyxy") for box in pair)
            # A matched query without any overlap stays a positive; the dense form needs a trace of quality for that.
            targets[image, query, labels[image]["class_labels"][row]] = box_iou(*corners).clamp(min=1e-9)
    return rank_sort_loss(logits, targets)


@pytest.mark.parametrize("name", BOXES_ALONE)
def test_the_last_layer_has_the_loss_of_its_matched_queries_alone(name: str) -> None:
    """Of no denoising queries, and of those of all groups."""
    model = use_rank_sort(tiny.build(name))
    outputs, _ = loss_and_reached(model)
    ranking, sorting = last_layer_by_hand(model, outputs)
    torch.testing.assert_close(outputs.loss_dict["ranking"], ranking.detach())
    torch.testing.assert_close(outputs.loss_dict["sorting"], sorting.detach())


def test_the_gradient_reaches_every_parameter_that_theirs_reaches(name: str) -> None:
    _, theirs = loss_and_reached(tiny.build(name))
    _, ours = loss_and_reached(use_rank_sort(tiny.build(name)))
    assert theirs == ours


def test_the_loss_is_the_sum_of_its_terms_without_the_statistics(name: str) -> None:
    """All terms but the classification are those of the plain model."""
    (plain_outputs, _), (outputs, _) = (
        loss_and_reached(model) for model in (tiny.build(name), use_rank_sort(tiny.build(name)))
    )
    theirs, ours = plain_outputs.loss_dict, outputs.loss_dict
    classification = {key for key in theirs if key.startswith(("loss_ce", "loss_vfl", "loss_mal"))}
    suffixes = {re.sub("^loss_(ce|vfl|mal)", "", key) for key in classification}
    assert set(ours) == set(theirs) | {part + suffix for part in ("ranking", "sorting") for suffix in suffixes}
    for key in set(theirs) - classification:
        if "mask" not in key:  # the pixels of masks are drawn at random
            torch.testing.assert_close(ours[key], theirs[key])
    changes = sum(ours[key] - theirs[key] for key in classification)
    if "masks" not in name:
        torch.testing.assert_close(outputs.loss - plain_outputs.loss, changes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
@pytest.mark.parametrize("boxes", ["theirs", "balanced"])
def test_images_without_objects_are_learned_from(name: str, counts: tuple[int, int], boxes: Any) -> None:
    if name == "RF-DETR masks" and not any(counts):
        pytest.skip("the loss of transformers' own masks has no element there")
    outputs, reached = loss_and_reached(use_rank_sort(tiny.build(name), boxes=boxes), counts)
    assert outputs.loss.isfinite()
    assert bool(reached) == any(counts)


def test_balanced_boxes_have_the_value_of_the_classification_in_each_layer(name: str) -> None:
    model = use_rank_sort(tiny.build(name), boxes="balanced", weight=2.0)
    outputs, _ = loss_and_reached(model)
    terms = outputs.loss_dict
    is_weighted = any(key.startswith(("loss_vfl", "loss_mal")) for key in terms)
    for key in [key for key in terms if key.startswith("ranking")]:
        suffix = key.removeprefix("ranking")
        classification = 2 * (terms[key] + terms[f"sorting{suffix}"])
        l1, giou = terms[f"loss_bbox{suffix}"], terms[f"loss_giou{suffix}"]
        torch.testing.assert_close(l1 if is_weighted else 5 * l1, classification)
        torch.testing.assert_close(giou if is_weighted else 2 * giou, classification)


@pytest.mark.parametrize("name", ["D-FINE", "DEIMv2"])
def test_balanced_boxes_of_each_layer_learn_from_the_matches_of_that_layer(name: str) -> None:
    """DEIMv2, as the authors' code of D-FINE and DEIM, gives the boxes of a layer the matches of all layers."""
    model = use_rank_sort(tiny.build(name), boxes="balanced")
    torch.manual_seed(0)
    batch = tiny.batch()
    outputs, labels = model(**batch), batch["labels"]
    noise, matcher = outputs.denoising_meta_values, RTDetrHungarianMatcher(model.config)
    all_boxes, encoder = outputs.intermediate_reference_points, outputs.enc_topk_bboxes
    boxes = [each.unbind(1) for each in all_boxes.split(noise["dn_num_split"], dim=2)]
    logits = [each.unbind(1) for each in outputs.intermediate_logits.split(noise["dn_num_split"], dim=2)]
    groups = [torch.arange(len(label["boxes"])).repeat(noise["dn_num_group"]) for label in labels]
    noised = list(zip(noise["dn_positive_idx"], groups, strict=True))
    # transformers has one more of boxes and logits than of distributions: those before the first layer refines them. So
    # one but the last has no loss there, nor have the last of the noised queries.
    last, layers = len(boxes[1]) - 1, model.config.decoder_layers
    heads = {"": (logits[1][last], boxes[1][last], all_boxes, None)}
    heads |= {f"_aux_{i}": (logits[1][i], boxes[1][i], all_boxes, None) for i in range(layers - 1)}
    heads |= {f"_aux_{layers - 1}": (outputs.enc_topk_logits, encoder, encoder, None)}
    heads |= {f"_dn_{i}": (logits[0][i], boxes[0][i], all_boxes, noised) for i in range(layers)}
    assert {f"ranking{suffix}" for suffix in heads} == {key for key in outputs.loss_dict if key.startswith("ranking")}
    for suffix, (scores, predicted, leaf, pairs) in heads.items():
        predicted = predicted.clamp(0, 1)
        pairs = pairs or matcher({"logits": scores, "pred_boxes": predicted}, labels)
        found = torch.cat([each[queries] for each, (queries, _) in zip(predicted, pairs, strict=True)])
        wanted = torch.cat([label["boxes"][rows] for label, (_, rows) in zip(labels, pairs, strict=True)])
        corners = (box_convert(each, "cxcywh", "xyxy") for each in (found, wanted))
        errors = (found - wanted).abs().sum(1), 1 - generalized_box_iou(*corners).diagonal()
        value = outputs.loss_dict[f"ranking{suffix}"] + outputs.loss_dict[f"sorting{suffix}"]
        for term, error in zip(("loss_bbox", "loss_giou"), errors, strict=True):
            balance = value / error.mean().detach()  # λ of BRS-DETR; the classification has a weight of 1 here
            gradients = [
                torch.autograd.grad(each, leaf, retain_graph=True)[0]
                for each in (outputs.loss_dict[f"{term}{suffix}"], balance * error.mean())
            ]
            torch.testing.assert_close(*gradients)
            assert int(gradients[0].any(dim=-1).sum()) == len(found)


@pytest.mark.parametrize("name", BOXES_ALONE)
def test_labels_in_pixels_are_refused_with_their_image_and_field(name: str) -> None:
    model, batch = use_rank_sort(tiny.build(name)), tiny.batch()
    batch["labels"][1] |= {"boxes": batch["labels"][1]["boxes"] * tiny.SIZE, "image_id": torch.tensor([7])}
    with pytest.raises(ValueError, match=r"'boxes' of image 1 of the batch, image_id 7: \(.*\) .* in pixels"):
        model(**batch)


@pytest.mark.parametrize("name", BOXES_ALONE)
def test_autocast_keeps_the_loss_in_float32(name: str) -> None:
    model = use_rank_sort(tiny.build(name))
    with torch.autocast("cpu", torch.bfloat16):
        outputs, _ = loss_and_reached(model)
    assert outputs.loss_dict["ranking"].dtype == torch.float32
    assert outputs.loss.isfinite()


@pytest.mark.parametrize("boxes", ["theirs", "balanced"])
@pytest.mark.parametrize("name", BOXES_ALONE)
def test_one_call_of_the_loss_gives_what_a_call_for_each_layer_gives(
    name: str, boxes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, tolerance = (torch.float32, 1e-5) if name in FLOAT32_ALONE else (torch.float64, 1e-12)
    model = use_rank_sort(tiny.build(name).to(dtype), boxes=boxes)
    batch = tiny.batch()
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    batch["labels"] = [label | {"boxes": label["boxes"].to(dtype)} for label in batch["labels"]]
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        outputs = model(**batch)
        outputs.loss.backward()
        gradients = {key: value.grad for key, value in model.named_parameters()}
        found.append((outputs.loss_dict, gradients))
        model.zero_grad()
        monkeypatch.delattr(RankSortLabels, "forward", raising=False)
    at_once, one_by_one = found
    for first, second in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)
    assert at_once[0]["ranking"] > 0


def test_a_deep_copy_keeps_the_loss(name: str) -> None:
    model = use_rank_sort(tiny.build(name), delta=0.3)
    twin = copy.deepcopy(model)
    assert twin.loss_function == model.loss_function
    torch.testing.assert_close(*(loss_and_reached(each)[0].loss_dict["ranking"] for each in (model, twin)))


def test_pickling_keeps_the_loss() -> None:
    """Of models that transformers itself can pickle: hooks of LW-DETR and RF-DETR are local functions."""
    model = use_rank_sort(tiny.build("RT-DETR"), delta=0.3)
    twin = pickle.loads(pickle.dumps(model))
    assert twin.loss_function == model.loss_function
    torch.testing.assert_close(*(loss_and_reached(each)[0].loss_dict["ranking"] for each in (model, twin)))


def test_the_loss_of_every_kind_can_be_pickled(name: str) -> None:
    loss = use_rank_sort(tiny.build(name), delta=0.3).loss_function
    assert pickle.loads(pickle.dumps(loss)) == loss


def test_weights_of_a_plain_model_load_into_one_that_ranks_and_into_its_copy() -> None:
    weights = tiny.build("Deformable DETR").state_dict()
    model = use_rank_sort(tiny.build("Deformable DETR"))
    assert MARK in model.state_dict()
    for each in (model, copy.deepcopy(model)):
        each.load_state_dict(weights)
    assert MARK not in weights


def test_weights_of_a_model_that_ranks_do_not_load_into_a_plain_one_without_a_word() -> None:
    weights = use_rank_sort(tiny.build("Deformable DETR")).state_dict()
    with pytest.raises(RuntimeError, match=f"Unexpected key.*{MARK}"):
        tiny.build("Deformable DETR").load_state_dict(weights)


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs, which it does not pass on to others."""
    logger = transformers.utils.logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_a_saved_model_says_that_it_has_lost_its_loss_and_gets_it_back(
    name: str, tmp_path: Path, reports: pytest.LogCaptureFixture
) -> None:
    model = use_rank_sort(tiny.build(name))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert MARK in reports.text
    assert "UNEXPECTED" in reports.text
    ours = [loss_and_reached(each)[0].loss_dict["ranking"] for each in (model, use_rank_sort(loaded).train())]
    torch.testing.assert_close(*ours)


def test_a_plain_model_is_saved_and_loaded_without_a_word(tmp_path: Path, reports: pytest.LogCaptureFixture) -> None:
    model = plain(use_rank_sort(tiny.build("RT-DETR")))
    assert model.loss_function is tiny.build("RT-DETR").loss_function
    model.save_pretrained(tmp_path)
    AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert MARK not in reports.text
    assert plain(model) is model
    model.load_state_dict(tiny.build("RT-DETR").state_dict())


def test_a_second_call_replaces_the_settings() -> None:
    model = use_rank_sort(use_rank_sort(tiny.build("RT-DETR"), delta=0.1), delta=0.5)
    once = use_rank_sort(tiny.build("RT-DETR"), delta=0.5)
    assert model.loss_function == once.loss_function
    assert plain(model).loss_function is tiny.build("RT-DETR").loss_function


def test_other_models_of_the_process_keep_their_loss() -> None:
    other = tiny.build("RT-DETR")
    before = loss_and_reached(other)[0].loss
    loss_and_reached(use_rank_sort(tiny.build("RT-DETR")))
    torch.testing.assert_close(loss_and_reached(other)[0].loss, before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_a_compiled_model_has_the_same_loss() -> None:
    model = use_rank_sort(tiny.build("Deformable DETR"))
    expected = model(**tiny.batch()).loss
    # The part below the heads is neither ours nor different under our loss, and would take most of the time to compile.
    model.model.forward = torch.compiler.disable(model.model.forward)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(**tiny.batch()).loss, expected)


def test_averages_of_weights_and_buffers_have_the_loss_too() -> None:
    model = use_rank_sort(tiny.build("RT-DETR"))
    averaged = AveragedModel(model, use_buffers=True)
    for _ in range(2):
        averaged.update_parameters(model)
    assert averaged.module.loss_function == model.loss_function
    torch.testing.assert_close(averaged.module.state_dict(), model.state_dict())


def test_models_of_a_softmax_are_refused_with_the_reason() -> None:
    detr = DetrForObjectDetection(DetrConfig(**tiny.COMMON | tiny.OLDER, backbone_config=tiny.resnet(out_indices=[4])))
    yolos = YolosForObjectDetection(YolosConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    for model in (detr, yolos):
        with pytest.raises(ValueError, match=f"{type(model).__name__}: .* share a softmax"):
            use_rank_sort(model)


def test_models_without_a_loss_of_a_detector_are_refused() -> None:
    model = RTDetrModel(tiny.build("RT-DETR").config)
    with pytest.raises(ValueError, match=r"RTDetrModel has no loss .* RTDetrForObjectDetection"):
        use_rank_sort(model)


def test_a_wrapped_model_is_refused() -> None:
    with pytest.raises(TypeError, match="before it is wrapped"):
        use_rank_sort(torch.nn.DataParallel(tiny.build("RT-DETR")))


def test_a_deimv2_that_would_rank_its_denoising_queries_is_refused() -> None:
    model = tiny.build("DEIMv2")
    model.config.auxiliary_loss = False
    with pytest.raises(ValueError, match="auxiliary_loss=True or num_denoising=0"):
        use_rank_sort(model)
    model.config.num_denoising = 0
    use_rank_sort(model)


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Two images, in the form that a collator of object detection gets."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = tiny.batch()
        return {name: values[index] for name, values in batch.items()}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"pixel_values": torch.stack([s["pixel_values"] for s in samples]), "labels": [s["labels"] for s in samples]}


def trainer(model: PreTrainedModel, folder: Path, **arguments: Any) -> Trainer:
    settings = TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        **arguments,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return Trainer(model, settings, data_collator=collate, train_dataset=Images(), optimizers=(optimizer, None))


def test_a_trainer_averages_accumulated_losses(tmp_path: Path) -> None:
    """Both steps have the same images, so that two make the update of one."""
    weights = []
    for steps in (1, 2):
        model = use_rank_sort(tiny.build("Deformable DETR"))
        trainer(model, tmp_path, gradient_accumulation_steps=steps).train()
        weights.append(model.state_dict())
    start = tiny.build("Deformable DETR").state_dict()
    moved = [name for name in start if not torch.equal(weights[0][name], start[name])]
    assert any("class_embed" in name for name in moved)
    for name in moved:
        torch.testing.assert_close(weights[1][name] - start[name], weights[0][name] - start[name], rtol=1e-2, atol=1e-6)


def test_a_trainer_in_bfloat16_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    model = use_rank_sort(tiny.build("RT-DETR"))
    trainer(model, tmp_path, bf16=True, save_strategy="steps", save_steps=1).train()
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    again = use_rank_sort(type(model).from_pretrained(tmp_path / "checkpoint-1")).train()
    following = trainer(again, tmp_path, bf16=True)
    following.args.max_steps = 2

    class Start(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            torch.testing.assert_close(again.state_dict(), saved, rtol=0, atol=0)

    following.add_callback(Start())
    result = following.train(resume_from_checkpoint=True)
    assert result.global_step == 2
    assert 0 < result.training_loss < 100


def stepped(rank: int) -> dict[str, Tensor]:
    """Weights and buffers after two steps of each model, in one pool and in two; the second process gets no object."""
    found: dict[str, Tensor] = {}
    for name in ("RT-DETR", "Deformable DETR"):
        for sync in (False, True):
            model = use_rank_sort(tiny.build(name), sync=sync)
            parallel = DistributedDataParallel(model, find_unused_parameters=True)
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            for _ in range(2):
                loss = parallel(**tiny.batch((0, 0) if rank else (3, 2))).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            found |= {f"{name} {sync} {key}": value for key, value in model.state_dict().items()}
    return found


def test_processes_stay_alike_where_one_has_no_objects(tmp_path: Path) -> None:
    first, second = two_processes.in_both(__file__, stepped, tmp_path)
    start = {name: tiny.build(name).state_dict() for name in ("RT-DETR", "Deformable DETR")}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    for key, value in first.items():
        if not key.endswith(buffers):
            torch.testing.assert_close(second[key], value, rtol=0, atol=0)
    assert any(
        not torch.equal(first[f"{name} True {key}"], value) for name in start for key, value in start[name].items()
    )


if __name__ == "__main__":
    two_processes.join(stepped, int(sys.argv[1]), Path(sys.argv[2]))
