"""Rank & Sort Loss in the criterion that DETR repositories share, on one that stands for them.

This file is also the program of the second of two processes: ``test_detr.py RANK FOLDER``.

Legend: B images, Q queries, C classes, P matched queries.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou, generalized_box_iou

from rankdet.adapters.detr import CLASSIFICATIONS, RankSort, RankSortLabels
from rankdet.losses import from_pairs, rank_sort_loss

if __name__ == "__main__":
    import two_processes
else:
    from . import two_processes

B, Q, C = 3, 8, 4
WEIGHTS = {"loss_ce": 2.0, "loss_vfl": 1.0, "loss_mal": 1.0, "loss_focal": 1.0, "loss_bce": 1.0}
BOX_WEIGHTS = {"loss_bbox": 5.0, "loss_giou": 2.0}


class Criterion(nn.Module):
    """The protocol of a DETR repository, without losses of its own."""

    def __init__(self, num_classes: int = C) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight_dict = WEIGHTS | BOX_WEIGHTS

    def get_loss(
        self, loss: str, outputs: Any, targets: Any, indices: Any, num_boxes: Any, **kwargs: Any
    ) -> dict[str, Any]:
        return {f"loss_{loss}": (num_boxes, kwargs)}


class RankSortCriterion(RankSortLabels, Criterion):
    pass


Layers = dict[str, tuple[dict[str, Tensor], list[Any], list[Any]]]
"""Outputs, targets and matches of each layer, by the ending of the names of its terms."""


class WholeCriterion(Criterion):
    """Asks for each layer as repositories do: some weigh the terms at once, and drop what has no weight."""

    weighs = False

    def forward(self, layers: Layers) -> Any:
        terms = {"loss_ce_dn": torch.as_tensor(0.0)}  # what DINO returns where there is no denoising
        for ending, arguments in layers.items():
            for loss in ("labels", *(["boxes"] if self.rank_sort.boxes == "balanced" else [])):
                found = self.get_loss(loss, *arguments, num_boxes=5.0)
                if self.weighs:
                    weights = self.weight_dict
                    found = {key: value * weights[key] for key, value in found.items() if key in weights}
                terms |= {key + ending: value for key, value in found.items()}
        return terms


class RankSortWholeCriterion(RankSortLabels, WholeCriterion):
    pass


class RankSortLayerByLayer(RankSortLabels, WholeCriterion):
    forward = WholeCriterion.forward


def whole_criterion(kind: type[RankSortLabels] = RankSortWholeCriterion, **settings: Any) -> Any:
    made = kind()
    made.rank_sort = RankSort(**settings)
    return made


def criterion(**settings: Any) -> RankSortCriterion:
    made = RankSortCriterion()
    made.rank_sort = RankSort(**settings)
    return made


def draw(counts: Sequence[int] = (3, 0, 2), seed: int = 0) -> tuple[dict[str, Tensor], list[Any], list[Any]]:
    """Outputs with gradients wanted, targets, and matches in no order; most boxes are near their objects."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(counts), Q, C, generator=generator)
    boxes = 0.3 + 0.4 * torch.rand(len(counts), Q, 4, generator=generator)
    targets, indices = [], []
    for image, count in enumerate(counts):
        queries = torch.randperm(Q, generator=generator)[:count]
        near = boxes[image, queries] * (0.8 + 0.4 * torch.rand(count, 4, generator=generator))
        objects = torch.randperm(count, generator=generator)
        labels = torch.randint(0, C, (count,), generator=generator)
        targets.append({"labels": labels, "boxes": near[objects.argsort()]})
        indices.append((queries, objects))
    return {"pred_logits": logits.requires_grad_(), "pred_boxes": boxes.requires_grad_()}, targets, indices


def dense(outputs: dict[str, Tensor], targets: list[Any], indices: list[Any]) -> Tensor:
    """(B, Q, C) targets of the function, written pair by pair: IoUs from torchvision."""
    quality = torch.zeros_like(outputs["pred_logits"])
    for image, (queries, objects) in enumerate(indices):
        for query, row in zip(queries.tolist(), objects.tolist(), strict=True):
            pair = (outputs["pred_boxes"][image, query].detach(), targets[image]["boxes"][row])
            found, wanted = (box_convert(box[None].float(), "cxcywh", "xyxy") for box in pair)
            quality[image, query, int(targets[image]["labels"][row])] = box_iou(found, wanted).item()
    return quality


