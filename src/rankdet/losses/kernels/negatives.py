"""The two passes over the negatives on a GPU: one counts them per cell, one writes their gradient. Triton only.

Each pass reads the logits once. It finds the negatives by itself, from labels or targets, so that nothing is indexed or
compacted and nothing waits for the device. The first pass adds integers: offsets inside a cell are rounded to multiples
of 1 / ``scale``. Integers add up to the same sum in any order, so every run has the same bits, as does any other code
of the same definition.

Legend: M candidates, C classes, E = 2P edges of the cells of P positives, R rows of replicated cells, K pools.

Notes
-----
The numbers below (block, warps, rows) follow from the sizes of a GPU, not from measurements. Each can change without
changing a single bit of the results.

Both passes can be captured in a CUDA graph, after one call outside of it with the same shapes, dtypes and roles: the
first call of each kind compiles, which no capture allows. The capture fixes addresses, shapes (so P) and ``scale``.
Each combination of these is compiled once, in about a second: dtype of the logits, labels or targets, number of
classes, ``E.bit_length()``, and whether addresses and number of logits are multiples of 16. If they are not, logits are
read one by one instead of four at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from rankdet.losses.cells import Cells
from rankdet.losses.negatives import Counted
from rankdet.losses.pools import Cycle, Runs
from rankdet.losses.roles import RankedCandidates

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):
    raise ImportError(f"the kernels need Triton 3.4 or newer, which torch 2.8 brings; this is {triton.__version__}")

LARGEST_OFFSET = (1 << 23) - 1
"""Offsets are capped here: 2²⁰ of them stay below 2⁴³, and float32 can round every smaller number by itself."""

BLOCK = 1024
"""Logits of one program: two 16-byte loads of float32 for each thread of four warps."""
PROGRAMS_OF_ROW = (1 << 20) // BLOCK
"""Programs that may share a row of cells: a packed cell can count to 2²⁰."""
MOST_ROWS = 1024
"""About as many programs as a large GPU runs at once: more rows would not make them meet less often."""
USEFUL_SCRATCH = 1 << 19
"""Packed cells (8 bytes) spent on keeping programs apart: 4 MiB, which the L2 cache holds."""
LARGEST_SCRATCH = 1 << 21
"""Packed cells held at a time, 16 MiB, and as much again while they are unpacked; more logits take more launches."""

COUNT_OPTIONS = {"num_warps": 4}
GRADIENT_OPTIONS = {**COUNT_OPTIONS, "enable_fp_fusion": False}
"""Without fusion each operation rounds by itself, as those of torch do; the pass waits for memory, not for these."""

_SHIFT = tl.constexpr(43)
_ONE = tl.constexpr(1 << 43)
_TWO_TO_23 = tl.constexpr(float(1 << 23))
_LARGEST_OFFSET = tl.constexpr(float(LARGEST_OFFSET))
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def _roles(
    labels: tl.tensor | None,
    targets: tl.tensor | None,
    start: tl.tensor,
    lane: tl.tensor,
    is_inside: tl.tensor,
    NUM_CLASSES: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Whether each logit ``start + lane`` is a negative, and whether it is not ignored; both false beyond the end."""
    if labels is not None:
        # One 64-bit division per program; those of the lanes are 32-bit, and by a constant.
        row = start // NUM_CLASSES
        position = (start - row * NUM_CLASSES).to(tl.int32) + lane
        label = tl.load(labels + row + position // NUM_CLASSES, mask=is_inside, other=-1)
        is_counted = label >= 0
        is_negative = is_counted & (label != position % NUM_CLASSES)
    else:
        target = tl.load(targets + start + lane, mask=is_inside, other=-1.0)
        if target.dtype != tl.float64:
            # Exact, and the interpreter cannot compare bfloat16.
            target = target.to(tl.float32)
        is_counted = ~(target < 0)  # NaN is a positive
        is_negative = target == 0
    return is_negative, is_counted


@triton.jit
def _pools(
    pools: tl.tensor,
    pool_width: tl.tensor,
    cycle: tl.tensor,
    start: tl.tensor,
    lane: tl.tensor,
    is_inside: tl.tensor,
) -> tl.tensor:
    """The pool of each logit ``start + lane``: every ``pool_width`` logits have one of ``cycle`` pools, in turns."""
    row = start // pool_width
    position = (start - row * pool_width).to(tl.int32) + lane
    place = ((row % cycle).to(tl.int32) + position // pool_width) % cycle
    return tl.load(pools + place, mask=is_inside, other=0)


@triton.jit
def _find(
    values: tl.tensor,
    is_relevant: tl.tensor,
    edges: tl.tensor,
    lowest: tl.tensor,
    num_edges: tl.tensor,
    STEPS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Cell and left edge of relevant values by a binary search without branches; the others read nothing.

    ``edges`` points to the lowest edge of the pool of each value, which has ``num_edges``; the cell is the number of
    them that a value reaches.
    """
    cells = tl.zeros_like(values).to(tl.int32)
    left = tl.zeros_like(values) + lowest
    for step in tl.static_range(STEPS):
        probe = cells + (1 << (STEPS - 1 - step))
        # Not by `other` alone: infinity would reach it.
        is_edge = is_relevant & (probe <= num_edges)
        edge = tl.load(edges + probe - 1, mask=is_edge, other=_INFINITY)
        is_reached = is_edge & (edge <= values)
        cells = tl.where(is_reached, probe, cells)
        left = tl.where(is_reached, edge, left)
    return cells, left


@triton.jit(do_not_specialize=["first_block", "num_edges", "num_rows", "pool_width", "cycle"])  # they vary
def _count(
    logits: tl.tensor,
    labels: tl.tensor | None,
    targets: tl.tensor | None,
    pools: tl.tensor | None,
    borders: tl.tensor | None,
    edges: tl.tensor,
    packed: tl.tensor,
    broken: tl.tensor,
    first_block: tl.tensor,
    num_logits: tl.tensor,
    num_edges: tl.tensor,
    num_rows: tl.tensor,
    scale: tl.tensor,
    pool_width: tl.tensor,
    cycle: tl.tensor,
    NUM_CLASSES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    start = (first_block + program).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    is_inside = lane < num_logits - start
    is_negative, is_counted = _roles(labels, targets, start, lane, is_inside, NUM_CLASSES)
    values = tl.load(logits + start + lane, mask=is_inside, other=0.0).to(tl.float32)
    is_finite = tl.abs(values) < _INFINITY
    if pools is not None:
        pool = _pools(pools, pool_width, cycle, start, lane, is_inside)
        first = tl.load(borders + pool, mask=is_inside, other=0)
        own_edges = tl.load(borders + pool + 1, mask=is_inside, other=0) - first
        lowest = tl.load(edges + first, mask=own_edges > 0, other=_INFINITY)
        broken += pool
    else:
        first = 0
        own_edges = num_edges
        lowest = tl.load(edges)
    is_relevant = is_negative & is_finite & (values >= lowest)
    # One sum answers two questions: how many are relevant, and is any not finite.
    found = tl.sum(is_relevant.to(tl.int32) + (is_counted & ~is_finite).to(tl.int32) * (2 * BLOCK), 0)
    # All programs write the same number, so it does not matter who comes last.
    if pools is not None:
        tl.store(broken, 1, mask=is_counted & ~is_finite)
    else:
        tl.store(broken, 1, mask=found >= 2 * BLOCK)
    # Late in training nearly all negatives lie below all positives, and many blocks end here.
    if found % (2 * BLOCK) > 0:
        cells, left = _find(values, is_relevant, edges + first, lowest, own_edges, STEPS)
        cells += first
        # Scaling by a power of two is exact, and adding 2²³ rounds half to even, fused with it or not.
        offsets = tl.minimum(tl.where(scale > 0, (values - left) * scale, 0.0), _LARGEST_OFFSET)
        offsets = (offsets + _TWO_TO_23) - _TWO_TO_23
        row = (program % num_rows).to(tl.int64) * (num_edges + 1)
        tl.atomic_add(packed + row + cells, offsets.to(tl.int64) + _ONE, mask=is_relevant, sem="relaxed")


@triton.jit(do_not_specialize=["num_edges", "pool_width", "cycle"])
def _gradient(
    logits: tl.tensor,
    labels: tl.tensor | None,
    targets: tl.tensor | None,
    pools: tl.tensor | None,
    borders: tl.tensor | None,
    edges: tl.tensor,
    value: tl.tensor,
    slope: tl.tensor,
    gradient: tl.tensor,
    num_logits: tl.tensor,
    num_edges: tl.tensor,
    pool_width: tl.tensor,
    cycle: tl.tensor,
    NUM_CLASSES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    is_inside = lane < num_logits - start
    is_negative, _ = _roles(labels, targets, start, lane, is_inside, NUM_CLASSES)
    values = tl.load(logits + start + lane, mask=is_inside, other=0.0).to(tl.float32)
    if pools is not None:
        pool = _pools(pools, pool_width, cycle, start, lane, is_inside)
        first = tl.load(borders + pool, mask=is_inside, other=0)
        own_edges = tl.load(borders + pool + 1, mask=is_inside, other=0) - first
        lowest = tl.load(edges + first, mask=own_edges > 0, other=_INFINITY)
    else:
        first = 0
        own_edges = num_edges
        lowest = tl.load(edges)
    is_relevant = is_negative & (values >= lowest)
    result = tl.zeros_like(values)
    if tl.max(is_relevant.to(tl.int32), 0) > 0:
        cells, left = _find(values, is_relevant, edges + first, lowest, own_edges, STEPS)
        cells += first
        at_left = tl.load(value + cells, mask=is_relevant, other=0.0)
        inclination = tl.load(slope + cells, mask=is_relevant, other=0.0)
        result = tl.where(is_relevant, at_left + inclination * (values - left), 0.0)
    tl.store(gradient + start + lane, result.to(gradient.dtype.element_ty), mask=is_inside)


class Launch(NamedTuple):
    """Blocks ``first_block`` to ``first_block + num_blocks`` of the logits, spread over ``num_rows`` rows of cells."""

    first_block: int
    num_blocks: int
    num_rows: int


def launches(num_blocks: int, num_cells: int) -> Iterator[Launch]:
    """How the blocks of one tensor are counted: no row gets more than 2²⁰ logits, and no launch too much memory.

    Depends on shapes alone, so nothing here waits for the device.
    """
    at_once = max(1, LARGEST_SCRATCH // num_cells) * PROGRAMS_OF_ROW
    useful = min(MOST_ROWS, USEFUL_SCRATCH // num_cells)
    for first in range(0, num_blocks, at_once):
        count = min(at_once, num_blocks - first)
        yield Launch(first, count, min(count, max(triton.cdiv(count, PROGRAMS_OF_ROW), useful)))


class PooledEdges(NamedTuple):
    """Which edges the logits of a level are compared with, where there are several pools.

    pools
        (R,) int32, 0 … K − 1: logit i of the level is in pool ``pools[i // width % R]``.
    width
        Logits that share an entry of ``pools``.
    borders
        (K + 1,) int32: the edges of pool k are those from ``borders[k]`` to ``borders[k + 1]``, ascending. Steps and
        cells of a pool begin at its lowest edge.
    """

    pools: Tensor
    width: int
    borders: Tensor


def count_negatives(
    logits: Tensor,
    labels: Tensor | None,
    targets: Tensor | None,
    edges: Tensor,
    scale: float,
    counts: Tensor,
    sums: Tensor,
    broken: Tensor,
    pooled: PooledEdges | None = None,
) -> None:
    r"""Add the negatives of each cell, and the sum of their offsets, to ``counts`` and ``sums``.

    The cell k of a logit s is the number of edges :math:`\le s`, its left edge is :math:`e_{max(k - 1, 0)}`, and its
    offset is

    .. math:: q = \min(\mathrm{round}((s - e_{k - 1}) \cdot scale),\ 2^{23} - 1)

    rounded half to even, computed in float32. Cell 0 is left alone: no positive sees what lies there.

    Parameters
    ----------
    logits
        (M, C), or any shape where ``targets`` are given; float32, float16 or bfloat16. All tensors are contiguous.
    labels
        (M,) int64: class 0 … C − 1 (one positive, the rest of the row negatives), C background (negatives), below 0
        ignored; None where ``targets`` are given.
    targets
        Shape of ``logits``, any floating dtype or int8: 0 is a negative, below 0 ignored, all else, NaN too, a
        positive; None where ``labels`` are given.
    edges
        (E,) float32, ascending, finite, E ≥ 1; they may be equal.
    scale
        Steps of the fixed-point offsets per logit, a power of two that float32 holds; 0 makes all offsets 0.
    counts, sums
        (E + 1,) int64; what they hold is added to, so that pyramid levels can come one after another.
    broken
        (K,) int32, set to 1 where a logit of the pool that is not ignored is NaN or infinite, a positive's too; else
        left alone. Such a logit is not counted.
    pooled
        The pools; None where there is one. The cell of a logit is then the number of the highest edge of its own pool
        that is ≤ s, counted from 1 over the edges of all pools, and 0 where there is none.

    Raises
    ------
    ValueError
        When not exactly one of ``labels`` and ``targets`` is given, or a tensor is not contiguous.

    Notes
    -----
    A packed cell holds count · 2⁴³ + sum of offsets in 64 bits, so a negative costs one atomic addition, and one below
    all edges none. Where many negatives share few cells the additions wait for each other; programs therefore spread
    over R rows of cells, summed at the end. One launch, and four operations of torch on R · (E + 1) numbers.
    """
    num_classes = _num_classes(logits, labels, targets, edges, counts, sums, broken)
    pools, borders, width, cycle = _pool_arguments(pooled)
    num_edges = edges.numel()
    with _device_of(logits):
        for first, num_blocks, num_rows in launches(triton.cdiv(logits.numel(), BLOCK), num_edges + 1):
            packed = counts.new_zeros(num_rows, num_edges + 1)
            _count[(num_blocks,)](
                *(logits, labels, targets, pools, borders, edges, packed, broken),
                *(first, logits.numel(), num_edges, num_rows, float(scale), width, cycle),
                NUM_CLASSES=num_classes,
                STEPS=num_edges.bit_length(),
                BLOCK=BLOCK,
                **COUNT_OPTIONS,
            )
            unpack(packed, counts, sums)


def unpack(packed: Tensor, counts: Tensor, sums: Tensor) -> None:
    """Add the (R, E + 1) packed cells to ``counts`` and ``sums``, each (E + 1,) int64; ``packed`` is used up."""
    shift = _SHIFT.value
    # A count of 2²⁰ reaches the sign, which the shift copies: hence the mask.
    counts += (packed >> shift).bitwise_and_((1 << (64 - shift)) - 1).sum(0)
    sums += packed.bitwise_and_((1 << shift) - 1).sum(0)


def write_gradient(
    logits: Tensor,
    labels: Tensor | None,
    targets: Tensor | None,
    edges: Tensor,
    value: Tensor,
    slope: Tensor,
    gradient: Tensor,
    pooled: PooledEdges | None = None,
) -> None:
    r"""Write :math:`value_k + slope_k (s - e_{k - 1})` for each negative s of cell k ≥ 1, and 0 for all other logits.

    The first arguments and the last are those of :func:`count_negatives`. ``value`` and ``slope`` are (E + 1,) float32:
    the gradient at the left edge of each cell, and its growth per logit. ``gradient`` has shape and dtype of the
    logits, and every element of it is written.

    Notes
    -----
    Difference, product and sum are each rounded to float32, never fused, as separate operations of torch would be. NaN
    lies in cell 0, so its gradient is 0; +∞ lies in the highest cell, of slope 0, so its gradient is NaN.
    """
    num_classes = _num_classes(logits, labels, targets, edges, value, slope, gradient)
    if logits.numel() == 0:
        return
    pools, borders, width, cycle = _pool_arguments(pooled)
    with _device_of(logits):
        _gradient[(triton.cdiv(logits.numel(), BLOCK),)](
            *(logits, labels, targets, pools, borders, edges, value, slope, gradient),
            *(logits.numel(), edges.numel(), width, cycle),
            NUM_CLASSES=num_classes,
            STEPS=edges.numel().bit_length(),
            BLOCK=BLOCK,
            **GRADIENT_OPTIONS,
        )


def _pool_arguments(pooled: PooledEdges | None) -> tuple[Tensor | None, Tensor | None, int, int]:
    """Pools, borders, width and cycle of the kernels."""
    return (None, None, 1, 1) if pooled is None else (pooled.pools, pooled.borders, pooled.width, len(pooled.pools))


def _num_classes(logits: Tensor, labels: Tensor | None, targets: Tensor | None, *others: Tensor) -> int:
    """Logits that share a label; 1 with targets, where it does not matter, so that it compiles nothing anew."""
    if (labels is None) == (targets is None):
        raise ValueError("either labels or targets must be given, not both")
    for tensor in (logits, labels, targets, *others):
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"a tensor of shape {tuple(tensor.shape)} and strides {tensor.stride()} is not contiguous")
    return logits.shape[-1] if targets is None else 1


def _device_of(logits: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the logits."""
    return torch.cuda.device(logits.device) if logits.is_cuda else nullcontext()


class TritonNegatives:
    """The passes over the negatives by these kernels, for levels on CUDA of less than double precision.

    Nothing waits for the device. The cells of logits are not kept: the second pass looks for them again.
    """

    def __init__(
        self, candidates: RankedCandidates, positives: Tensor, runs: Runs, delta: float, _: Tensor | None = None
    ) -> None:
        self.candidates = candidates
        self.cells = cells = Cells(positives, delta, candidates.dtype, runs)
        # Units per logit in which offsets inside of a cell are added up: 2²³ to the next power of two above 2δ.
        self.scale = 0.0 if cells.per_width == 0 else 2.0 ** (23 - math.ceil(-math.log2(cells.per_width)))

    def count(self, own: Tensor) -> Counted:
        """Make the first pass; see :meth:`rankdet.losses.negatives.Negatives.count`."""
        edges = self.cells.edges
        counts, offsets = (torch.zeros(len(self.cells), dtype=torch.int64, device=edges.device) for _ in range(2))
        broken = torch.zeros(self.candidates.num_pools, dtype=torch.int32, device=edges.device)
        for logits, labels, targets, pooled in self._levels():
            count_negatives(logits, labels, targets, edges, self.scale, counts, offsets, broken, pooled)
        sums = counts * self.cells.left + (offsets / self.scale if self.scale > 0 else 0.0)
        steps = self.cells.steps_over(counts.double(), sums)
        return Counted(steps, torch.where(broken > 0, torch.nan, 0.0).double())

    def gradient(self, weights: Tensor, of_positives: Tensor) -> list[Tensor]:
        """Make the second pass; see :meth:`rankdet.losses.negatives.Negatives.gradient`."""
        function = self.cells.weighted_steps(weights)
        # Anchored at the left edge of each cell, so that no large numbers cancel in single precision.
        value = function.offset + function.slope * self.cells.left
        total = function.total
        if self.candidates.pools:
            total = functional.pad(self.cells.edge_runs.of_each(total), (1, 0))
        none = torch.zeros_like(total)
        value = value.clamp(torch.minimum(none, total), torch.maximum(none, total)).float()
        gradients, positives, start = [], self.candidates.positives, 0
        for logits, labels, targets, pooled in self._levels():
            gradient = torch.empty_like(logits)
            write_gradient(logits, labels, targets, self.cells.edges, value, function.slope.float(), gradient, pooled)
            flat = gradient.view(-1)
            if len(flat):
                # The kernel leaves zeros at the positives. Adding to them needs no index of a length that varies.
                here = (positives >= start) & (positives < start + len(flat))
                index = (positives - start).clamp(0, len(flat) - 1)
                flat.scatter_add_(0, index, of_positives.where(here, 0.0).to(flat.dtype))
            gradients.append(gradient)
            start += len(flat)
        return [part.view(level.shape) for part, level in zip(gradients, self.candidates.logits, strict=True)]

    def _levels(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None, PooledEdges | None]]:
        """Contiguous logits of each level with their labels or their targets, and pools where there are several."""
        for number, (level, marks) in enumerate(zip(self.candidates.logits, self.candidates.marks, strict=True)):
            is_dense, pooled = marks.shape == level.shape, None
            if self.candidates.pools:
                pools, width = Cycle.of(self.candidates.pools[number], level.shape)
                pooled = PooledEdges(pools.to(torch.int32), width, self.cells.edge_runs.borders.to(torch.int32))
            roles = (None, marks.contiguous()) if is_dense else (marks.contiguous(), None)
            yield level.contiguous(), *roles, pooled
