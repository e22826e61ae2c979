"""Object detectors and instance segmenters trained with ranking-based losses."""

__version__ = "0.1.0"