def test_a_layer_gets_rank_and_sort_loss_of_its_matched_queries_in_whatever_order_they_come() -> None:
    outputs, targets, indices = draw()
    terms = criterion(delta=0.4).get_loss("labels", outputs, targets, indices, 5.0)
    expected = rank_sort_loss(outputs["pred_logits"], dense(outputs, targets, indices), delta=0.4)
    torch.testing.assert_close(terms["ranking"], expected.ranking.detach())
    torch.testing.assert_close(terms["sorting"], expected.sorting.detach())
    assert expected.sorting > 0.005
    gradients = [torch.autograd.grad(value, outputs["pred_logits"])[0] for value in (terms["loss_ce"], sum(expected))]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("weighs", [False, True])
@pytest.mark.parametrize("boxes", ["theirs", "balanced"])
def test_all_layers_in_one_call_have_the_terms_and_gradients_of_a_call_for_each(boxes: str, weighs: bool) -> None:
    """One of them has no object, one another number of queries."""
    results = []
    for kind in (RankSortWholeCriterion, RankSortLayerByLayer):
        layers = {"": draw((3, 0, 2)), "_0": draw((0, 0, 0), seed=1), "_dn_0": draw((2, 4), seed=2)}
        layers["_dn_0"][0].update({key: value.detach()[:, :6] for key, value in layers["_dn_0"][0].items()})
        layers["_dn_0"] = (*layers["_dn_0"][:2], [(torch.arange(n), torch.arange(n).flip(0)) for n in (2, 4)])
        layers = {ending: (precise(outputs), *rest) for ending, (outputs, *rest) in layers.items()}
        criterion = whole_criterion(kind, boxes=boxes, weight=3.0)
        criterion.weighs = weighs
        terms = criterion(layers)
        sum(value for name, value in terms.items() if name.startswith("loss")).backward()
        gradients = [value.grad for outputs, _, _ in layers.values() for value in outputs.values()]
        assert all(type(value) is Tensor for value in terms.values())
        results.append(({name: value.detach() for name, value in terms.items()}, gradients))
    for at_once, one_by_one in zip(*results, strict=True):
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-12, atol=1e-12)
    assert ("ranking_dn_0" in results[0][0]) == (not weighs)
    assert all(results[0][0][f"loss_ce{ending}"] > 0 for ending in ("", "_dn_0"))


