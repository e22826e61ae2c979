"""Run folders, checkpoints, processes and signals: what lies on disk, who writes it, and when to stop."""
