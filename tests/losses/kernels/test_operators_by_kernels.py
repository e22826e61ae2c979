"""Whole ranking losses by the Triton kernels: against torch's own operations, and what a GPU must not wait for.

The kernels run in Triton's interpreter, in a process of its own (see test_negatives.py); nothing else of a loss differs
between the two. What a GPU would wait for is found without one: fake tensors have no values to look at, and no copy
between host and device goes unseen.

Legend: M candidates, C classes, P positives, δ half the width of the soft step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rankdet.losses import (
    ALRPLoss,
    APLoss,
    CenternessCrossEntropyLoss,
    CenternessWeights,
    ConstantBalance,
    EpochBalance,
    IoUCrossEntropyLoss,
    IoUWeights,
    MeanQuality,
    Pools,
    RankingWeights,
    RankSortLoss,
    Tasks,
    alrp,
    alrp_loss_at,
    alrp_loss_of_labels,
    ap_loss_at,
    ap_loss_of_labels,
    average_precision,
    rank_sort,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)
from rankdet.losses.rank_sort import _without_zeros
from rankdet.losses.ranking import Kind, gradients, rank
from rankdet.losses.roles import RankedCandidates, from_index, from_labels, from_targets, in_pools
from rankdet.structures import Candidates, Matched, is_class

kernels = pytest.importorskip("rankdet.losses.kernels.negatives", exc_type=ImportError)

C = 5
SIZES = [310, 0, 90, 1, 60]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")


KINDS = {
    "rank & sort": Kind(rank_sort._rule, 2, 1),
    "average precision": Kind(partial(average_precision._rule, interpolate=True), 1, 1),
    "average precision, plain": Kind(partial(average_precision._rule, interpolate=False), 1, 1),
    "alrp": Kind(alrp._rule, 2, 2),
}
by_kind = pytest.mark.parametrize("name", KINDS)
by_form = pytest.mark.parametrize("form", ["labels", "targets", "index"])
Form = Literal["labels", "targets", "index"]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Callable[..., Any]]:
    """Calls a function of the package in a process where Triton interprets."""
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(int).result()  # starts the process
        yield lambda function, *args: pool.submit(function, *args).result()


class Pool(NamedTuple):
    """(M, C) logits, (M,) labels, (M, C) targets that say the same, and (P,) qualities of the positives."""

    logits: Tensor
    labels: Tensor
    targets: Tensor
    quality: Tensor


def draw(dtype: torch.dtype = torch.float32, num: int = sum(SIZES), seed: int = 0) -> Pool:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4 * C, (num,), generator=generator).clamp(max=C)
    labels[::9] = -1
    for border in (0, 309, 310, 400, 401):
        labels[border] = -1
    is_positive = labels[:, None] == torch.arange(C)
    targets = is_positive * (0.1 + 0.8 * torch.rand(num, C, generator=generator))
    targets[labels < 0] = -1
    logits = 2 * torch.randn(num, C, generator=generator)
    return Pool((8 * logits).round().to(dtype) / 8, labels, targets, targets[targets > 0])


def places_of(pool: Pool) -> Tensor:
    """Of the positives, in the flat logits."""
    return (pool.targets.reshape(-1) > 0).nonzero().squeeze(1)


def candidates_of(
    pool: Pool, form: Form, sizes: Sequence[int], reads_labels: bool = False
) -> tuple[RankedCandidates, Tensor]:
    # Clones, for one storage can be sent to another process in one way only.
    levels = [level.clone() for level in pool.logits.split(list(sizes))]
    if form == "labels":
        marks = [level.clone() for level in pool.labels.split(list(sizes))]
        return from_labels(levels, marks, len(pool.quality), reads_labels=reads_labels), pool.quality
    if form == "index":
        ignored = [level < 0 for level in pool.labels.split(list(sizes))]
        candidates, _ = from_index(levels, places_of(pool), ignored=ignored, makes_targets=True)
        # The passes of torch read no targets: they get rows to ignore.
        rows = (pool.labels < 0).nonzero().squeeze(1)
        return candidates._replace(
            marks=[mark.clone() for mark in candidates.marks], ignored=rows, width=C
        ), pool.quality
    return from_targets(levels, [level.clone() for level in pool.targets.split(list(sizes))])


class Graded(NamedTuple):
    """(K,) values, (J, P) numbers of the positives, and the gradient of each level."""

    values: Tensor
    per_positive: Tensor
    gradients: list[Tensor]


def graded(
    name: str,
    candidates: RankedCandidates,
    numbers: Tensor,
    delta: float,
    by: Literal["torch", "triton"],
    run: Callable[..., Any] = lambda function, *args: function(*args),
) -> Graded:
    given = *candidates, delta, by, ""
    values, per_positive, *found, _ = run(rank, KINDS[name], *given, numbers, False)
    upstream = torch.arange(1.0, values.numel() + 1).view_as(values)
    return Graded(values, per_positive, run(gradients, None, *given, *found, upstream))


def assert_close(found: Graded, expected: Graded, tolerance: float) -> None:
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.per_positive, expected.per_positive, rtol=1e-6, atol=1e-7)
    for mine, theirs in zip(found.gradients, expected.gradients, strict=True):
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance / 10)


@by_kind
@by_form
@pytest.mark.parametrize("delta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sizes", [[sum(SIZES)], SIZES], ids=["one level", "levels"])
def test_kernels_give_the_losses_of_torch(
    interpreter: Callable[..., Any], name: str, form: Form, delta: float, sizes: list[int]
) -> None:
    candidates, numbers = candidates_of(draw(), form, sizes)
    expected = graded(name, candidates, numbers, delta, "torch")
    assert_close(graded(name, candidates, numbers, delta, "triton", interpreter), expected, 1e-5)


POOLS = {
    "of candidates": (torch.arange(sum(SIZES)) * 7 % 4)[:, None],
    "of classes": torch.arange(C) % 4,
    "leading": (torch.arange(sum(SIZES)) // 200)[:, None],
    "one": torch.tensor([[1]]),
}


@by_kind
@by_form
@pytest.mark.parametrize("pools", POOLS)
def test_kernels_give_the_losses_of_pools(interpreter: Callable[..., Any], name: str, form: Form, pools: str) -> None:
    """Of which the fifth is empty. A logit that is not finite spoils its own alone."""
    pool = draw()
    spoiled = pool.logits.clone()
    spoiled[int((pool.labels == 1).nonzero()[5]), 2] = torch.nan
    index = POOLS[pools].expand(len(pool.logits), -1) if len(POOLS[pools]) in (1, len(pool.logits)) else POOLS[pools]
    for logits in (pool.logits, spoiled):
        for sizes in ([sum(SIZES)], SIZES):
            candidates, numbers = candidates_of(pool._replace(logits=logits), form, sizes)
            parts = index.split(sizes) if len(index) == sum(SIZES) else [index] * len(sizes)
            candidates = in_pools(candidates, Pools([part.clone() for part in parts], 5))
            expected = graded(name, candidates, numbers, 0.5, "torch")
            found = graded(name, candidates, numbers, 0.5, "triton", interpreter)
            torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=1e-7, equal_nan=True)
            assert found.values.isnan().any() == (logits is spoiled)
            for mine, theirs in zip(found.gradients, expected.gradients, strict=True):
                sound = ~theirs.isnan()
                torch.testing.assert_close(mine[sound], theirs[sound], rtol=1e-5, atol=1e-6)
                assert not (mine[~sound].isfinite() & (mine[~sound] != 0)).any()


@by_kind
@by_form
def test_kernels_give_the_losses_of_half_precision(interpreter: Callable[..., Any], name: str, form: Form) -> None:
    candidates, numbers = candidates_of(draw(torch.float16), form, SIZES)
    expected = graded(name, candidates, numbers, 0.5, "torch")
    assert_close(graded(name, candidates, numbers, 0.5, "triton", interpreter), expected, 1e-3)


@by_kind
@by_form
def test_kernels_need_no_positives(interpreter: Callable[..., Any], name: str, form: Form) -> None:
    pool = draw()
    pool = pool._replace(labels=pool.labels.where(pool.labels < 0, C), targets=pool.targets.clamp(max=0))
    candidates, numbers = candidates_of(pool._replace(quality=pool.quality[:0]), form, SIZES)
    found = graded(name, candidates, numbers, 0.5, "triton", interpreter)
    assert not found.values.any()
    assert not any(gradient.any() for gradient in found.gradients)


@by_kind
@pytest.mark.parametrize("sizes", [[sum(SIZES)], SIZES], ids=["one level", "levels"])
def test_a_logit_that_is_not_finite_spoils_the_value(
    interpreter: Callable[..., Any], name: str, sizes: list[int]
) -> None:
    pool = draw()
    positive = int((pool.labels == 1).nonzero()[0])
    for row, column in ((positive, 1), (positive, 2), (len(pool.labels) - 1, 0)):
        assert pool.labels[row] >= 0
        spoiled = pool.logits.clone()
        spoiled[row, column] = torch.nan
        candidates, numbers = candidates_of(pool._replace(logits=spoiled), "labels", sizes)
        assert graded(name, candidates, numbers, 0.5, "triton", interpreter).values.isnan().all()
    ignored = pool.logits.clone()
    ignored[pool.labels < 0] = torch.nan
    candidates, numbers = candidates_of(pool._replace(logits=ignored), "labels", sizes)
    clean, _ = candidates_of(pool, "labels", sizes)
    assert_close(
        graded(name, candidates, numbers, 0.5, "triton", interpreter), graded(name, clean, numbers, 0.5, "torch"), 1e-5
    )


def test_a_dropped_positive_is_a_negative_for_the_kernels(interpreter: Callable[..., Any]) -> None:
    pool = draw()
    quality = pool.quality.masked_fill(pool.quality < 0.4, 0)
    labels, quality, _ = _without_zeros(pool.logits, pool.labels, quality)
    candidates, numbers = candidates_of(pool._replace(labels=labels[0], quality=quality), "labels", SIZES)
    expected = graded("rank & sort", candidates, numbers, 0.5, "torch")
    assert_close(graded("rank & sort", candidates, numbers, 0.5, "triton", interpreter), expected, 1e-5)


@pytest.mark.parametrize("sizes", [[sum(SIZES)], SIZES], ids=["one level", "levels"])
def test_roles_of_a_known_number_are_those_looked_up(sizes: list[int]) -> None:
    pool = draw()
    levels, marks, num = pool.logits.split(sizes), pool.labels.split(sizes), len(pool.quality)
    looked_up = from_labels(levels, marks).positives
    rows = looked_up // C
    for reads_labels in (False, True):
        assert torch.equal(from_labels(levels, marks, num, reads_labels=reads_labels).positives, looked_up)
        known = from_labels(levels, marks, num, rows=rows, reads_labels=reads_labels)
        assert torch.equal(known.positives, looked_up)
    assert (from_labels(levels, marks, num - 1, rows=rows[1:], reads_labels=True).positives == -1).all()


@by_kind
def test_a_wrong_index_spoils_the_value(interpreter: Callable[..., Any], name: str) -> None:
    """Nothing may wait to look at it; on a CPU that is so where torch compiles."""
    pool, find = draw(), torch.compile(partial(from_index, makes_targets=True), backend="eager")
    for wrong in (-1, len(pool.logits) * C, int(places_of(pool)[0])):
        index = places_of(pool).index_fill(0, torch.tensor([7]), wrong)
        candidates, _ = find(pool.logits.clone(), index)
        assert graded(name, candidates, pool.quality, 0.5, "triton", interpreter).values.isnan().all()


@by_kind
@pytest.mark.parametrize("sizes", [[sum(SIZES)], SIZES], ids=["one level", "levels"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_positives_spoils_the_value(
    interpreter: Callable[..., Any], name: str, sizes: list[int], change: int
) -> None:
    """Nothing may wait to look at it."""
    pool = draw()
    numbers = pool.quality.repeat(2)[: len(pool.quality) + change]
    candidates, numbers = candidates_of(pool._replace(quality=numbers), "labels", sizes, reads_labels=True)
    assert graded(name, candidates, numbers, 0.5, "triton", interpreter).values.isnan().all()


# What a GPU would wait for


class NoTransfers(TorchDispatchMode):
    """Raises where an operation brings tensors from one device to another, which also no graph captures."""

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            given = {arg.device for arg in args if isinstance(arg, Tensor) and (arg.dim() or "copy" in str(operation))}
            assert given <= {result.device}, f"{operation} brings {given} to {result.device}"
        return result


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors on a GPU that is not there, and kernels that do nothing."""
    for kernel in ("count_negatives", "write_gradient"):
        monkeypatch.setattr(kernels, kernel, lambda *args: None)
    with FakeTensorMode(), NoTransfers():
        yield