def precise(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs in float64, with gradients wanted."""
    return {key: value.detach().double().requires_grad_() for key, value in outputs.items()}


def test_a_class_that_the_logits_of_a_layer_do_not_have_names_no_logit_of_the_next_one() -> None:
    layers = {"": draw((1,)), "_0": draw((1,), seed=1)}
    layers[""][1][0]["labels"] = torch.tensor([C])
    with pytest.raises(ValueError, match="index names logits outside of them"):
        whole_criterion()(layers)


def test_a_criterion_that_returns_no_dict_of_its_terms_is_told_how_it_can_be_asked() -> None:
    class Pair(WholeCriterion):
        def forward(self, layers: Layers) -> Any:
            return super().forward(layers), layers

    class RankSortPair(RankSortLabels, Pair):
        pass

    with pytest.raises(TypeError, match=r"RankSortPair: .* of 1 layers and returned 0 terms 'loss_ce'.* forward = "):
        RankSortPair()({"": draw()})


def test_the_weight_multiplies_the_classification_and_not_its_statistics() -> None:
    outputs, targets, indices = draw()
    terms = criterion(weight=3.0).get_loss("labels", outputs, targets, indices, 5.0)
    torch.testing.assert_close(terms["loss_ce"], 3 * (terms["ranking"] + terms["sorting"]))
    assert not terms["ranking"].requires_grad
    assert not terms["sorting"].requires_grad


@pytest.mark.parametrize("loss", CLASSIFICATIONS)
def test_every_classification_is_replaced_by_its_own_name(loss: str) -> None:
    outputs, targets, indices = draw()
    terms = criterion().get_loss(loss, outputs, targets, indices, 5.0)
    assert set(terms) == {CLASSIFICATIONS[loss], "ranking", "sorting"}


def test_all_other_losses_stay_those_of_the_criterion() -> None:
    outputs, targets, indices = draw()
    for loss in ("boxes", "masks", "cardinality", "local"):
        terms = criterion().get_loss(loss, outputs, targets, indices, 5.0, log=False)
        assert terms == {f"loss_{loss}": (5.0, {"log": False})}


def test_a_matched_query_of_iou_0_stays_a_positive() -> None:
    outputs, targets, indices = draw((1,))
    targets[0]["boxes"] = torch.tensor([[0.05, 0.05, 0.1, 0.1]])
    assert not dense(outputs, targets, indices).any()
    criterion().get_loss("labels", outputs, targets, indices, 1.0)["loss_ce"].backward()
    gradient = outputs["pred_logits"].grad
    assert gradient is not None
    assert gradient[0, indices[0][0], targets[0]["labels"]].item() < 0
    assert int((gradient < 0).sum()) == 1


@pytest.mark.parametrize("counts", [(0, 0, 0), (0, 2, 0)])
@pytest.mark.parametrize("boxes", ["theirs", "balanced"])
def test_images_without_objects_are_pools_without_positives(counts: tuple[int, ...], boxes: str) -> None:
    outputs, targets, indices = draw(counts)
    targets[0]["labels"] = torch.zeros(0)  # what torch.tensor([]) gives is no integer
    terms = criterion(boxes=boxes).get_loss("labels", outputs, targets, indices, 1.0)
    terms["loss_ce"].backward(retain_graph=True)
    gradient = outputs["pred_logits"].grad
    assert gradient is not None
    assert bool(gradient.any()) == any(counts)
    if boxes == "balanced":
        (terms["loss_bbox"] + terms["loss_giou"]).backward()
        gradient = outputs["pred_boxes"].grad
        assert gradient is not None
        assert bool(gradient.any()) == any(counts)
        assert gradient.isfinite().all()


def test_the_value_is_unchanged_under_a_shift_of_all_logits() -> None:
    outputs, targets, indices = draw()
    shifted = outputs | {"pred_logits": outputs["pred_logits"] + 7}
    values = [criterion().get_loss("labels", each, targets, indices, 5.0)["loss_ce"] for each in (outputs, shifted)]
    torch.testing.assert_close(*values)


def test_groups_that_agree_are_ranked_as_one_of_them_alone() -> None:
    """So the value does not depend on their number, and at inference, where one is left, nothing is new."""
    outputs, targets, indices = draw()
    groups = 3
    repeated = {name: value.repeat(1, groups, 1) for name, value in outputs.items()}
    matches = [
        (torch.cat([queries + group * Q for group in range(groups)]), objects.repeat(groups))
        for queries, objects in indices
    ]
    one = criterion().get_loss("labels", outputs, targets, indices, 5.0)
    many = criterion().get_loss("labels", repeated, targets, matches, 5.0 * groups)
    torch.testing.assert_close(many["ranking"], one["ranking"])
    torch.testing.assert_close(many["sorting"], one["sorting"])


def test_balanced_boxes_have_the_value_of_the_classification() -> None:
    outputs, targets, indices = draw()
    made = criterion(boxes="balanced", weight=1.5)
    terms = made.get_loss("labels", outputs, targets, indices, 5.0)
    assert made.get_loss("boxes", outputs, targets, indices, 5.0) == {}
    for name, weight in BOX_WEIGHTS.items():
        torch.testing.assert_close(weight * terms[name], WEIGHTS["loss_ce"] * terms["loss_ce"])


def test_balanced_boxes_have_the_gradient_of_the_means_of_the_layer() -> None:
    outputs, targets, indices = draw((2, 1))
    terms = criterion(boxes="balanced").get_loss("labels", outputs, targets, indices, 3.0)
    distances, errors = [], []
    for image, (queries, objects) in enumerate(indices):
        found, wanted = outputs["pred_boxes"][image, queries], targets[image]["boxes"][objects]
        distances.append((found - wanted).abs().sum(1))
        corners = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (found, wanted))
        errors.append(1 - generalized_box_iou(*corners).diagonal())
    for name, values in (("loss_bbox", distances), ("loss_giou", errors)):
        mean = torch.cat(values).mean()
        balance = WEIGHTS["loss_ce"] * terms["loss_ce"].detach() / (BOX_WEIGHTS[name] * mean.detach())
        gradients = [
            torch.autograd.grad(value, outputs["pred_boxes"], retain_graph=True)[0]
            for value in (terms[name], balance * mean)
        ]
        torch.testing.assert_close(*gradients)
        assert int(gradients[0].any(dim=2).sum()) == 3
    assert torch.autograd.grad(terms["loss_giou"], outputs["pred_logits"], allow_unused=True)[0] is None


def test_overlaps_of_bfloat16_outputs_are_those_of_float32() -> None:
    outputs, targets, indices = draw((5, 5, 5))
    half = {name: value.detach().bfloat16() for name, value in outputs.items()}
    exact = {name: value.float() for name, value in half.items()}
    found = criterion().get_loss("labels", half, targets, indices, 15.0)
    for name, value in criterion().get_loss("labels", exact, targets, indices, 15.0).items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value)


def test_a_layer_compiles_without_a_graph_break_for_any_number_of_matches() -> None:
    compiled = torch.compile(RankSort(), fullgraph=True, backend="eager")
    for counts in ((3, 0, 2), (2, 2, 2), (0, 0, 0)):
        outputs, targets, indices = draw(counts)
        index = from_pairs(indices, [target["labels"] for target in targets])
        objects = torch.cat([target["boxes"][rows] for target, (_, rows) in zip(targets, indices, strict=True)])
        arguments = (outputs["pred_logits"], outputs["pred_boxes"], index, objects)
        found, expected = compiled(*arguments), RankSort()(*arguments)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(sum(each), outputs["pred_logits"])[0] for each in (found, expected)]
        torch.testing.assert_close(*gradients)


def test_small_objects_have_the_iou_of_large_ones() -> None:
    """Areas of boxes that are parts of an image are small numbers, which no floor may reach."""
    outputs, targets, indices = draw()
    small = outputs | {"pred_boxes": outputs["pred_boxes"].detach() / 2**10}
    objects = [target | {"boxes": target["boxes"] / 2**10} for target in targets]
    values = [
        criterion().get_loss("labels", *given, indices, 5.0)["sorting"]
        for given in ((outputs, targets), (small, objects))
    ]
    torch.testing.assert_close(*values)


BOXES = torch.tensor([[0.2, 0.3, 0.4, 0.4], [0.7, 0.6, 0.2, 0.5], [0.5, 0.9, 0.1, 0.3]])
"""Of objects, as a criterion takes them; the last reaches over the edge of its image."""


def given(*boxes: Tensor) -> tuple[dict[str, Tensor], list[Any], list[Any]]:
    """Outputs, targets with these boxes for each image, and matches; the images have the numbers 40, 41, …"""
    outputs, targets, indices = draw([len(each) for each in boxes])
    for number, (target, each) in enumerate(zip(targets, boxes, strict=True)):
        target |= {"boxes": each, "image_id": torch.tensor([40 + number])}
    return outputs, targets, indices


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (lambda boxes: boxes * torch.tensor([640, 480, 640, 480]), r"box in pixels\. Boxes of objects are \(center x"),
        (
            lambda boxes: box_convert(boxes, "cxcywh", "xyxy"),
            r"box of corners \(x1, y1, x2, y2\)\. Boxes of objects are",
        ),
    ],
)
def test_boxes_of_objects_in_another_form_are_refused_with_their_image_and_field(convert: Any, words: str) -> None:
    outputs, targets, indices = given(torch.zeros(0, 4), convert(BOXES))
    for target in targets:
        with pytest.raises(ValueError, match=rf"'boxes' of image 1 of the batch, image_id 41: \([\d., ]+\) .*{words}"):
            criterion().get_loss("labels", outputs, targets, indices, 5.0)
        del target["image_id"]
    with pytest.raises(ValueError, match=r"'boxes' of image 1 of the batch: "):
        criterion().get_loss("labels", outputs, targets, indices, 5.0)


def test_boxes_over_the_edge_or_of_the_whole_image_are_taken() -> None:
    whole, corner = torch.tensor([[0.5, 0.5, 1.0, 1.0]]), torch.tensor([[0.02, 0.03, 0.2, 0.2]])
    for boxes in ([BOXES], [whole], [corner], [whole, torch.zeros(0, 4), BOXES]):
        criterion().get_loss("labels", *given(*boxes), 5.0)


def test_boxes_of_objects_are_looked_at_in_the_first_batch_that_has_any() -> None:
    """Each look waits for the device."""
    seen, waiting = criterion(), criterion()
    seen.get_loss("labels", *given(BOXES), 5.0)
    seen.get_loss("labels", *given(BOXES * 600), 5.0)
    waiting.get_loss("labels", *given(torch.zeros(0, 4)), 5.0)
    with pytest.raises(ValueError, match="in pixels"):
        waiting.get_loss("labels", *given(BOXES * 600), 5.0)


def test_fillers_that_a_criterion_leaves_out_are_no_positives() -> None:
    class Padded(RankSortCriterion):
        def positives(self, targets: Any, indices: Any) -> Any:
            return [(queries[:1], objects[:1]) for queries, objects in indices]

    outputs, targets, indices = draw((2, 2))
    first = [(queries[:1], objects[:1]) for queries, objects in indices]
    found = Padded().get_loss("labels", outputs, targets, indices, 2.0)
    torch.testing.assert_close(found, criterion().get_loss("labels", outputs, targets, first, 2.0))


def test_logits_with_a_column_for_no_object_are_refused() -> None:
    outputs, targets, indices = draw()
    with pytest.raises(ValueError, match=r"RankSortCriterion: .* 'no object' beside 3 classes.* sigmoid per class"):
        RankSortCriterion(num_classes=C - 1).get_loss("labels", outputs, targets, indices, 5.0)


@pytest.mark.parametrize("settings", [{"delta": -1.0}, {"weight": 0.0}, {"boxes": "mine"}])
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"RankSort: {name} must be"):
        RankSort(**settings)


def found_by(rank: int) -> dict[str, Any]:
    """Terms, and gradients of the logits of each layer, by the form of the boxes; the second process has no object."""
    counts = (3, 2) if rank == 0 else (0, 0)
    found = {}
    for boxes in ("theirs", "balanced"):
        layers = {suffix: draw(counts, seed=rank + seed) for suffix, seed in (("", 0), ("_0", 10))}
        terms = whole_criterion(boxes=boxes, sync=True)(layers)
        sum(value for name, value in terms.items() if name.startswith("loss")).backward()
        gradients = [outputs["pred_logits"].grad for outputs, _, _ in layers.values()]
        found[boxes] = ({name: value.detach() for name, value in terms.items()}, gradients)
    return found


def test_processes_that_share_a_pool_have_the_loss_of_one_that_holds_all(tmp_path: Path) -> None:
    found = two_processes.in_both(__file__, found_by, tmp_path)
    for boxes in ("theirs", "balanced"):
        layers = {}
        for suffix, seed in (("", 0), ("_0", 10)):
            parts = [draw(counts, seed=rank + seed) for rank, counts in enumerate([(3, 2), (0, 0)])]
            outputs = {
                key: torch.cat([part[0][key].detach() for part in parts]).requires_grad_() for key in parts[0][0]
            }
            layers[suffix] = outputs, [*parts[0][1], *parts[1][1]], [*parts[0][2], *parts[1][2]]
        terms = whole_criterion(boxes=boxes)(layers)
        for rank in range(2):
            torch.testing.assert_close(found[rank][boxes][0], {name: value.detach() for name, value in terms.items()})
        logits = [outputs["pred_logits"] for outputs, _, _ in layers.values()]
        gradients = torch.autograd.grad(terms["loss_ce"] + terms["loss_ce_0"], logits)
        for number, gradient in enumerate(gradients):
            own = torch.cat([found[rank][boxes][1][number] for rank in range(2)]) / 2
            torch.testing.assert_close(own, gradient)


if __name__ == "__main__":
    two_processes.join(found_by, int(sys.argv[1]), Path(sys.argv[2]))
