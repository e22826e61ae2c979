"""SOLOv2: the rows of Table 7 of the RS Loss paper (ICCV 2021) on COCO, and small forms for ``shapes`` and nuclei."""

from rankdet.recipes.schema.data import KeepRatio
from rankdet.recipes.schema.detectors import Grids, HubWeights, MaskFeatures, MaskTesting, SOLOv2, Timm
from rankdet.recipes.schema.losses import ConstantBalance, DiceLabel, Focal, PositiveCount, RankSort
from rankdet.recipes.schema.optimization import SGD, StepSchedule
from rankdet.recipes.schema.recipe import Recipe

from .coco import faster_rcnn_r50_coco
from .mask_rcnn import mask_rcnn_lite0_nuclei
from .shapes import faster_rcnn_shapes

STANDARD = Focal(mask_balancing=ConstantBalance(weight=3.0), normalizer=PositiveCount(added=1.0), dice_epsilon=2e-3)
RANKING = RankSort(label=DiceLabel(), dice_epsilon=2e-3)


def solov2_light_r34_coco() -> Recipe:
    """Standard SOLOv2-light: ResNet-34, focal loss and three times Dice (32.0 mask AP)."""
    return _on_coco("solov2_light_r34_coco", _light(), batch_size=8, lr=0.02, resize=_LIGHT_SIZES)


def rs_solov2_light_r34_coco() -> Recipe:
    """RS SOLOv2-light (32.6 mask AP): nothing to tune but the learning rate."""
    return rank_sort_form(solov2_light_r34_coco(), "rs_solov2_light_r34_coco", lr=0.012)


def solov2_r101_coco() -> Recipe:
    """Standard SOLOv2: ResNet-101, focal loss and three times Dice (39.1 mask AP)."""
    return _on_coco("solov2_r101_coco", _full(), batch_size=4, lr=0.01, resize=_FULL_SIZES)


def rs_solov2_r101_coco() -> Recipe:
    """RS SOLOv2 (39.7 mask AP): nothing to tune but the learning rate."""
    return rank_sort_form(solov2_r101_coco(), "rs_solov2_r101_coco", lr=0.006)


def solov2_shapes() -> Recipe:
    """Standard SOLOv2 on ``shapes``."""
    base = faster_rcnn_shapes()
    detector = SOLOv2(
        backbone=base.detector.backbone,
        pyramid_channels=64,
        grids=Grids(
            # Objects have 15 to 77 pixels per side.
            sizes=(16, 12, 8, 6),
            scale_ranges=((1.0, 32.0), (20.0, 48.0), (32.0, 64.0), (48.0, 256.0)),
            one_mask_per_cell=False,
            convolutions=2,
            channels=64,
            groups=8,
        ),
        mask_features=MaskFeatures(channels=32, out_channels=64, groups=8),
        # In so few iterations few scores pass the usual thresholds. A ranking loss is blind to where they all are.
        testing=MaskTesting(score_threshold=0.01, least_score=0.001),
    )
    return Recipe(
        name="solov2_shapes",
        detector=detector,
        losses={"grid": STANDARD},
        data=base.data,
        optimizer=base.optimizer,
        schedule=base.schedule.model_copy(update={"iterations": 900}),
        evaluation=base.evaluation,
        runtime=base.runtime,
    )


def rs_solov2_shapes() -> Recipe:
    """RS SOLOv2 on ``shapes``: the same network, budget and learning rate."""
    return rank_sort_form(solov2_shapes(), "rs_solov2_shapes")