def fake_candidates(num: int = 400, num_positives: int = 30, knows_rows: bool = False) -> Candidates:
    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, device="cuda", requires_grad=True)

    labels = torch.zeros(num, dtype=torch.int64, device="cuda")
    boxes, masks, heads = rand(num_positives, 4), rand(num_positives, 7, 7), rand(num_positives)
    return Candidates(
        "dense",
        rand(num, C),
        labels,
        C,
        boxes=Matched(boxes, boxes.detach()),
        masks=Matched(masks, masks.detach()),
        auxiliary={"centerness": Matched(heads, heads.detach()), "iou": Matched(heads, heads.detach())},
        centerness=rand(num_positives).detach(),
        rows=torch.arange(num_positives, device="cuda") if knows_rows else None,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, transfers of fake tensors differ: capture shows it")
def test_the_trap_catches_what_waits() -> None:
    with FakeTensorMode(), NoTransfers():
        values = torch.zeros(3, device="cuda")
        with pytest.raises(DataDependentOutputException):
            bool(values.sum() > 0)
        with pytest.raises(DataDependentOutputException):
            values.sum().item()
        with pytest.raises(DynamicOutputShapeException):
            values.nonzero()
        with pytest.raises(DynamicOutputShapeException):
            values[values > 0]
        for bring in (lambda: values.cpu(), lambda: values.new_tensor(3.0), lambda: values + torch.zeros(3).cuda()):
            with pytest.raises(AssertionError, match="brings"):
                bring()
        with pytest.raises(AssertionError, match="brings"):
            values[0] = 3.0  # a copy of one number is one, too


@pytest.mark.usefixtures("fake_gpu")
@by_kind
@pytest.mark.parametrize("num_positives", [1, 30, 2000])  # the last takes the sorting that is meant for many
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_no_step_of_an_operator_waits_for_a_gpu(name: str, num_positives: int, delta: float) -> None:
    logits = [torch.rand(num, C, device="cuda") for num in (3000, 0, 10)]
    labels = [torch.zeros(num, dtype=torch.int64, device="cuda") for num in (3000, 0, 10)]
    numbers = torch.rand(num_positives, device="cuda")
    for levels, marks in ((logits, labels), (logits[0], labels[0])):
        for rows in (None, torch.arange(num_positives, device="cuda")):
            candidates = from_labels(levels, marks, num_positives, rows=rows, reads_labels=True)
            given = *candidates, delta, "triton", ""
            found = rank(KINDS[name], *given, numbers, False)
            upstream = torch.rand(KINDS[name].num_values, 1, device="cuda")
            gradients(None, *given, *found[2:-1], upstream)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("num_positives", [0, 30])
def test_naming_positives_waits_for_nothing(num_positives: int) -> None:
    index = torch.arange(num_positives, device="cuda")
    levels = [torch.rand(num, C, device="cuda") for num in (3000, 0, 10)]
    ignored = [torch.zeros(len(level), dtype=torch.bool, device="cuda") for level in levels]
    single = torch.zeros(3000, C, dtype=torch.bool, device="cuda")
    for logits, places, mask in ((levels, index, None), (levels, index, ignored), (levels[0], (index, index), single)):
        candidates, _ = from_index(logits, places, ignored=mask, makes_targets=True)
        assert [mark.shape for mark in candidates.marks] == [level.shape for level in candidates.logits]
        given = *candidates, 0.5, "triton", ""
        found = rank(KINDS["rank & sort"], *given, torch.rand(num_positives, device="cuda"), False)
        gradients(None, *given, *found[2:-1], torch.rand(2, 1, device="cuda"))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "rank & sort": RankSortLoss,
    "rank & sort by IoU": lambda: RankSortLoss(quality=MeanQuality(), tasks=Tasks(weighting=IoUWeights())),
    "rank & sort by rank": lambda: RankSortLoss(
        tasks=Tasks(weighting=RankingWeights(0.5), balancing=ConstantBalance(2.0))
    ),
    "average precision": APLoss,
    "average precision with heads": lambda: APLoss(
        tasks=Tasks(
            weighting=CenternessWeights(),
            balancing=ConstantBalance(2.0),
            auxiliary=(CenternessCrossEntropyLoss(), IoUCrossEntropyLoss()),
        )
    ),
    "alrp": lambda: ALRPLoss(balancing=EpochBalance(iterations=2)),
}


