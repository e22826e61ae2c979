"""The Triton kernels of the negatives: in Triton's interpreter, as PTX, and on a GPU where there is one.

Triton decides whether to interpret when a kernel is decorated, once for a process. So the interpreter has a process of
its own, which works on the tensors of this one through shared memory; here the same kernels are compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

kernels = pytest.importorskip("rankdet.losses.kernels.negatives", exc_type=ImportError)
triton = pytest.importorskip("triton")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Runner(NamedTuple):
    """``run(function, *args)`` calls a function that writes into its tensors, on ``device``."""

    device: str
    run: Callable[..., None]


@pytest.fixture(scope="module", params=["interpreter", "cuda"] if torch.cuda.is_available() else ["interpreter"])
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if request.param == "cuda":
        yield Runner("cuda", _run_on_cuda)
        return
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pool.submit(int).result()  # starts the process
        yield Runner("interpreter", lambda function, *args: pool.submit(function, *args).result())


def _run_on_cuda(function: Callable[..., None], *args: object) -> None:
    there = [arg.cuda() if isinstance(arg, Tensor) else arg for arg in args]
    function(*there)
    for arg, copy in zip(args, there, strict=True):
        if isinstance(arg, Tensor):
            arg.copy_(copy)


class Logits(NamedTuple):
    """Logits (M, C) with the roles of one of both kinds."""

    logits: Tensor
    labels: Tensor | None
    targets: Tensor | None

    def negatives(self) -> Tensor:
        """(M, C) bool, from the words of the contract."""
        if self.labels is None:
            return self.targets == 0
        classes = torch.arange(self.logits.shape[1])
        return (self.labels[:, None] >= 0) & (classes != self.labels[:, None])

    def ignored(self) -> Tensor:
        return (self.labels[:, None] if self.targets is None else self.targets).expand_as(self.logits) < 0


class Cells(NamedTuple):
    """What a count leaves behind."""

    counts: Tensor
    sums: Tensor
    broken: Tensor

    @classmethod
    def of(cls, edges: Tensor) -> Cells:
        long = torch.zeros(len(edges) + 1, dtype=torch.int64)
        return cls(long, long.clone(), torch.zeros(1, dtype=torch.int32))

    def assert_equals(self, expected: Cells) -> None:
        for mine, theirs in zip(self, expected, strict=True):
            assert torch.equal(mine, theirs)


def expected_cells(given: Logits, edges: Tensor, scale: float) -> Cells:
    """The definition, with PyTorch's search and PyTorch's rounding."""
    values = given.logits.float()
    found = Cells.of(edges)
    if bool((~values.isfinite() & ~given.ignored()).any()):
        found.broken.fill_(1)
    values = values[given.negatives() & values.isfinite()]
    cells = torch.searchsorted(edges, values, right=True)
    values, cells = values[cells >= 1], cells[cells >= 1]
    offsets = ((values - edges[cells - 1]) * scale).round().clamp(max=2**23 - 1).long()
    found.counts.index_add_(0, cells, torch.ones_like(cells))
    found.sums.index_add_(0, cells, offsets)
    return found


def expected_gradient(given: Logits, edges: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    values = given.logits.float()
    cells = torch.searchsorted(edges, values, right=True)
    gradient = slope[cells] * (values - edges[(cells - 1).clamp(min=0)]) + value[cells]
    return gradient.where(given.negatives() & (cells >= 1), 0.0).to(given.logits.dtype)


def assert_same(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def given(logits: Tensor, role: str, ignored: float = 0.1, seed: int = 0) -> Logits:
    """Logits with random labels, or targets that say the same but for rows that are ignored in part."""
    num_candidates, num_classes = logits.shape
    labels = torch.randint(-1, num_classes + 1, (num_candidates,), generator=generator(seed))
    labels[torch.rand(num_candidates, generator=generator(seed + 1)) < ignored] = -1
    if role == "labels":
        return Logits(logits, labels, None)
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), num_classes + 1)[:, :-1]
    targets = one_hot * torch.rand(logits.shape, generator=generator(seed + 2))
    targets[labels < 0] = -1
    return Logits(logits, None, targets.float())


def count(runner: Runner, given: Logits, edges: Tensor, scale: float, into: Cells | None = None) -> Cells:
    found = Cells.of(edges) if into is None else into
    runner.run(kernels.count_negatives, *given, edges, scale, *found)
    return found


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(shape, generator=generator(seed))


def edges_of(positives: Tensor, delta: float = 0.5) -> Tensor:
    return torch.cat([positives - delta, positives + delta]).sort().values


def beside(edges: Tensor) -> Tensor:
    """(3E,) the edges and the numbers next to them on both sides."""
    infinity = torch.tensor(torch.inf)
    return torch.cat([edges, edges.nextafter(infinity), edges.nextafter(-infinity)])


GRID = torch.arange(-8, 8) / 4
CASES: dict[str, tuple[Tensor, Tensor]] = {
    "random": (draw(300, 7), edges_of(draw(40, seed=1))),
    "one class": (draw(1500, 1), edges_of(draw(40, seed=1))),
    "more classes than a block holds": (draw(2, 1203), edges_of(draw(15, seed=1))),
    "exactly one block": (draw(128, 8), edges_of(draw(40, seed=1))),
    "one logit": (torch.tensor([[0.25]]), edges_of(torch.zeros(1))),
    "one positive": (draw(100, 3), edges_of(torch.zeros(1))),
    "ties": (draw(300, 4).round(), edges_of(draw(40, seed=1).round())),
    "on edges and beside them": (beside(edges_of(draw(50, seed=1)))[:, None], edges_of(draw(50, seed=1))),
    "edges on a grid": (GRID.repeat(40, 4), edges_of(GRID)),
    "all logits equal": (torch.full((150, 8), 0.5), edges_of(draw(40, seed=1))),
    "all logits and positives equal": (torch.zeros(150, 8), edges_of(torch.zeros(30))),
    "hard steps": (draw(300, 4).round(), edges_of(draw(40, seed=1).round(), delta=0.0)),
    "far up": (draw(300, 4) + 1e4, edges_of(draw(40, seed=1) + 1e4)),
    "far down": (draw(300, 4) - 1e4, edges_of(draw(40, seed=1) - 1e4)),
    "far apart": (1e4 * draw(300, 4), edges_of(draw(40, seed=1))),
    "halves of a step": (torch.arange(600)[:, None] * 2.0**-23, torch.tensor([0.0, 1.0])),
    "all below all edges": (draw(300, 4) - 100, edges_of(draw(40, seed=1))),
    "above each edge more cells than a power of two": (draw(200, 4), edges_of(draw(64, seed=1))),
    "tiny": (1e-38 * draw(300, 4), edges_of(1e-38 * draw(40, seed=1), delta=0.0)),
    "no candidates": (torch.zeros(0, 4), edges_of(draw(40, seed=1))),
    "no classes": (torch.zeros(4, 0), edges_of(draw(40, seed=1))),
}


@pytest.mark.parametrize("role", ["labels", "targets"])
@pytest.mark.parametrize("scale", [2.0**22, 0.0], ids=["soft", "hard"])
@pytest.mark.parametrize("name", CASES)
def test_every_cell_holds_its_negatives_and_their_offsets(runner: Runner, name: str, scale: float, role: str) -> None:
    logits, edges = CASES[name]
    case = given(logits, role)
    found = count(runner, case, edges, scale)
    found.assert_equals(expected_cells(case, edges, scale))
    assert found.counts[0] == 0


@pytest.mark.parametrize("role", ["labels", "targets"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_of_every_dtype_are_counted(runner: Runner, dtype: torch.dtype, role: str) -> None:
    edges = edges_of(draw(40, seed=1))
    case = given(draw(300, 5).to(dtype), role)
    if case.targets is not None:
        case = case._replace(targets=case.targets.to(dtype))
    count(runner, case, edges, 2.0**22).assert_equals(expected_cells(case, edges, 2.0**22))


@pytest.mark.parametrize("role", ["labels", "targets"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_negative_gets_its_gradient_and_nothing_else_does(
    runner: Runner, name: str, dtype: torch.dtype, role: str
) -> None:
    logits, edges = CASES[name]
    case = given(logits.to(dtype), role)
    value, slope = draw(len(edges) + 1, seed=5), draw(len(edges) + 1, seed=6)
    slope[-1] = 0
    if dtype == torch.bfloat16 and runner.device == "interpreter":
        # Triton 3.8 interprets bfloat16 wrongly where it rounds (ties, carries into the exponent) and below 2⁻¹²⁶.
        if name == "tiny":
            pytest.skip("Triton's interpreter misreads subnormal bfloat16 numbers")
        value, slope = value.to(dtype).float(), torch.zeros_like(slope)
    gradient = torch.full_like(case.logits, torch.nan)
    runner.run(kernels.write_gradient, *case, edges, value, slope, gradient)
    assert_same(gradient, expected_gradient(case, edges, value, slope))


def test_whole_numbers_are_targets_of_a_byte(runner: Runner) -> None:
    edges, case = edges_of(draw(40, seed=1)), given(draw(300, 5), "targets")
    whole = case._replace(targets=case.targets.sign().to(torch.int8))
    count(runner, whole, edges, 2.0**22).assert_equals(count(runner, case, edges, 2.0**22))
    tables = draw(2, len(edges) + 1, seed=5)
    gradients = [torch.full_like(case.logits, torch.nan) for _ in range(2)]
    for each, gradient in zip((case, whole), gradients, strict=True):
        runner.run(kernels.write_gradient, *each, edges, *tables, gradient)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("scale", [2.0**22, 2.0**10, 2.0**-3, 2.0**40])
def test_offsets_are_rounded_half_to_even_and_capped(runner: Runner, scale: float) -> None:
    edges = torch.tensor([0.0])
    steps = torch.tensor([0, 0.5, 1, 1.5, 2.5, 3.4999, 1000.5, 2**22 + 0.5, 2**23 - 1.5, 2**23 - 1, 2**23, 2**24, 1e9])
    for value in (steps / scale).tolist():
        case = Logits(torch.tensor([[value]]), torch.tensor([1]), None)
        found = count(runner, case, edges, scale)
        assert found.sums.tolist() == [0, min(round(value * scale), 2**23 - 1)]
        assert found.counts.tolist() == [0, 1]


def test_pyramid_levels_add_up_to_the_whole(runner: Runner) -> None:
    edges, scale = edges_of(draw(40, seed=1)), 2.0**22
    whole = given(draw(700, 5), "labels")
    found = Cells.of(edges)
    for logits, labels in zip(whole.logits.split([400, 0, 299, 1]), whole.labels.split([400, 0, 299, 1]), strict=True):
        count(runner, Logits(logits.clone(), labels.clone(), None), edges, scale, into=found)
    found.assert_equals(count(runner, whole, edges, scale))


@pytest.mark.parametrize("role", ["labels", "targets"])
@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_a_logit_that_is_not_finite_breaks_unless_ignored(runner: Runner, fault: float, role: str) -> None:
    edges = edges_of(draw(40, seed=1))
    # Row 0 is ignored, row 1 has a positive in column 2, row 500 is background.
    labels = torch.full((501,), 4)
    labels[0], labels[1] = -1, 2
    targets = torch.zeros(501, 4)
    targets[0], targets[1, 2] = -1, 0.7
    for (row, column), is_broken in {(0, 1): 0, (1, 2): 1, (1, 0): 1, (500, 3): 1}.items():
        logits = draw(501, 4)
        logits[row, column] = fault
        case = Logits(logits, labels, None) if role == "labels" else Logits(logits, None, targets)
        found = count(runner, case, edges, 2.0**22)
        assert found.broken.tolist() == [is_broken]
        found.assert_equals(expected_cells(case, edges, 2.0**22))


def test_what_was_broken_stays_broken(runner: Runner) -> None:
    edges = edges_of(draw(40, seed=1))
    found = Cells.of(edges)
    found.broken.fill_(1)
    assert count(runner, given(draw(9, 4), "labels"), edges, 1.0, into=found).broken.tolist() == [1]


def test_a_target_that_is_not_a_number_makes_a_positive(runner: Runner) -> None:
    edges = torch.tensor([-1.0, 1.0])
    case = Logits(torch.zeros(1, 5), None, torch.tensor([[torch.nan, 0.0, -0.0, 1e-40, -1e-40]]))
    found = count(runner, case, edges, 1.0)
    assert found.counts.tolist() == [0, 2, 0]
    assert found.broken.tolist() == [0]
    gradient = torch.full((1, 5), 7.0)
    runner.run(kernels.write_gradient, *case, edges, torch.ones(3), torch.zeros(3), gradient)
    assert gradient.tolist() == [[0, 1, 1, 0, 0]]
    case.logits[0, 0] = torch.inf
    assert count(runner, case, edges, 1.0).broken.tolist() == [1]


def test_double_targets_are_not_rounded_to_zero(runner: Runner) -> None:
    case = Logits(torch.zeros(1, 3), None, torch.tensor([[1e-200, 0.0, -1e-200]], dtype=torch.float64))
    assert count(runner, case, torch.tensor([-1.0, 1.0]), 1.0).counts.tolist() == [0, 1, 0]


def test_no_gradient_is_invented_for_logits_that_are_not_finite(runner: Runner) -> None:
    case = Logits(torch.tensor([[torch.nan, torch.inf, -torch.inf]]), torch.tensor([3]), None)
    gradient = torch.full((1, 3), 7.0)
    tables = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 0.0])
    runner.run(kernels.write_gradient, *case, torch.tensor([-1.0, 1.0]), *tables, gradient)
    assert gradient[0, ::2].tolist() == [0, 0]
    assert gradient[0, 1].isnan()


def test_two_runs_give_the_same_bits(runner: Runner) -> None:
    edges, case = edges_of(draw(5, seed=1)), given(draw(1000, 5), "targets")
    tables = draw(2, len(edges) + 1, seed=5)
    results = []
    for _ in range(2):
        gradient = torch.full_like(case.logits, torch.nan)
        runner.run(kernels.write_gradient, *case, edges, *tables, gradient)
        results.append((*count(runner, case, edges, 2.0**22), gradient))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_logits_of_two_launches_are_all_counted(runner: Runner) -> None:
    """More edges than the scratch memory has cells, so that each launch counts 2²⁰ logits only."""
    edges = torch.arange(kernels.LARGEST_SCRATCH, dtype=torch.float32)
    logits = torch.full(((1 << 20) + 1500, 1), -1.0)
    for seed, part in enumerate([slice(50), slice(-2000, -1950), slice(-50, None)]):
        logits[part, 0] = 1e6 * torch.rand(50, generator=generator(seed))
    case = Logits(logits, torch.ones(len(logits), dtype=torch.int64), None)
    found = count(runner, case, edges, 2.0**10)
    found.assert_equals(expected_cells(case, edges, 2.0**10))
    assert found.counts.sum() == 150


@pytest.mark.parametrize("num_cells", [3, 2001, 200_001, 5_000_001])
@pytest.mark.parametrize("num_blocks", [0, 1, 7, 1024, 1025, 16_000, 300_000])
def test_launches_cover_all_blocks_within_their_memory(num_blocks: int, num_cells: int) -> None:
    done = 0
    for first_block, count, num_rows in kernels.launches(num_blocks, num_cells):
        assert first_block == done
        assert 1 <= num_rows <= count
        # Program p adds to row p % R: a packed cell counts to 2²⁰.
        assert -(-count // num_rows) * kernels.BLOCK <= 1 << 20
        assert num_rows * num_cells <= max(kernels.LARGEST_SCRATCH, num_cells)
        done += count
    assert done == num_blocks


def test_the_fullest_packed_cell_is_unpacked() -> None:
    fullest = (1 << 20) * ((1 << 43) + kernels.LARGEST_OFFSET) - (1 << 64)  # as the 64 bits are read with a sign
    packed = torch.tensor([[0, fullest, (1 << 43) + 5], [0, fullest, 0]])
    counts, sums = torch.tensor([[1, 2, 3], [4, 5, 6]])
    kernels.unpack(packed, counts, sums)
    assert counts.tolist() == [1, 2 + (2 << 20), 4]
    assert sums.tolist() == [4, 5 + (2 << 20) * kernels.LARGEST_OFFSET, 11]


def test_roles_must_come_in_one_form() -> None:
    logits, labels, targets = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3)
    edges = torch.zeros(2)
    for roles in [(None, None), (labels, targets)]:
        with pytest.raises(ValueError, match="either labels or targets"):
            kernels.count_negatives(logits, *roles, edges, 1.0, *Cells.of(edges))
        with pytest.raises(ValueError, match="either labels or targets"):
            kernels.write_gradient(logits, *roles, edges, torch.zeros(3), torch.zeros(3), logits)


def test_strided_logits_are_refused() -> None:
    logits, labels, edges = torch.zeros(3, 2).T, torch.zeros(2, dtype=torch.int64), torch.zeros(2)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) and strides \(1, 2\) is not contiguous"):
        kernels.count_negatives(logits, labels, None, edges, 1.0, *Cells.of(edges))
    with pytest.raises(ValueError, match="not contiguous"):
        kernels.write_gradient(logits, labels, None, edges, torch.zeros(3), torch.zeros(3), torch.zeros(2, 3))


POINTERS = {
    "labels": "*i64", "targets": "*fp32", "pools": "*i32", "borders": "*i32",
    "edges": "*fp32", "packed": "*i64", "broken": "*i32", "value": "*fp32",
    "slope": "*fp32",
}  # fmt: skip
NUMBERS = {
    "first_block": "i32", "num_logits": "i32", "num_edges": "i32", "num_rows": "i32", "scale": "fp32",
    "pool_width": "i32", "cycle": "i32",
}  # fmt: skip


def compiled(
    name: str,
    role: str,
    dtype: str,
    capability: int,
    num_logits: str = "i32",
    targets: str = "*fp32",
    has_pools: bool = False,
) -> dict[str, str]:
    """The intermediate codes of a kernel for an NVIDIA GPU that need not be there."""
    kernel = getattr(kernels, name)
    constants = {"NUM_CLASSES": 80 if role == "labels" else 1, "STEPS": 11, "BLOCK": kernels.BLOCK}
    constants["targets" if role == "labels" else "labels"] = None
    if not has_pools:
        constants |= {"pools": None, "borders": None}
    types = POINTERS | NUMBERS | {"logits": f"*{dtype}", "gradient": f"*{dtype}", "num_logits": num_logits}
    types |= {"targets": targets} | dict.fromkeys(constants, "constexpr")
    is_aligned = [types[arg].startswith("*") or arg == "num_logits" for arg in kernel.arg_names]
    source = triton.compiler.ASTSource(
        kernel,
        signature={arg: types[arg] for arg in kernel.arg_names},
        constexprs={arg: constant for arg, constant in constants.items() if arg in kernel.arg_names},
        attrs={(i,): [["tt.divisibility", 16]] for i, aligned in enumerate(is_aligned) if aligned},
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    options = kernels.COUNT_OPTIONS if name == "_count" else kernels.GRADIENT_OPTIONS
    return triton.compile(source, target=target, options=options).asm


@pytest.fixture
def compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, str]]:
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))
    return compiled


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("role", ["labels", "targets"])
def test_kernels_compile_for_nvidia_gpus(
    compiler: Callable[..., dict[str, str]], role: str, dtype: str, capability: int
) -> None:
    for name in ("_count", "_gradient"):
        ptx = compiler(name, role, dtype, capability)["ptx"]
        assert re.search(rf"^\.target sm_{capability}a?$", ptx, re.MULTILINE)
        atomics = set(re.findall(r"\b(?:atom|red)\.[\w.:]+", ptx))
        assert atomics == ({"atom.global.gpu.relaxed.add.u64"} if name == "_count" else set())
        # Denormals are not flushed to 0, which would move logits over edges.
        assert "ftz" not in ptx
        # Four float32 or eight halves at a time.
        assert "ld.global.v4.b32" in ptx
        if name == "_gradient":
            assert "fma" not in ptx
            assert "st.global.v4.b32" in ptx


@pytest.mark.parametrize("role", ["labels", "targets"])
@pytest.mark.parametrize("name", ["_count", "_gradient"])
def test_kernels_of_pools_compile_for_nvidia_gpus(
    compiler: Callable[..., dict[str, str]], name: str, role: str
) -> None:
    codes = compiler(name, role, "fp32", 90, has_pools=True)
    assert re.search(r"tt\.splat %borders\b", codes["ttir"])
    assert re.search(r"^\.target sm_90a?$", codes["ptx"], re.MULTILINE)


@pytest.mark.parametrize("name", ["_count", "_gradient"])
def test_kernels_compile_for_targets_of_a_byte(compiler: Callable[..., dict[str, str]], name: str) -> None:
    codes = compiler(name, "targets", "fp32", 90, targets="*i8")
    assert re.search(r"tt\.addptr %targets\b, %\S+ : !tt\.ptr<i8>", codes["ttir"])
    assert re.search(r"^\.target sm_90a?$", codes["ptx"], re.MULTILINE)


@pytest.mark.parametrize("role", ["labels", "targets"])
@pytest.mark.parametrize("name", ["_count", "_gradient"])
@pytest.mark.parametrize("num_logits", ["i32", "i64"])
def test_logits_are_addressed_with_64_bits(
    compiler: Callable[..., dict[str, str]], name: str, role: str, num_logits: str
) -> None:
    code = compiler(name, role, "fp32", 80, num_logits)["ttir"]
    for tensor in ["logits", role, *(["gradient"] if name == "_gradient" else [])]:
        assert re.search(rf"tt\.addptr %{tensor}\b, %\S+ : !tt\.ptr<\w+>, i64", code)


def test_more_logits_than_32_bits_can_count() -> None:
    if not torch.cuda.is_available() or torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs a GPU with 20 GiB of free memory")
    num_logits, edges = (1 << 31) + kernels.BLOCK + 3, torch.tensor([0.0, 1.0], device="cuda")
    logits = torch.full((num_logits,), -1.0, dtype=torch.bfloat16, device="cuda")
    logits[-5:] = 0.5
    targets = torch.zeros_like(logits)
    found = Cells(*(x.cuda() for x in Cells.of(edges)))
    kernels.count_negatives(logits, None, targets, edges, 2.0, *found)
    assert [x.tolist() for x in found] == [[0, 5, 0], [0, 5, 0], [0]]
    gradient = torch.full_like(logits, torch.nan)
    tables = torch.ones(3, device="cuda"), torch.ones(3, device="cuda")
    kernels.write_gradient(logits, None, targets, edges, *tables, gradient)
    assert gradient[-5:].tolist() == [1.5] * 5
    assert gradient.count_nonzero() == 5


def test_both_passes_can_be_captured_in_a_graph() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    edges, scale = edges_of(draw(40, seed=1)), 2.0**22
    case = given(draw(3000, 5), "labels")
    logits, labels, edges_there = case.logits.cuda(), case.labels.cuda(), edges.cuda()
    tables = draw(2, len(edges) + 1, seed=5)
    tables_there = tables.cuda()
    found, gradient = Cells(*(x.cuda() for x in Cells.of(edges))), torch.empty_like(logits)

    def step() -> None:
        for result in found:
            result.zero_()
        kernels.count_negatives(logits, labels, None, edges_there, scale, *found)
        kernels.write_gradient(logits, labels, None, edges_there, *tables_there, gradient)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # compiles, which a capture does not allow
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for seed in (7, 8):
        case = given(draw(3000, 5, seed=seed), "labels", seed=seed)
        logits.copy_(case.logits)
        labels.copy_(case.labels)
        graph.replay()
        Cells(*(x.cpu() for x in found)).assert_equals(expected_cells(case, edges, scale))
        assert torch.equal(gradient.cpu(), expected_gradient(case, edges, *tables))
