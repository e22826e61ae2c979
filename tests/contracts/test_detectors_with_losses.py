"""Every detector with its real losses: gradients, batches without objects, odd sizes, and a tiny overfit.

A new detector is one entry of ``DETECTORS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from rankdet.losses import (
    ALRPLoss,
    APLoss,
    CenternessCrossEntropyLoss,
    CenternessWeights,
    ConstantBalance,
    DiceQuality,
    EqualizationLossV2,
    FocalLoss,
    GIoULoss,
    IoUCrossEntropyLoss,
    IoUWeights,
    L1Loss,
    MaskCrossEntropyLoss,
    NoWeights,
    PositiveCount,
    QualityFocalLoss,
    RankSortLoss,
    SemanticCrossEntropyLoss,
    SigmoidCrossEntropyLoss,
    SmoothL1Loss,
    SoftmaxCrossEntropyLoss,
    Tasks,
    ValueBalance,
    VarifocalLoss,
)
from rankdet.structures import Batch, Images, Source, Target

COLORS = torch.tensor([[230, 40, 40], [40, 230, 40], [40, 40, 230]], dtype=torch.uint8)
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
TWO = Target(torch.tensor([[4.0, 4.0, 26.0, 24.0], [22.0, 14.0, 58.0, 50.0]]), torch.tensor([2, 0]))
SMALL = Target(torch.tensor([[8.0, 30.0, 20.0, 42.0]]), torch.tensor([1]))


class Form(NamedTuple):
    """A detector with its losses; ``builder`` is the fixture that builds it, in either form."""

    builder: str
    ranking: bool
    losses: dict[str, nn.Module]
    falling: tuple[str, ...]
    """Terms and statistics that fall in a tiny overfit."""


class Trained(NamedTuple):
    """A detector and the loss of each of its heads."""

    detector: nn.Module
    losses: dict[str, nn.Module]


# The sum over the positives of a sampled second stage may grow, as their number does.
STANDARD = "rpn/classification", "rpn/localization", "rcnn/classification"
# The balanced localization repeats the value of the other terms: its unbalanced error is watched.
RANKING = "rpn/ranking", "rpn/localization_error", "rcnn/ranking", "rcnn/localization_error"
DENSE_STANDARD = "dense/classification", "dense/localization"
DENSE_RANKING = "dense/ranking", "dense/localization_error"

UNBALANCED = Tasks(box_loss=GIoULoss(2.0), delta_loss=L1Loss(5.0), weighting=NoWeights(), balancing=ConstantBalance())
EACH_BALANCED = Tasks(box_loss=GIoULoss(), delta_loss=L1Loss(), weighting=NoWeights())
QUERY_HEADS = ("encoder", "denoising1", "denoising2", "decoder1", "decoder2")

DETECTORS = {
    "Faster R-CNN, standard": Form(
        "tiny_faster_rcnn",
        ranking=False,
        losses={"rpn": SigmoidCrossEntropyLoss(SmoothL1Loss(1 / 9)), "rcnn": SoftmaxCrossEntropyLoss(L1Loss())},
        falling=STANDARD,
    ),
    "Faster R-CNN, standard, GIoU": Form(
        "tiny_faster_rcnn",
        ranking=False,
        losses={"rpn": SigmoidCrossEntropyLoss(L1Loss()), "rcnn": SoftmaxCrossEntropyLoss(GIoULoss(10.0))},
        falling=STANDARD,
    ),
    "Faster R-CNN, Equalization Loss v2": Form(
        "tiny_faster_rcnn",
        ranking=True,
        losses={"rpn": SigmoidCrossEntropyLoss(L1Loss()), "rcnn": EqualizationLossV2(L1Loss())},
        # Without a sampler its boxes are divided by all anchors, which hardly moves them in so few steps.
        falling=("rpn/classification", "rcnn/classification"),
    ),
    "Faster R-CNN, Rank & Sort": Form(
        "tiny_faster_rcnn", ranking=True, losses={"rpn": RankSortLoss(), "rcnn": RankSortLoss()}, falling=RANKING
    ),
    "Faster R-CNN+, standard": Form(
        "tiny_faster_rcnn_plus",
        ranking=False,
        losses={"rpn": SigmoidCrossEntropyLoss(L1Loss()), "rcnn": SoftmaxCrossEntropyLoss(L1Loss())},
        falling=STANDARD,
    ),
    "Faster R-CNN+, deformable, Rank & Sort": Form(
        "tiny_faster_rcnn_plus_dcn",
        ranking=True,
        losses={"rpn": RankSortLoss(), "rcnn": RankSortLoss()},
        falling=RANKING,
    ),
    "Mask R-CNN, standard": Form(
        "tiny_mask_rcnn",
        ranking=False,
        losses={"rpn": SigmoidCrossEntropyLoss(SmoothL1Loss(1 / 9)), "rcnn": SoftmaxCrossEntropyLoss(L1Loss())},
        falling=(*STANDARD, "rcnn/mask"),
    ),
    "Mask R-CNN, Rank & Sort": Form(
        "tiny_mask_rcnn",
        ranking=True,
        losses={"rpn": RankSortLoss(), "rcnn": RankSortLoss()},
        falling=(*RANKING, "rcnn/mask_error"),
    ),
    "Cascade R-CNN, standard": Form(
        "tiny_cascade_rcnn",
        ranking=False,
        losses={
            "rpn": SigmoidCrossEntropyLoss(SmoothL1Loss(1 / 9)),
            **{head: SoftmaxCrossEntropyLoss(SmoothL1Loss(1.0)) for head in ("rcnn1", "rcnn2", "rcnn3")},
        },
        falling=("rpn/classification", "rpn/localization", "rcnn1/classification", "rcnn2/classification"),
    ),
    "Cascade R-CNN, Rank & Sort": Form(
        "tiny_cascade_rcnn",
        ranking=True,
        losses={head: RankSortLoss() for head in ("rpn", "rcnn1", "rcnn2", "rcnn3")},
        # At first most positives are the objects' own boxes: localization errors begin low.
        falling=("rpn/ranking", "rpn/localization_error", "rcnn1/ranking", "rcnn2/ranking", "rcnn3/ranking"),
    ),
    "ATSS, standard": Form(
        "tiny_atss",
        ranking=False,
        losses={
            "dense": FocalLoss(
                tasks=Tasks(
                    box_loss=GIoULoss(2.0),
                    weighting=CenternessWeights(),
                    balancing=ConstantBalance(),
                    auxiliary=(CenternessCrossEntropyLoss(),),
                )
            )
        },
        falling=DENSE_STANDARD,
    ),
    "ATSS, Rank & Sort": Form("tiny_atss", ranking=True, losses={"dense": RankSortLoss()}, falling=DENSE_RANKING),
    "ATSS, quality focal loss": Form(
        "tiny_atss", ranking=True, losses={"dense": QualityFocalLoss()}, falling=("dense/localization",)
    ),
    "ATSS, varifocal loss": Form(
        "tiny_atss", ranking=True, losses={"dense": VarifocalLoss()}, falling=("dense/localization",)
    ),
    "ATSS, AP Loss": Form("tiny_atss", ranking=True, losses={"dense": APLoss()}, falling=DENSE_STANDARD),
    "ATSS, AP Loss and centerness": Form(
        "tiny_atss",
        ranking=False,
        losses={
            "dense": APLoss(
                tasks=Tasks(
                    weighting=CenternessWeights(),
                    balancing=ConstantBalance(2.0),
                    auxiliary=(CenternessCrossEntropyLoss(),),
                )
            )
        },
        falling=DENSE_STANDARD,
    ),
    "PAA, aLRP Loss": Form(
        "tiny_paa",
        ranking=True,
        losses={"dense": ALRPLoss(balancing=ValueBalance())},
        falling=("dense/classification",),  # its localization is divided by ranks, which fall
    ),
    "PAA, standard": Form(
        "tiny_paa",
        ranking=False,
        losses={
            "dense": FocalLoss(
                tasks=Tasks(
                    box_loss=GIoULoss(1.3),
                    weighting=IoUWeights(),
                    balancing=ConstantBalance(),
                    auxiliary=(IoUCrossEntropyLoss(),),
                )
            )
        },
        falling=DENSE_STANDARD,
    ),
    "PAA, Rank & Sort": Form("tiny_paa", ranking=True, losses={"dense": RankSortLoss()}, falling=DENSE_RANKING),
    "YOLACT, standard": Form(
        "tiny_yolact",
        ranking=False,
        losses={
            "dense": SoftmaxCrossEntropyLoss(
                SmoothL1Loss(1.0, 1.5),
                MaskCrossEntropyLoss(6.125, over_box_size=True),
                hard_negatives=100,
                auxiliary=(SemanticCrossEntropyLoss(),),
            )
        },
        falling=(*DENSE_STANDARD, "dense/mask", "dense/semantic"),
    ),
    "YOLACT, Rank & Sort": Form(
        "tiny_yolact",
        ranking=True,
        losses={"dense": RankSortLoss()},
        falling=(*DENSE_RANKING, "dense/mask_error"),
    ),
    "SOLOv2, standard": Form(
        "tiny_solov2",
        ranking=False,
        losses={
            "grid": FocalLoss(
                normalizer=PositiveCount(1.0),
                tasks=Tasks(
                    box_loss=GIoULoss(2.0),
                    weighting=NoWeights(),
                    balancing=ConstantBalance(),
                    mask_balancing=ConstantBalance(3.0),
                    dice_epsilon=2e-3,
                ),
            ),
        },
        falling=("grid/classification", "grid/mask"),
    ),
    "SOLOv2, aLRP Loss": Form(
        "tiny_solov2",
        ranking=True,
        losses={"grid": ALRPLoss(balancing=ValueBalance())},
        falling=("grid/classification",),
    ),
    "SOLOv2, Rank & Sort": Form(
        "tiny_solov2",
        ranking=True,
        losses={"grid": RankSortLoss(quality=DiceQuality(), tasks=Tasks(dice_epsilon=2e-3))},
        falling=("grid/ranking", "grid/mask_error"),
    ),
    "RT-DETR, standard": Form(
        "tiny_rt_detr",
        ranking=False,
        losses=dict.fromkeys(QUERY_HEADS, VarifocalLoss(constant_weights=True, tasks=UNBALANCED)),
        falling=("encoder/localization", "decoder2/localization"),
    ),
    "RT-DETR, Rank & Sort": Form(
        "tiny_rt_detr",
        ranking=True,
        losses=dict.fromkeys(QUERY_HEADS, RankSortLoss(tasks=UNBALANCED)),
        falling=("decoder2/ranking", "denoising2/ranking", "decoder2/localization"),
    ),
    "RT-DETR, balanced, Rank & Sort": Form(
        "tiny_rt_detr",
        ranking=True,
        losses={head: RankSortLoss(tasks=EACH_BALANCED) for head in QUERY_HEADS},
        falling=("decoder2/ranking", "denoising2/ranking", "decoder2/localization_error", "decoder2/deltas_error"),
    ),
}
EVERY_DETECTOR = pytest.mark.parametrize("name", DETECTORS)
SCENES = {
    "two images": ([TWO, SMALL], [(64, 64), (64, 64)]),
    "one image": ([TWO], [(64, 64)]),
    "odd sizes": ([TWO, SMALL], [(61, 83), (50, 97)]),
    "one without objects": ([EMPTY, TWO], [(64, 64), (64, 64)]),
    "none with objects": ([EMPTY, EMPTY], [(64, 64), (64, 70)]),
    "one alone without objects": ([EMPTY], [(33, 64)]),
}
Build = Callable[[str], Trained]


@pytest.fixture
def build(request: pytest.FixtureRequest) -> Build:
    """Builds a detector of ``DETECTORS`` by its name."""

    def by_name(name: str) -> Trained:
        form = DETECTORS[name]
        return Trained(request.getfixturevalue(form.builder)(form.ranking), form.losses)

    return by_name


def make_batch(targets: list[Target], sizes: list[tuple[int, int]]) -> Batch:
    """Images of faint noise in which every object is filled with the color of its class; its mask is its box."""
    height, width = (-(-max(size[axis] for size in sizes) // 32) * 32 for axis in (0, 1))
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    with_masks = []
    for image, target, (rows, columns) in zip(pixels, targets, sizes, strict=True):
        image[:, :rows, :columns] = torch.randint(90, 130, (3, rows, columns), generator=generator).to(torch.uint8)
        for (left, top, right, bottom), label in zip(target.boxes.int().tolist(), target.labels, strict=True):
            image[:, top:bottom, left:right] = COLORS[label][:, None, None]
        y, x = torch.arange(rows)[:, None] + 0.5, torch.arange(columns) + 0.5
        left, top, right, bottom = target.boxes[..., None, None].unbind(1)
        with_masks.append(replace(target, masks=(left < x) & (x < right) & (top < y) & (y < bottom)))
    sources = tuple(Source(i, f"{i}.png", size) for i, size in enumerate(sizes))
    return Batch(Images(pixels, tuple(sizes)), tuple(with_masks), sources)


def evaluate(trained: Trained, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All terms and statistics, by ``head/name``."""
    terms: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for candidates in trained.detector(batch):
        output = trained.losses[candidates.head](candidates)
        terms |= {f"{candidates.head}/{name}": value for name, value in output.terms.items()}
        stats |= {f"{candidates.head}/{name}": value for name, value in output.stats.items()}
    return terms, stats


