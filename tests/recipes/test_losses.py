"""Losses of recipes: what YAML says is what is built."""

from __future__ import annotations

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from torch import nn

from rankdet import losses
from rankdet.recipes.schema.losses import EpochBalance, Loss
from rankdet.recipes.schema.part import Part
from rankdet.structures import Candidates, Matched

LOSSES = {
    "{type: rank_sort, delta: 0.3}": losses.RankSortLoss,
    "{type: rank_sort, quality: {type: mean}, tasks: {weighting: {type: ranking}, balancing: {type: constant}}}": (
        losses.RankSortLoss
    ),
    "{type: rank_sort, tasks: {delta_loss: {type: l1, weight: 3}, balancing: {type: constant}}}": losses.RankSortLoss,
    "{type: rank_sort, quality: {type: given}, tasks: {box_loss: null}}": losses.RankSortLoss,
    "{type: average_precision, interpolate: false}": losses.APLoss,
    "{type: average_precision, tasks: {weighting: {type: centerness}, auxiliary: [{type: centerness}]}}": losses.APLoss,
    "{type: alrp, tau: 0.7}": losses.ALRPLoss,
    "{type: bucketed_rank_sort, quality: {type: binary}}": losses.BucketedRankSortLoss,
    "{type: bucketed_rank_sort, quality: {type: dice}, tasks: {balancing: {type: magnitude}}}": (
        losses.BucketedRankSortLoss
    ),
    "{type: bucketed_rank_sort, quality: {type: mean}, tasks: {weighting: {type: iou}}}": losses.BucketedRankSortLoss,
    "{type: bucketed_average_precision, tasks: {balancing: {type: value}}}": losses.BucketedAPLoss,
    "{type: focal}": losses.FocalLoss,
    "{type: focal, tasks: {weighting: {type: centerness}, auxiliary: [{type: centerness}]}}": losses.FocalLoss,
    "{type: focal, tasks: {balancing: {type: epoch}, mask_balancing: {type: constant, weight: 3}}}": losses.FocalLoss,
    "{type: focal, tasks: {box_loss: {type: l1}, weighting: {type: iou}, auxiliary: [{type: iou}]}}": losses.FocalLoss,
    "{type: quality_focal, beta: 1, tasks: {mask_balancing: {type: value}}}": losses.QualityFocalLoss,
    "{type: varifocal, alpha: 1.5, iou_weighted: false, quality: {type: dice}}": losses.VarifocalLoss,
    "{type: focal, tasks: {auxiliary: [{type: semantic, weight: 3}]}}": losses.FocalLoss,
    "{type: sigmoid_cross_entropy, box_loss: {type: l1}}": losses.SigmoidCrossEntropyLoss,
    "{type: equalization_v2, box_loss: {type: l1}, gamma: 8, mu: 0.5, alpha: 2}": losses.EqualizationLossV2,
    "{type: sigmoid_cross_entropy, box_loss: {type: l1}, mask_loss: {type: dice}}": losses.SigmoidCrossEntropyLoss,
}


def parse(text: str) -> Part:
    return TypeAdapter(Loss).validate_python(yaml.safe_load(text))


def everything() -> Candidates:
    """A head that hands all there is: one positive, one negative."""
    box = torch.tensor([[0.0, 0, 4, 4]], requires_grad=True)
    one = Matched(torch.zeros(1, requires_grad=True), torch.ones(1))
    return Candidates(
        "head",
        torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True),
        torch.tensor([1, 2]),
        2,
        boxes=Matched(box, torch.tensor([[0.0, 0, 4, 2]])),
        deltas=Matched(torch.zeros(1, 4, requires_grad=True), torch.ones(1, 4)),
        masks=Matched(torch.zeros(1, 2, 2, requires_grad=True), torch.ones(1, 2, 2)),
        auxiliary={
            "centerness": one,
            "iou": one,
            "semantic": Matched(torch.zeros(1, 2, 3, 3, requires_grad=True), torch.ones(1, 2, 3, 3)),
        },
        centerness=torch.tensor([0.5]),
        box_shares=torch.tensor([0.1]),
        quality=torch.tensor([0.7]),
        per_image=(2,),
    )