@pytest.fixture
def module(name: str) -> nn.Module:
    """One of the modules, made before the GPU is a fake: torch cannot copy fake buffers."""
    return MODULES[name]()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("num_positives", [0, 30])
@pytest.mark.parametrize("knows_rows", [False, True], ids=["", "rows"])
def test_no_step_of_a_module_waits_for_a_gpu(
    module: nn.Module, num_positives: int, knows_rows: bool, fake_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loss in (rank_sort._RANK_SORT, average_precision._INTERPOLATED, alrp._ALRP):
        # With fake tensors torch calls a description of the operator, not the operator.
        monkeypatch.setattr(loss, "operator", loss.operator._init_fn)
    for buffer_name, buffer in list(module.named_buffers()):
        owner, _, attribute = buffer_name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, torch.zeros(buffer.shape, dtype=buffer.dtype, device="cuda"))
    terms, stats = module(fake_candidates(num_positives=num_positives, knows_rows=knows_rows))
    assert all(value.is_cuda and value.ndim == 0 for value in (terms | stats).values())


# On a GPU


def place_by_labels(pool: Pool) -> tuple[Tensor, Tensor]:
    """Rows and classes of the positives, of which the number is known."""
    rows = torch.nonzero_static(is_class(pool.labels, C), size=len(pool.quality)).squeeze(1)
    return rows, pool.labels[rows]