def check_gradients(detector: nn.Module) -> None:
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@EVERY_DETECTOR
@pytest.mark.parametrize("scene", SCENES)
def test_every_parameter_receives_a_finite_gradient(build: Build, name: str, scene: str) -> None:
    trained, batch = build(name), make_batch(*SCENES[scene])
    terms, stats = evaluate(trained, batch)
    assert {term.split("/")[0] for term in terms} == set(trained.losses)
    for value in terms.values():
        assert value.ndim == 0
        assert value.isfinite()
        assert value.requires_grad
    assert not any(value.requires_grad for value in stats.values())
    sum(terms.values()).backward()
    check_gradients(trained.detector)


@EVERY_DETECTOR
@pytest.mark.parametrize("scene", ["odd sizes", "one without objects", "none with objects"])
def test_every_head_names_its_positives(build: Build, name: str, scene: str) -> None:
    for candidates in build(name).detector(make_batch(*SCENES[scene])):
        assert candidates.rows is not None
        assert torch.equal(candidates.rows, candidates.is_positive.nonzero().squeeze(1))
        assert len(candidates.rows) or not any(len(target.labels) for target in SCENES[scene][0])


@pytest.mark.parametrize("name", [name for name in DETECTORS if name.endswith("Rank & Sort")])
def test_without_any_object_rank_and_sort_moves_nothing(build: Build, name: str) -> None:
    trained = build(name)
    terms, _ = evaluate(trained, make_batch([EMPTY, EMPTY], [(64, 64), (40, 64)]))
    assert all(value == 0 for value in terms.values())
    sum(terms.values()).backward()
    assert not any(parameter.grad.any() for parameter in trained.detector.parameters() if parameter.requires_grad)


