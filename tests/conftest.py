"""Fixtures that the tests of all packages share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
import torch
import yaml

from rankdet.backbones import FPN, CarafeFPN, TimmBackbone, TinyBackbone, make_deformable
from rankdet.data import make_shapes
from rankdet.detectors import ATSS, PAA, YOLACT, CascadeRCNN, FasterRCNN, MaskRCNN, SOLOv2
from rankdet.heads import (
    AnchorGenerator,
    BoxCoder,
    BoxHead,
    BoxStage,
    CenteredAnchors,
    DenseHead,
    DenseStage,
    GridHead,
    GridStage,
    InstanceHead,
    InstanceStage,
    MaskFeatures,
    MaskHead,
    MaskStage,
    ProposalSettings,
    PrototypeNetwork,
    RegionProposalNetwork,
    RoIPooling,
    RPNHead,
    SemanticHead,
)
from rankdet.label_assignment import ATSSAssigner, GridAssigner, MaxIoUAssigner, PAAAssigner, RandomSampler
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
    stds = (0.1, 0.1, 0.2, 0.2)
    backbone = TinyBackbone((8, 16, 32))
    anchors = AnchorGenerator(backbone.strides, scales=(4.0,))
    return FasterRCNN(
        backbone=backbone,
        fpn=FPN(backbone.channels, 16, extra_levels=0),
        rpn=RegionProposalNetwork(
            head=RPNHead(16, anchors.num_per_cell),
            anchors=anchors,
            coder=BoxCoder(stds) if ranking else BoxCoder(),
            assigner=MaxIoUAssigner(0.7, 0.3, low_quality_iou=0.3),
            sampler=None if ranking else RandomSampler(64, 0.5),
            train_proposals=ProposalSettings(per_level=200, per_image=50),
            test_proposals=ProposalSettings(per_level=100, per_image=50),
        ),
        rcnn=BoxStage(
            pooling=RoIPooling(backbone.strides, finest_scale=16),
            head=BoxHead(16, 3, softmax=not ranking, channels=32),
            coder=BoxCoder(stds),
            assigner=MaxIoUAssigner(0.5, 0.5),
            sampler=None if ranking else RandomSampler(32, 0.25),
        ),
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
    boxes = build_tiny_faster_rcnn(ranking)
    boxes.rcnn.assigner = MaxIoUAssigner(0.5, 0.5, low_quality_iou=0.5)
    return MaskRCNN(
        backbone=boxes.backbone,
        fpn=boxes.fpn,
        rpn=boxes.rpn,
        rcnn=boxes.rcnn,
        mask=MaskStage(
            pooling=RoIPooling(boxes.backbone.strides, finest_scale=16, output_size=7),
            head=MaskHead(16, 3, channels=16, num_convolutions=1),
            budget=20 if ranking else None,
        ),
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
    return CascadeRCNN(
        backbone=first.backbone,
        fpn=first.fpn,
        rpn=first.rpn,
        stages=[
            BoxStage(
                pooling=RoIPooling(first.backbone.strides, finest_scale=16),
                head=BoxHead(16, 3, softmax=not ranking, channels=32, class_agnostic=True),
                coder=BoxCoder(stds[0.5] if ranking else stds[iou]),
                assigner=MaxIoUAssigner(iou, iou),
                sampler=None if ranking else RandomSampler(32, 0.25),
            )
            for iou in stds
        ],
    )


@pytest.fixture
def tiny_atss() -> Callable[[bool], ATSS]:
    """As ``tiny_faster_rcnn``: three anchors per cell and no auxiliary head, or one anchor and centerness."""
    return lambda ranking: build_tiny_one_stage(ATSS, ATSSAssigner(), ranking)


@pytest.fixture
def tiny_paa() -> Callable[[bool], PAA]:
    """As ``tiny_faster_rcnn``: three anchors per cell and no auxiliary head, or one anchor and IoU."""
    return lambda ranking: build_tiny_one_stage(PAA, PAAAssigner(), ranking)


def build_tiny_one_stage(kind: type[OneStage], assigner: ATSSAssigner | PAAAssigner, ranking: bool) -> OneStage:
    torch.manual_seed(0)
    backbone = TinyBackbone((8, 16, 32))
    scales = (3.0, 3.0 * 2 ** (1 / 3), 3.0 * 2 ** (2 / 3)) if ranking else (4.0,)
    anchors = AnchorGenerator((*backbone.strides, 32), scales, ratios=(1.0,))
    head = DenseHead(
        16,
        3,
        num_per_cell=anchors.num_per_cell,
        num_levels=4,
        auxiliary=not ranking,
        num_convolutions=2,
        groups=4,
    )
    return kind(
        backbone=backbone,
        fpn=FPN(backbone.channels, 16, extra_levels=1, extra_convolutions=True),
        dense=DenseStage(head=head, anchors=anchors, coder=BoxCoder((0.1, 0.1, 0.2, 0.2))),
        assigner=assigner,
        test_per_level=100,
    )


@pytest.fixture
def tiny_yolact() -> Callable[[bool], YOLACT]:
    """As ``tiny_faster_rcnn``: sigmoid and all masks, or softmax, a semantic head and at most 3 masks per image."""
    return build_tiny_yolact


def build_tiny_yolact(ranking: bool) -> YOLACT:
    torch.manual_seed(0)
    backbone = TinyBackbone((8, 16, 32))
    anchors = CenteredAnchors(sides=(12.0, 24.0, 48.0, 96.0))
    return YOLACT(
        backbone=backbone,
        fpn=FPN(backbone.channels, 16, extra_levels=1, extra_convolutions=True, extra_from_input=True, bilinear=True),
        head=InstanceHead(16, 3, num_per_cell=anchors.num_per_cell, num_prototypes=8, softmax=not ranking),
        prototypes=PrototypeNetwork(16, num_prototypes=8, channels=16, num_convolutions=1),
        instances=InstanceStage(
            anchors=anchors, coder=BoxCoder((0.1, 0.1, 0.2, 0.2)), masks_per_image=None if ranking else 3
        ),
        semantic=None if ranking else SemanticHead(16, 3),
        test_per_level=100,
    )


@pytest.fixture
def tiny_solov2() -> Callable[[bool], SOLOv2]:
    """As ``tiny_faster_rcnn``: one mask per cell, or all masks of a cell."""
    return build_tiny_solov2


def build_tiny_solov2(ranking: bool) -> SOLOv2:
    torch.manual_seed(0)
    backbone = TinyBackbone((8, 16, 32))
    grids = (8, 6, 4, 3)
    ranges = ((1.0, 24.0), (12.0, 32.0), (24.0, 48.0), (32.0, 96.0))
    return SOLOv2(
        backbone=backbone,
        fpn=FPN(backbone.channels, 16, extra_levels=1),
        grid=GridStage(
            head=GridHead(16, 3, grids=grids, kernel_channels=8, num_convolutions=2, channels=16, groups=4),
            mask_features=MaskFeatures(16, 3, channels=8, out_channels=8, groups=4),
            assigner=GridAssigner(grids, ranges, one_mask_per_cell=ranking),
            strides=(*backbone.strides, 32),
        ),
    )
