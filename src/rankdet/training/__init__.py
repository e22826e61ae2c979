"""The loop: from a recipe to a run folder with checkpoints, log and evaluation."""