FUNCTIONS: dict[str, Callable[[Pool], Sequence[Tensor]]] = {
    "rank & sort": lambda pool: rank_sort_loss_of_labels(pool.logits, pool.labels, pool.quality),
    "average precision": lambda pool: [ap_loss_of_labels(pool.logits, pool.labels, len(pool.quality))],
    "alrp": lambda pool: alrp_loss_of_labels(pool.logits, pool.labels, 1 - pool.quality),
    "rank & sort, index": lambda pool: rank_sort_loss_at(
        pool.logits, place_by_labels(pool), pool.quality, ignored=pool.labels < 0
    ),
    "average precision, index": lambda pool: [ap_loss_at(pool.logits, place_by_labels(pool), ignored=pool.labels < 0)],
    "alrp, index": lambda pool: alrp_loss_at(
        pool.logits, place_by_labels(pool), 1 - pool.quality, ignored=pool.labels < 0
    ),
    "levels": lambda pool: rank_sort_loss_of_labels(
        pool.logits.split([1000, 0, len(pool.logits) - 1000]),
        pool.labels.split([1000, 0, len(pool.labels) - 1000]),
        pool.quality,
    ),
}


def evaluated(name: str, pool: Pool) -> list[Tensor]:
    """Values and gradient, each weighed by itself."""
    pool = pool._replace(logits=pool.logits.detach().requires_grad_())
    values = FUNCTIONS[name](pool)
    (gradient,) = torch.autograd.grad(sum((k + 1) * value for k, value in enumerate(values)), pool.logits)
    return [*(value.detach() for value in values), gradient]


