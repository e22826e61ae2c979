"""Detectors of transformers after calibration: the default threshold fits, and the order of detections stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="transformers is not installed; it is in the extra 'dev'")

from transformers import RTDetrImageProcessor

from rankdet.adapters.transformers import calibrate, use_rank_sort
from rankdet.structures import InputError

from .tiny_transformers import CLASSES, DETECTORS, batch, build, rt_detr


def own_objects(outputs: Any) -> list[dict[str, Tensor]]:
    """Objects where the model sees some anyway: boxes of each third query, of the class that it thinks of."""
    return [
        {"class_labels": logits.argmax(dim=1)[::3], "boxes": boxes[::3] + 0.001}
        for logits, boxes in zip(outputs.logits, outputs.pred_boxes, strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("name", DETECTORS)
def test_logits_of_all_layers_are_scaled_and_shifted_alike(name: str) -> None:
    model = use_rank_sort(build(name)).eval()
    for part, weight in model.named_parameters():
        if ("class_embed" in part or "class_labels_classifier" in part or "lqe" in part) and weight.ndim > 1:
            weight.normal_(std=0.3)  # further apart than at the start
    inputs = batch()
    before = model(pixel_values=inputs["pixel_values"])
    inputs["labels"] = own_objects(before)
    model.train()
    found = calibrate(model, [inputs])
    assert model.training
    model.eval()
    after = model(pixel_values=inputs["pixel_values"])
    torch.testing.assert_close(after.pred_boxes, before.pred_boxes)
    names = [name for name in ("logits", "intermediate_logits") if getattr(before, name, None) is not None]
    for logits in names:
        expected = found.scale * getattr(before, logits) + found.shift
        torch.testing.assert_close(getattr(after, logits), expected, rtol=1e-3, atol=1e-3)
    assert found.threshold == 0.5
    assert found.ap50 - 0.005 <= found.kept_ap50
    scores = after.logits.sigmoid()
    assert 0 < (scores > 0.5).sum() < scores.numel()
    assert model(**batch()).loss.isfinite()


def test_the_default_of_the_processor_keeps_what_was_found_and_files_keep_it_too(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = use_rank_sort(rt_detr()).eval()
    inputs = batch()
    with torch.no_grad():
        inputs["labels"] = own_objects(model(pixel_values=inputs["pixel_values"]))
        calibrate(model, [inputs])
        outputs = model(pixel_values=inputs["pixel_values"])
        kept = RTDetrImageProcessor().post_process_object_detection(outputs)
        assert [len(each["scores"]) for each in kept] == [int((each.sigmoid() > 0.5).sum()) for each in outputs.logits]
        model.save_pretrained(tmp_path)
        other = type(model).from_pretrained(tmp_path).eval()
        torch.testing.assert_close(other(pixel_values=inputs["pixel_values"]).logits, outputs.logits)
    assert outputs.logits.shape[-1] == CLASSES


def test_what_cannot_be_calibrated_is_refused_and_stays() -> None:
    model, inputs = rt_detr(), batch()
    with pytest.raises(TypeError, match="calibrate takes a model of use_rank_sort"):
        calibrate(model, [inputs])
    use_rank_sort(model)
    state = copy.deepcopy(model.state_dict())
    for labels in inputs["labels"]:
        labels["boxes"] = 0 * labels["boxes"] + torch.tensor([0.5, 0.5, 1e-4, 1e-4])
    with pytest.raises(InputError, match="no detection hits an object"):
        calibrate(model, [inputs])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
