"""Trainings that faults befall: small, and of all kinds."""

from __future__ import annotations

from dataclasses import dataclass

COMMON = (
    "data.batch_size=2",
    "schedule.iterations=4",
    "schedule.warmup_iterations=2",
    "evaluation.every=2",
    "evaluation.batch_size=2",
    "runtime.log_interval=1",
    "runtime.checkpoint_interval=1",
    "runtime.keep_checkpoints=2",
    "runtime.threads=1",
    "runtime.device=cpu",
)


@dataclass(frozen=True)
class Scenario:
    """A training: its recipe, what is changed of it, processes, and workers of each that read images."""

    recipe: str
    changes: tuple[str, ...] = ()
    processes: int = 1
    workers: int = 0

    @property
    def name(self) -> str:
        """What the table of a failure calls it."""
        return " ".join([self.recipe, *self.changes, f"{self.processes} processes, {self.workers} workers"])

    @property
    def arguments(self) -> list[str]:
        """Recipe and changes, as on the command line."""
        return [self.recipe, *COMMON, f"data.workers={self.workers}", *self.changes]


SCENARIOS = (
    Scenario("rs_faster_rcnn_shapes"),
    Scenario("rs_faster_rcnn_shapes", processes=2, workers=1),
    Scenario("rs_faster_rcnn_shapes", ("losses.rpn={type: alrp}", "losses.rcnn={type: alrp}"), workers=1),
    Scenario("rs_mask_rcnn_shapes", ("runtime.clip_gradient_norm=1.0",)),
    Scenario("rs_cascade_rcnn_shapes", workers=2),
    Scenario("rs_atss_shapes", ("runtime.precision=bfloat16",)),
    Scenario("rs_paa_shapes", workers=3),
    Scenario("rs_yolact_shapes", ("runtime.accumulation=2", "data.batch_size=1"), processes=3, workers=1),
    Scenario("rs_solov2_shapes", ("ema={decay: 0.9, warmup_iterations: 2}",)),
    Scenario("rs_detr_shapes", ("ema={decay: 0.9, warmup_iterations: 2}",), workers=1),
)
"""All detectors; one to three processes, up to three workers; bfloat16, accumulation, averages, epoch balance."""
