"""SOLOv2: the rows of Table 7 of the RS Loss paper (ICCV 2021) on COCO, and small forms for ``shapes`` and nuclei."""

from rankdet.recipes.schema.data import KeepRatio
from rankdet.recipes.schema.detectors import SOLOv2, Tiny
from rankdet.recipes.schema.losses import ConstantBalance, DiceQuality, FocalLoss, PositiveCount, RankSortLoss
from rankdet.recipes.schema.optimization import SGD, StepSchedule
from rankdet.recipes.schema.part import Part
from rankdet.recipes.schema.recipe import Recipe

from .coco import ON_COCO, resnet
from .experiment import Experiment, require
from .mask_rcnn import mask_rcnn_lite0_nuclei
from .shapes import ON_SHAPES

STANDARD = FocalLoss(
    tasks={"mask_balancing": ConstantBalance(weight=3.0), "dice_epsilon": 2e-3}, normalizer=PositiveCount(added=1.0)
)
RANKING = RankSortLoss(quality=DiceQuality(), tasks={"dice_epsilon": 2e-3})
LIGHT_SIZES = KeepRatio(long=768, shorts=(352, 384, 416, 448, 480, 512), test_short=448)
FULL_SIZES = KeepRatio(long=1333, shorts=(640, 672, 704, 736, 768, 800))
LIGHT = SOLOv2(
    backbone=resnet("resnet34.tv_in1k"),
    grids={
        "scale_ranges": ((1.0, 56.0), (28.0, 112.0), (56.0, 224.0), (112.0, 448.0), (224.0, 896.0)),
        "one_mask_per_cell": False,
        "convolutions": 2,
        "channels": 256,
    },
    mask_features={"out_channels": 128},
)
FULL = SOLOv2(
    backbone=resnet("resnet101.tv_in1k"),
    grids={
        "scale_ranges": ((1.0, 96.0), (48.0, 192.0), (96.0, 384.0), (192.0, 768.0), (384.0, 2048.0)),
        "one_mask_per_cell": False,
    },
)
SMALL = {"one_mask_per_cell": False, "convolutions": 2, "channels": 64, "groups": 8}


def rank_sort_form(standard: Recipe) -> Recipe:
    """Return ``standard``, a recipe of SOLOv2, with Rank & Sort Loss and one mask per cell; all else stays."""
    require(standard, SOLOv2)
    return standard.changed({"detector.grids.one_mask_per_cell": True}, losses={"grid": RANKING})


def _on_coco(detector: Part, *, batch_size: int, lr: float, resize: Part) -> Experiment:
    """36 epochs on COCO on four processes."""
    optimization = {
        "optimizer": SGD(lr=lr, reference_batch=4 * batch_size),
        "schedule": StepSchedule(epochs=36, milestones=(27 / 36, 33 / 36), warmup_iterations=500, warmup_factor=0.01),
        "runtime.clip_gradient_norm": 35.0,
    }
    return Experiment(
        lambda: Recipe(detector=detector, losses={"grid": STANDARD}, **ON_COCO),
        {"data": {"batch_size": batch_size, "resize": resize}} | optimization,
    )


solov2_light_r34_coco = _on_coco(LIGHT, batch_size=8, lr=0.02, resize=LIGHT_SIZES).described(
    "Standard SOLOv2-light: ResNet-34, focal loss and three times Dice (32.0 mask AP)."
)
rs_solov2_light_r34_coco = Experiment(solov2_light_r34_coco, rank_sort_form, {"optimizer.lr": 0.012}).described(
    "RS SOLOv2-light (32.6 mask AP): nothing to tune but the learning rate."
)
solov2_r101_coco = _on_coco(FULL, batch_size=4, lr=0.01, resize=FULL_SIZES).described(
    "Standard SOLOv2: ResNet-101, focal loss and three times Dice (39.1 mask AP)."
)
rs_solov2_r101_coco = Experiment(solov2_r101_coco, rank_sort_form, {"optimizer.lr": 0.006}).described(
    "RS SOLOv2 (39.7 mask AP): nothing to tune but the learning rate."
)


@Experiment
def solov2_shapes() -> Recipe:
    """Standard SOLOv2 on ``shapes``."""
    detector = SOLOv2(
        backbone=Tiny(),
        pyramid_channels=64,
        grids=SMALL
        | {
            # Objects have 15 to 77 pixels per side.
            "sizes": (16, 12, 8, 6),
            "scale_ranges": ((1.0, 32.0), (20.0, 48.0), (32.0, 64.0), (48.0, 256.0)),
        },
        mask_features={"channels": 32, "out_channels": 64, "groups": 8},
        # In so few iterations few scores pass the usual thresholds. A ranking loss is blind to where they all are.
        testing={"score_threshold": 0.01, "least_score": 0.001},
    )
    recipe = Recipe(detector=detector, losses={"grid": STANDARD}, **ON_SHAPES)
    return recipe.changed({"schedule.iterations": 900})


rs_solov2_shapes = Experiment(solov2_shapes, rank_sort_form).described(
    "RS SOLOv2 on ``shapes``: the same network, budget and learning rate."
)


@Experiment
def solov2_lite0_nuclei() -> Recipe:
    """Standard SOLOv2 with EfficientNet-Lite0 on nuclei: one class, up to 375 objects in an image."""
    detector = SOLOv2(
        backbone=mask_rcnn_lite0_nuclei().detector.backbone,
        pyramid_channels=64,
        grids=SMALL
        | {
            # At this size half of the nuclei have less than 38 pixels per side, and they lie side by side.
            "sizes": (64, 48, 32, 16),
            "scale_ranges": ((1.0, 32.0), (16.0, 64.0), (48.0, 128.0), (96.0, 512.0)),
        },
        mask_features={"channels": 64, "out_channels": 64, "groups": 8},
        # COCO's 100 would cut off a tenth of the images.
        testing={"score_threshold": 0.01, "least_score": 0.001, "num_candidates": 1200, "per_image": 400},
    )
    # Of 1e-3, 5e-4 and 2.5e-4 the first learns later, the others alike; 150 iterations are too few to find nuclei.
    changes = {"optimizer.lr": 5e-4, "schedule.iterations": 400}
    return mask_rcnn_lite0_nuclei().changed(changes, detector=detector, losses={"grid": STANDARD})


rs_solov2_lite0_nuclei = Experiment(solov2_lite0_nuclei, rank_sort_form).described(
    "RS SOLOv2 with EfficientNet-Lite0 on nuclei: the same network, budget and learning rate."
)