@EVERY_DETECTOR
def test_no_parameter_is_left_without_a_signal(build: Build, name: str) -> None:
    trained = build(name)
    terms, _ = evaluate(trained, make_batch([TWO, SMALL], [(64, 64), (64, 64)]))
    sum(terms.values()).backward()
    for parameter_name, parameter in trained.detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.any(), parameter_name


@EVERY_DETECTOR
def test_a_step_works_under_bfloat16_autocast(build: Build, name: str) -> None:
    trained, batch = build(name), make_batch([TWO, EMPTY], [(64, 64), (50, 70)])
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = evaluate(trained, batch)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms.values())
    sum(terms.values()).backward()
    check_gradients(trained.detector)


@EVERY_DETECTOR
def test_a_few_steps_on_one_image_bring_the_errors_down(build: Build, name: str) -> None:
    trained, batch = build(name), make_batch([TWO], [(64, 64)])
    optimizer = torch.optim.AdamW(trained.detector.parameters(), lr=5e-3)
    history: list[dict[str, float]] = []
    for _ in range(60):
        terms, stats = evaluate(trained, batch)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        history.append({key: value.item() for key, value in (terms | stats).items()})
    for key in DETECTORS[name].falling:
        first, last = (sum(entry[key] for entry in part) / 5 for part in (history[:5], history[-5:]))
        assert last < 0.8 * first, f"{key}: {first:.3f} -> {last:.3f}"
