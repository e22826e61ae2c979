"""The loop: from a recipe to a run folder with checkpoints, log and evaluation."""

from rankdet.extras import require

require(__name__)
