"""What a training says about itself: outputs that have left the range where their losses have a gradient."""

from __future__ import annotations

from collections.abc import Mapping

MOST = 0.5
"""The largest share of a head's outputs without gradient that nothing is said about."""

_MESSAGES = {
    "boxes_limited": (
        "the boxes of {share:.0%} of the positives are as large or as small as boxes can be, where GIoU has no "
        "gradient; lower the learning rate, or set runtime.clip_gradient_norm=1.0"
    ),
    "masks_saturated": (
        "{share:.0%} of the wrong pixels of masks have logits beyond ±4.6, where Dice has hardly a gradient; lower the "
        "learning rate, or set runtime.clip_gradient_norm=1.0"
    ),
}
"""By the name of a statistic of `rankdet.losses.tasks.Tasks`."""


class Health:
    """Warnings about outputs without gradient, each once for a head."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def warnings(self, statistics: Mapping[str, float]) -> list[str]:
        """Return what the statistics of a record (``head/name``) show that was not said before.

        Examples
        --------
        >>> health = Health()
        >>> health.warnings({"rpn/boxes_limited": 0.97})[0][:61]
        'warning: rpn: the boxes of 97% of the positives are as large '
        >>> health.warnings({"rpn/boxes_limited": 1.0})
        []
        """
        found = []
        for name, share in statistics.items():
            head, _, kind = name.partition("/")
            if kind in _MESSAGES and share > MOST and name not in self._told:
                self._told.add(name)
                found.append(f"warning: {head}: {_MESSAGES[kind].format(share=share)}")
        return found