@pytest.mark.parametrize(("text", "kind"), LOSSES.items(), ids=LOSSES)
def test_every_loss_is_built_and_runs(text: str, kind: type[nn.Module]) -> None:
    loss = parse(text).build()
    losses.set_epoch_length(loss, 12)
    assert type(loss) is kind
    terms = loss(everything()).terms
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())


@pytest.mark.parametrize("text", LOSSES)
def test_what_is_written_is_what_was_read(text: str) -> None:
    loss = parse(text)
    assert TypeAdapter(Loss).validate_python(loss.model_dump(mode="json")) == loss


def test_the_fields_arrive_where_they_belong() -> None:
    focal = parse(
        "{type: focal, alpha: 0.3, gamma: 1, normalizer: {type: positives, added: 1},"
        " tasks: {box_loss: {type: smooth_l1, beta: 0.5, weight: 3},"
        " weighting: {type: ranking, delta_loc: 0.25}, mask_balancing: {type: constant, weight: 6},"
        " balancing: {type: epoch, start: 9, iterations: 12},"
        " auxiliary: [{type: centerness, weight: 2}, {type: iou, weight: 4}]}}"
    ).build()
    assert (focal.alpha, focal.gamma, focal.normalizer.added) == (0.3, 1, 1)
    tasks = focal.tasks
    assert (tasks.box_loss.beta, tasks.box_loss.weight) == (0.5, 3)
    assert tasks.weighting.delta_loc == 0.25
    assert (tasks.balancing.weight, tasks.balancing.iterations) == (9, 12)
    assert tasks.mask_balancing.weight == 6
    assert [head.weight for head in tasks.auxiliary] == [2, 4]
    quality = parse("{type: quality_focal, beta: 1.5, tasks: {box_loss: {type: giou, weight: 1.3}}}")
    assert quality.build().beta == 1.5
    assert quality.build().tasks.box_loss.weight == 1.3
    softmax = parse("{type: softmax_cross_entropy, box_loss: {type: l1}, mask_loss: {type: cross_entropy, weight: 3}}")
    assert softmax.build().mask_loss.weight == 3
    assert softmax.build().hard_negatives is None
    yolact = parse(
        "{type: softmax_cross_entropy, box_loss: {type: l1}, hard_negatives: 5,"
        " auxiliary: [{type: semantic, weight: 3}], mask_loss: {type: cross_entropy, over_box_size: true}}"
    ).build()
    assert (yolact.hard_negatives.ratio, yolact.mask_loss.over_box_size) == (5, True)
    assert [(head.name, head.weight) for head in yolact.auxiliary] == [("semantic", 3)]
    bucketed = parse("{type: bucketed_rank_sort, delta: 0.1, quality: {type: binary}}").build()
    assert (bucketed.delta, type(bucketed.quality)) == (0.1, losses.BinaryQuality)


@pytest.mark.parametrize("name", ["rank_sort", "average_precision", "alrp", "focal", "quality_focal", "varifocal"])
@pytest.mark.parametrize("sync", [False, True])
def test_a_loss_shares_with_all_processes_where_the_recipe_says_so(name: str, sync: bool) -> None:
    loss = parse(f"{{type: {name}, sync: {str(sync).lower()}}}").build()
    assert loss.sync is sync


def test_tasks_change_the_defaults_of_their_loss_and_not_those_of_others() -> None:
    """A loss has its own default of ``tasks``: focal loss has twice GIoU, whatever else is changed."""
    focal = parse("{type: focal, tasks: {weighting: {type: iou}}}")
    assert (focal.tasks.box_loss.weight, focal.tasks.weighting.type, focal.tasks.balancing.type) == (
        2,
        "iou",
        "constant",
    )
    assert parse("{type: rank_sort, tasks: {weighting: {type: iou}}}").tasks.box_loss.weight == 1


def test_a_period_is_what_the_recipe_says_or_an_epoch() -> None:
    balance = EpochBalance(iterations=5).build()
    losses.set_epoch_length(balance, 12)
    assert balance.iterations == 5
    assert EpochBalance().build().iterations is None
