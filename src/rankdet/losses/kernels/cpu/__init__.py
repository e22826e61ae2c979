"""The two passes over the negatives on a CPU, and sums among positives, compiled by numba. numba only.

Values that come out are those of :class:`rankdet.losses.negatives.TorchNegatives` up to rounding of float64. Logits are
handled in sections, as many as follow from sizes alone, whose sums are added in order: the result does not depend on
the number of threads. These are as many as torch has, and run without Python's lock.

Functions are compiled once for float32 and once for float64, when they are first called, and kept on disk where numba
finds a place for that.

Legend: N logits, P positives, K pools. Edges lie pool by pool. The cell above the edge at place e has the number
e + ``LANES``; values below all edges of their pool take the numbers 0 … ``LANES`` − 1, the lanes, in turn.
"""

from rankdet.losses.kernels.cpu.passes import NumbaNegatives
from rankdet.losses.kernels.cpu.sorting import NumbaWindow

__all__ = ["NumbaNegatives", "NumbaWindow"]
