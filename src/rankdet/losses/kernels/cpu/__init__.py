"""The two passes over the negatives on a CPU, sums among positives, and what finds these, compiled by numba.

Values that come out are those of :class:`rankdet.losses.negatives.TorchNegatives` up to rounding of float64. Logits are
handled in sections, as many as follow from sizes alone, whose sums are added in order: the result does not depend on
the number of threads. These are as many as torch has, and run without Python's lock.

Functions are compiled once for float32 and once for float64, when they are first called, and kept on disk where numba
finds a place for that.

Legend: N logits, P positives, K pools. Edges lie pool by pool. A cell has the place of the edge at which it ends;
values below all edges of their pool take the numbers 0 … ``LANES`` − 1, the lanes, in turn.
"""

from rankdet.losses.kernels.cpu.passes import NumbaNegatives
from rankdet.losses.kernels.cpu.roles import positive_logits, special_labels
from rankdet.losses.kernels.cpu.sorting import NumbaWindow, sort_in_pools

__all__ = ["NumbaNegatives", "NumbaWindow", "positive_logits", "sort_in_pools", "special_labels"]