@pytest.fixture
def no_wait() -> Iterator[Callable[[], Any]]:
    """Switches to errors where the host waits for the GPU; after the test all is as before."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def of_candidates(pool: Pool) -> Candidates:
    """On the device of the pool."""
    num, device = len(pool.quality), pool.logits.device
    generator = torch.Generator().manual_seed(1)
    corner = 10 * torch.rand(num, 2, generator=generator)
    target = torch.cat([corner, corner + 1 + 5 * torch.rand(num, 2, generator=generator)], dim=1)
    predicted = (target + torch.rand(num, 4, generator=generator)).to(device).requires_grad_()
    logits = pool.logits.detach().clone().requires_grad_()
    return Candidates("dense", logits, pool.labels, C, boxes=Matched(predicted, target.to(device)))


def stepped(module: nn.Module, candidates: Candidates) -> list[Tensor]:
    """Terms, statistics, gradients."""
    terms, stats = module(candidates)
    gradients = torch.autograd.grad(sum(terms.values()), [candidates.logits, candidates.boxes.predicted])
    return [value.detach() for value in (*terms.values(), *stats.values(), *gradients)]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_gpu_repeats_its_bits_waits_for_nothing_and_agrees_with_the_cpu(
    name: str, dtype: torch.dtype, no_wait: Callable[[], Any]
) -> None:
    pool = draw(dtype, 20_000)
    there = Pool(*(value.cuda() for value in pool))
    first = evaluated(name, there)  # compiles the kernels
    no_wait()
    runs = [evaluated(name, there) for _ in range(20)]
    torch.cuda.set_sync_debug_mode("default")
    for run in runs:
        assert all(map(torch.equal, run, first))
    for mine, theirs in zip(first, evaluated(name, pool), strict=True):
        precision = torch.finfo(mine.dtype).eps
        torch.testing.assert_close(mine.cpu(), theirs, rtol=32 * precision, atol=precision)


@needs_gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_double_precision_on_a_gpu_keeps_its_digits(name: str) -> None:
    """By torch's own operations, which may wait."""
    pool = draw(torch.float64, 20_000)
    there = Pool(*(value.cuda() for value in pool))
    for mine, theirs in zip(evaluated(name, there), evaluated(name, pool), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-9, atol=1e-12)