def solov2_lite0_nuclei() -> Recipe:
    """Standard SOLOv2 with EfficientNet-Lite0 on nuclei: one class, up to 375 objects in an image."""
    base = mask_rcnn_lite0_nuclei()
    detector = SOLOv2(
        backbone=base.detector.backbone,
        pyramid_channels=64,
        grids=Grids(
            # At this size half of the nuclei have less than 38 pixels per side, and they lie side by side.
            sizes=(64, 48, 32, 16),
            scale_ranges=((1.0, 32.0), (16.0, 64.0), (48.0, 128.0), (96.0, 512.0)),
            one_mask_per_cell=False,
            convolutions=2,
            channels=64,
            groups=8,
        ),
        mask_features=MaskFeatures(channels=64, out_channels=64, groups=8),
        # COCO's 100 would cut off a tenth of the images.
        testing=MaskTesting(score_threshold=0.01, least_score=0.001, num_candidates=1200, per_image=400),
    )
    # Of 1e-3, 5e-4 and 2.5e-4 the first learns later, the others alike; 150 iterations are too few to find nuclei.
    optimizer = base.optimizer.model_copy(update={"lr": 5e-4})
    schedule = base.schedule.model_copy(update={"iterations": 400})
    parts = {"detector": detector, "losses": {"grid": STANDARD}, "optimizer": optimizer, "schedule": schedule}
    return base.model_copy(update={"name": "solov2_lite0_nuclei", **parts})


def rs_solov2_lite0_nuclei() -> Recipe:
    """RS SOLOv2 with EfficientNet-Lite0 on nuclei: the same network, budget and learning rate."""
    return rank_sort_form(solov2_lite0_nuclei(), "rs_solov2_lite0_nuclei")


def rank_sort_form(standard: Recipe, name: str, lr: float | None = None) -> Recipe:
    """The recipe ``name``: ``standard``, one of SOLOv2, with Rank & Sort Loss, and a cell learns one mask.

    Budget and, without ``lr``, learning rate stay.
    """
    detector = solov2_of(standard)
    grids = detector.grids.model_copy(update={"one_mask_per_cell": True})
    changes = {
        "name": name,
        "detector": detector.model_copy(update={"grids": grids}),
        "losses": {"grid": RANKING},
    }
    if lr is not None:
        changes["optimizer"] = standard.optimizer.model_copy(update={"lr": lr})
    return standard.model_copy(update=changes)


def solov2_of(recipe: Recipe) -> SOLOv2:
    """The detector of a recipe of SOLOv2; raises TypeError where it is another one."""
    if not isinstance(recipe.detector, SOLOv2):
        raise TypeError(f"recipe {recipe.name} has a detector of type {recipe.detector.type}, not solov2")
    return recipe.detector


_LIGHT_SIZES = KeepRatio(long=768, shorts=(352, 384, 416, 448, 480, 512), test_short=448)
_FULL_SIZES = KeepRatio(long=1333, shorts=(640, 672, 704, 736, 768, 800))


def _light() -> SOLOv2:
    return SOLOv2(
        backbone=_resnet("resnet34.tv_in1k"),
        grids=Grids(
            scale_ranges=((1.0, 56.0), (28.0, 112.0), (56.0, 224.0), (112.0, 448.0), (224.0, 896.0)),
            one_mask_per_cell=False,
            convolutions=2,
            channels=256,
        ),
        mask_features=MaskFeatures(out_channels=128),
    )


def _full() -> SOLOv2:
    return SOLOv2(
        backbone=_resnet("resnet101.tv_in1k"),
        grids=Grids(
            scale_ranges=((1.0, 96.0), (48.0, 192.0), (96.0, 384.0), (192.0, 768.0), (384.0, 2048.0)),
            one_mask_per_cell=False,
        ),
    )


def _resnet(name: str) -> Timm:
    backbone = faster_rcnn_r50_coco().detector.backbone
    assert isinstance(backbone, Timm)
    return backbone.model_copy(update={"name": name, "weights": HubWeights(name=name)})


def _on_coco(name: str, detector: SOLOv2, *, batch_size: int, lr: float, resize: KeepRatio) -> Recipe:
    """36 epochs on COCO on four processes."""
    base = faster_rcnn_r50_coco()
    return Recipe(
        name=name,
        detector=detector,
        losses={"grid": STANDARD},
        data=base.data.model_copy(update={"batch_size": batch_size, "resize": resize}),
        optimizer=SGD(lr=lr, reference_batch=4 * batch_size),
        schedule=StepSchedule(epochs=36, milestones=(27 / 36, 33 / 36), warmup_iterations=500, warmup_factor=0.01),
        evaluation=base.evaluation,
        runtime=base.runtime.model_copy(update={"clip_gradient_norm": 35.0}),
    )
