"""Fixtures that the tests of all packages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import yaml

from rankdet.extras import missing

if missing() is None:  # losses and metrics are tested without the trainer, too
    from rankdet.backbones import CarafeFPN, HybridEncoder, TimmBackbone, TinyBackbone, make_deformable
    from rankdet.data import make_shapes
    from rankdet.detectors import ATSS, PAA, RTDETR, YOLACT, CascadeRCNN, FasterRCNN, MaskRCNN, SOLOv2
    from rankdet.heads import (
        AnchorGenerator,
        BoxStage,
        Denoising,
        DenseStage,
        GridStage,
        MaskFeatureSettings,
        MaskStage,
        ProposalSettings,
        QueryDecoder,
        RegionProposalNetwork,
    )
    from rankdet.label_assignment import RandomSampler
    from rankdet.recipes import Recipe, load_recipe

    OneStage = TypeVar("OneStage", ATSS, PAA)

SHARED = Path(__file__).resolve().parents[2] / "shared"
TINY = {
    "base": "rs_faster_rcnn_shapes",
    "name": "tiny",
    "data": {"batch_size": 2, "workers": 0},
    "detector": {"pyramid_channels": 16, "backbone": {"channels": [8, 16, 16]}, "rcnn": {"channels": 16}},
    "schedule": {"iterations": 4, "warmup_iterations": 2},
    "evaluation": {"at_end": False},
    "runtime": {"log_interval": 3, "checkpoint_interval": 2, "threads": 1, "device": "cpu"},
}


@pytest.fixture
def shared() -> Callable[..., Path]:
    """Finds a file of larger test material beside the checkout; the test is skipped without it."""

    def find(*parts: str) -> Path:
        path = SHARED.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"needs {'/'.join(parts)}, which is not part of this repository")
        return path

    return find


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 6 validation images of 64 pixels."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=24, val=6, size=64)


@pytest.fixture(scope="session")
def tiny_file(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains in a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    data = TINY["data"] | {"folder": str(shapes_folder)}
    path.write_text(yaml.safe_dump(TINY | {"data": data}))
    return path


@pytest.fixture
def tiny(tiny_file: Path) -> Callable[[Sequence[str]], Recipe]:
    """The recipe with overrides."""
    torch.set_num_threads(1)

    def load(*overrides: str) -> Recipe:
        return load_recipe(tiny_file, overrides)

    return load


@pytest.fixture
def tiny_faster_rcnn() -> Callable[[bool], FasterRCNN]:
    """Builds the ranking or the standard form of a tiny detector of three classes; the forms differ in values only."""
    return build_tiny_faster_rcnn


def build_tiny_faster_rcnn(ranking: bool) -> FasterRCNN:
    torch.manual_seed(0)
    return FasterRCNN(
        3,
        backbone=TinyBackbone((8, 16, 32)),
        pyramid_channels=16,
        extra_levels=0,
        rpn=tiny_rpn(ranking),
        rcnn=partial(
            BoxStage,
            softmax=not ranking,
            channels=32,
            sampler=None if ranking else RandomSampler(32, 0.25),
            finest_scale=16.0,
        ),
    )


def tiny_rpn(ranking: bool) -> Callable[..., RegionProposalNetwork]:
    """The first stage of tiny detectors."""
    return partial(
        RegionProposalNetwork,
        anchor_scale=4.0,
        delta_stds=(0.1, 0.1, 0.2, 0.2) if ranking else (1.0, 1.0, 1.0, 1.0),
        sampler=None if ranking else RandomSampler(64, 0.5),
        train_proposals=ProposalSettings(per_level=200, per_image=50),
        test_proposals=ProposalSettings(per_level=100, per_image=50),
    )


@pytest.fixture
def tiny_faster_rcnn_plus() -> Callable[[bool], FasterRCNN]:
    """As ``tiny_faster_rcnn``, with a pyramid that enlarges by CARAFE."""
    return build_tiny_faster_rcnn_plus


def build_tiny_faster_rcnn_plus(ranking: bool) -> FasterRCNN:
    detector = build_tiny_faster_rcnn(ranking)
    detector.fpn = CarafeFPN(detector.backbone.channels, 16, extra_levels=0)
    return detector


@pytest.fixture
def tiny_faster_rcnn_plus_dcn() -> Callable[[bool], FasterRCNN]:
    """As ``tiny_faster_rcnn_plus``, with a deformable backbone and a coarser level."""
    return build_tiny_faster_rcnn_plus_dcn


def build_tiny_faster_rcnn_plus_dcn(ranking: bool) -> FasterRCNN:
    detector = build_tiny_faster_rcnn(ranking)
    # Bottlenecks of timm start as identities, behind which their other weights have no gradient yet.
    options = {"layers": (1, 1, 1, 1), "channels": (4, 8, 16, 16), "zero_init_last": False}
    backbone = TimmBackbone("resnet26", (1, 2, 3), options=options)
    make_deformable(backbone)
    detector.backbone = backbone
    detector.fpn = CarafeFPN(backbone.channels, 16, extra_levels=1)
    detector.rpn.anchors = AnchorGenerator((*backbone.strides, 32), scales=(4.0,))
    return detector


@pytest.fixture
def tiny_mask_rcnn() -> Callable[[bool], MaskRCNN]:
    """As ``tiny_faster_rcnn``, with a mask for at most 20 positive RoIs in the ranking form."""
    return build_tiny_mask_rcnn


def build_tiny_mask_rcnn(ranking: bool) -> MaskRCNN:
    torch.manual_seed(0)
    return MaskRCNN(
        3,
        backbone=TinyBackbone((8, 16, 32)),
        pyramid_channels=16,
        extra_levels=0,
        rpn=tiny_rpn(ranking),
        rcnn=partial(
            BoxStage,
            softmax=not ranking,
            channels=32,
            low_quality_iou=0.5,
            sampler=None if ranking else RandomSampler(32, 0.25),
            finest_scale=16.0,
        ),
        mask=partial(MaskStage, channels=16, convolutions=1, pooled_size=7, budget=20 if ranking else None),
    )


@pytest.fixture
def tiny_cascade_rcnn() -> Callable[[bool], CascadeRCNN]:
    """As ``tiny_faster_rcnn``, with three stages."""
    return build_tiny_cascade_rcnn


def build_tiny_cascade_rcnn(ranking: bool) -> CascadeRCNN:
    first = build_tiny_faster_rcnn(ranking)
    # Of larger anchors none of the coarsest level would lie inside of a tiny image.
    first.rpn.anchors = AnchorGenerator(first.backbone.strides, scales=(3.0,))
    first.rpn.allowed_border = 0
    stds = {0.5: (0.1, 0.1, 0.2, 0.2), 0.6: (0.05, 0.05, 0.1, 0.1), 0.7: (0.033, 0.033, 0.067, 0.067)}
    stages = [
        BoxStage(
            16,
            first.backbone.strides,
            3,
            True,
            softmax=not ranking,
            channels=32,
            delta_stds=stds[0.5] if ranking else stds[iou],
            positive_iou=iou,
            sampler=None if ranking else RandomSampler(32, 0.25),
            finest_scale=16.0,
        )
        for iou in stds
    ]
    detector = CascadeRCNN(
        3,
        backbone=first.backbone,
        pyramid_channels=16,
        extra_levels=0,
        rpn=lambda *_: first.rpn,
        rcnn1=lambda *_: stages[0],
        rcnn2=lambda *_: stages[1],
        rcnn3=lambda *_: stages[2],
    )
    detector.fpn = first.fpn
    return detector


@pytest.fixture
def tiny_atss() -> Callable[[bool], ATSS]:
    """As ``tiny_faster_rcnn``: three anchors per cell and no auxiliary head, or one anchor and centerness."""
    return lambda ranking: build_tiny_one_stage(ATSS, ranking)


@pytest.fixture
def tiny_paa() -> Callable[[bool], PAA]:
    """As ``tiny_faster_rcnn``: three anchors per cell and no auxiliary head, or one anchor and IoU."""
    return lambda ranking: build_tiny_one_stage(partial(PAA, cost_giou_weight=1.0, added_variance=1e-5), ranking)


def build_tiny_one_stage(kind: Callable[..., OneStage], ranking: bool) -> OneStage:
    torch.manual_seed(0)
    scales = (3.0, 3.0 * 2 ** (1 / 3), 3.0 * 2 ** (2 / 3)) if ranking else (4.0,)
    return kind(
        3,
        backbone=TinyBackbone((8, 16, 32)),
        pyramid_channels=16,
        extra_levels=1,
        dense=partial(DenseStage, anchor_scales=scales, auxiliary=not ranking, convolutions=2, groups=4),
        test_per_level=100,
    )


@pytest.fixture
def tiny_yolact() -> Callable[[bool], YOLACT]:
    """As ``tiny_faster_rcnn``: sigmoid and all masks, or softmax, a semantic head and at most 3 masks per image."""
    return build_tiny_yolact


def build_tiny_yolact(ranking: bool) -> YOLACT:
    torch.manual_seed(0)
    return YOLACT(
        3,
        backbone=TinyBackbone((8, 16, 32)),
        pyramid_channels=16,
        extra_levels=1,
        softmax=not ranking,
        semantic=not ranking,
        prototypes=8,
        mask_channels=16,
        mask_convolutions=1,
        masks_per_image=None if ranking else 3,
        test_per_level=100,
    )


@pytest.fixture
def tiny_solov2() -> Callable[[bool], SOLOv2]:
    """As ``tiny_faster_rcnn``: one mask per cell, or all masks of a cell."""
    return build_tiny_solov2


def build_tiny_solov2(ranking: bool) -> SOLOv2:
    torch.manual_seed(0)
    return SOLOv2(
        3,
        backbone=TinyBackbone((8, 16, 32)),
        pyramid_channels=16,
        extra_levels=1,
        grids=partial(
            GridStage,
            sizes=(8, 6, 4, 3),
            scale_ranges=((1.0, 24.0), (12.0, 32.0), (24.0, 48.0), (32.0, 96.0)),
            one_mask_per_cell=ranking,
            convolutions=2,
            channels=16,
            groups=4,
        ),
        mask_features=MaskFeatureSettings(channels=8, out_channels=8, groups=4),
    )


@pytest.fixture
def tiny_rt_detr() -> Callable[[bool], RTDETR]:
    """As ``tiny_faster_rcnn``; both forms are the same network."""
    return build_tiny_rt_detr


def build_tiny_rt_detr(ranking: bool) -> RTDETR:
    torch.manual_seed(0)
    return RTDETR(
        3,
        backbone=TinyBackbone((8, 16, 32)),
        pyramid_channels=16,
        encoder=partial(HybridEncoder, heads=2, feedforward=32, blocks=1, groups=4),
        decoder=partial(QueryDecoder, channels=16, queries=30, layers=2, heads=2, points=2, feedforward=32, groups=4),
        denoising=partial(Denoising, queries=10),
    )