GPU_MODULES = {name: build for name, build in MODULES.items() if "heads" not in name and "IoU" not in name}


@needs_gpu
@pytest.mark.parametrize("name", GPU_MODULES)
def test_a_module_waits_for_nothing_and_agrees_with_the_cpu(name: str, no_wait: Callable[[], Any]) -> None:
    pool = draw(num=20_000)
    there = of_candidates(Pool(*(value.cuda() for value in pool)))
    first = stepped(GPU_MODULES[name]().cuda(), there)
    again = GPU_MODULES[name]().cuda()
    no_wait()
    second = stepped(again, there)
    torch.cuda.set_sync_debug_mode("default")
    assert all(map(torch.equal, second, first))
    for mine, theirs in zip(first, stepped(GPU_MODULES[name](), of_candidates(pool)), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-5, atol=1e-6)


@needs_gpu
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_of_a_gpu_replays_a_loss(name: str) -> None:
    there = Pool(*(value.cuda() for value in draw(num=20_000)))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        evaluated(name, there)  # compiles, which a capture does not allow
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = evaluated(name, there)
    # The same candidates in other orders: P stays.
    for seed in range(3):
        order = torch.randperm(len(there.labels), generator=torch.Generator().manual_seed(seed)).cuda()
        logits = there.logits[order] + 0.1 * seed
        there.logits.copy_(logits)
        there.labels.copy_(there.labels[order])
        graph.replay()
        expected = evaluated(name, there)
        assert all(map(torch.equal, captured, expected))
