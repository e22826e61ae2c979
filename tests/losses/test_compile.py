"""``torch.compile(fullgraph=True)`` of the ranking losses: values and gradients are those of eager mode.

Legend: M candidates, C classes, P positives.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from rankdet.losses import (
    ALRPLoss,
    APLoss,
    EpochBalance,
    IoUWeights,
    Pools,
    RankingWeights,
    RankSortLoss,
    Tasks,
    alrp_loss,
    alrp_loss_at,
    alrp_loss_of_labels,
    ap_loss,
    ap_loss_at,
    ap_loss_of_labels,
    find_positives,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)
from rankdet.structures import Candidates, LossOutput, Matched

C = 4
NUM_CANDIDATES = [50, 80, 33, 90]


@pytest.fixture(autouse=True)
def _nothing_was_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Pool(NamedTuple):
    """(M, C) logits, (M,) labels, (M, C) targets that say the same, (P,) localization errors, (P,) places."""

    logits: Tensor
    labels: Tensor
    targets: Tensor
    errors: Tensor
    index: Tensor


def draw(num: int, dtype: torch.dtype = torch.float32, positives: bool = True) -> Pool:
    generator = torch.Generator().manual_seed(num)
    labels = torch.randint(-1, 2 * C, (num,), generator=generator).clamp(max=C)
    if not positives:
        labels[labels >= 0] = C
    is_positive = (labels[:, None] == torch.arange(C)) & (labels[:, None] >= 0)
    targets = is_positive * (0.1 + 0.8 * torch.rand(num, C, generator=generator))
    targets[labels < 0] = -1
    logits = 2 * torch.randn(num, C, generator=generator)
    index = (targets.reshape(-1) > 0).nonzero().squeeze(1)
    return Pool(logits.to(dtype), labels, targets, 1 - targets[targets > 0], index)


class Compiled:
    """A function or module as one graph for all sizes, which counts how often it was compiled."""

    def __init__(self, function: Callable[..., object], backend: str = "aot_eager") -> None:
        self.graphs = 0
        inner = torch._dynamo.lookup_backend(backend)

        def counting(graph: torch.fx.GraphModule, inputs: list[object]) -> object:
            self.graphs += 1
            return inner(graph, inputs)

        self.function = torch.compile(function, fullgraph=True, dynamic=True, backend=counting)

    def __call__(self, *args: object) -> object:
        return self.function(*args)


FUNCTIONS: dict[str, Callable[[Pool], tuple[Tensor, ...] | Tensor]] = {
    "rank & sort": lambda pool: rank_sort_loss(pool.logits, pool.targets),
    "rank & sort, labels": lambda pool: rank_sort_loss_of_labels(pool.logits, pool.labels, 1 - pool.errors),
    "average precision": lambda pool: ap_loss(pool.logits, pool.targets),
    "average precision, plain": lambda pool: ap_loss(pool.logits, pool.targets, interpolate=False),
    "average precision, labels": lambda pool: ap_loss_of_labels(pool.logits, pool.labels),
    "average precision, labels and P": lambda pool: ap_loss_of_labels(pool.logits, pool.labels, len(pool.errors)),
    "alrp": lambda pool: alrp_loss(pool.logits, pool.targets, pool.errors),
    "alrp, labels": lambda pool: alrp_loss_of_labels(pool.logits, pool.labels, pool.errors),
    "rank & sort, index": lambda pool: rank_sort_loss_at(pool.logits, pool.index, 1 - pool.errors),
    "average precision, index": lambda pool: ap_loss_at(pool.logits, pool.index),
    "alrp, index": lambda pool: alrp_loss_at(pool.logits, (pool.index // C, pool.index % C), pool.errors),
    "index, ignored": lambda pool: rank_sort_loss_at(pool.logits, pool.index, 1 - pool.errors, ignored=pool.labels < 0),
    "rank & sort, zeros": lambda pool: rank_sort_loss(
        pool.logits, pool.targets.clamp(max=0.5), is_positive=pool.targets > 0
    ),
    "levels": lambda pool: rank_sort_loss_of_labels(
        [pool.logits[:7], pool.logits[7:]], [pool.labels[:7], pool.labels[7:]], 1 - pool.errors
    ),
    "pools": lambda pool: rank_sort_loss_of_labels(
        pool.logits, pool.labels, 1 - pool.errors, pools=Pools((pool.labels % 3)[:, None], 3)
    ),
    "pools, index": lambda pool: alrp_loss_at(pool.logits, pool.index, pool.errors, pools=Pools(torch.arange(C), C)),
    "levels of targets": lambda pool: ap_loss([pool.logits[:7], pool.logits[7:]], [pool.targets[:7], pool.targets[7:]]),
}


def evaluated(function: Callable[[Pool], object], pool: Pool) -> list[Tensor]:
    """Values, then gradients of logits and localization errors."""
    logits, errors = pool.logits.clone().requires_grad_(), pool.errors.clone().requires_grad_()
    values = function(pool._replace(logits=logits, errors=errors))
    values = [values] if isinstance(values, Tensor) else list(values)
    gradients = torch.autograd.grad(sum((k + 1) * value.sum() for k, value in enumerate(values)), [logits, errors],
                                    allow_unused=True)  # fmt: skip
    return [*(value.detach() for value in values), *(g for g in gradients if g is not None)]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_compile_once_for_all_sizes(name: str) -> None:
    compiled = Compiled(FUNCTIONS[name])
    graphs = []
    for num in NUM_CANDIDATES:
        assert_equal(evaluated(compiled, draw(num)), evaluated(FUNCTIONS[name], draw(num)))
        graphs.append(compiled.graphs)
    assert graphs[1:] == graphs[1:2] * (len(graphs) - 1)


@pytest.mark.parametrize("name", ["rank & sort, labels", "rank & sort, index", "average precision"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_functions_compile_in_other_dtypes(name: str, dtype: torch.dtype) -> None:
    compiled = Compiled(FUNCTIONS[name])
    for num in NUM_CANDIDATES[:2]:
        assert_equal(evaluated(compiled, draw(num, dtype)), evaluated(FUNCTIONS[name], draw(num, dtype)))


@pytest.mark.parametrize(
    "name", ["rank & sort", "rank & sort, index", "average precision, labels", "alrp, labels", "alrp, index", "levels"]
)
def test_compiled_functions_meet_no_positives(name: str) -> None:
    compiled = Compiled(FUNCTIONS[name])
    for positives in (True, False, True):
        pool = draw(40, positives=positives)
        assert_equal(evaluated(compiled, pool), evaluated(FUNCTIONS[name], pool))


@pytest.mark.parametrize("name", ["rank & sort, labels", "average precision"])
def test_compiled_functions_can_go_back_twice(name: str) -> None:
    """Where torch is told not to give away what it saved."""
    pool = draw(60)
    compiled, logits = Compiled(FUNCTIONS[name]), pool.logits.clone().requires_grad_()
    with torch._functorch.config.patch(donated_buffer=False):
        values = compiled(pool._replace(logits=logits))
        total = values if isinstance(values, Tensor) else sum(values)
        passes = [torch.autograd.grad(total, logits, retain_graph=True)[0] for _ in range(3)]
    torch.testing.assert_close(passes[1], passes[0], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(passes[2], passes[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["rank & sort, index", "average precision, index", "alrp, index"])
def test_where_positives_are_named_no_graph_breaks(name: str) -> None:
    """Also where nobody asks for one graph, as in the training loops of others."""
    explained = torch._dynamo.explain(FUNCTIONS[name])(draw(50))
    assert (explained.graph_count, explained.break_reasons) == (1, [])


@pytest.mark.parametrize("wrong", [[3, 3], [-1, 2], [2, 200]], ids=str)
def test_compiled_functions_turn_a_wrong_index_into_nan(wrong: list[int]) -> None:
    """In eager mode they raise; a graph does not look."""
    pool = draw(50)._replace(index=torch.tensor(wrong), errors=torch.rand(2))
    for name in ("rank & sort, index", "average precision, index", "alrp, index"):
        values = Compiled(FUNCTIONS[name])(pool)
        assert all(value.isnan() for value in (values if isinstance(values, tuple) else [values]))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "rank & sort": RankSortLoss,
    "rank & sort, other parts": lambda: RankSortLoss(
        tasks=Tasks(weighting=IoUWeights(), balancing=EpochBalance(iterations=2))
    ),
    "rank & sort, weights by rank": lambda: RankSortLoss(tasks=Tasks(weighting=RankingWeights(0.5))),
    "rank & sort, boxes elsewhere": lambda: RankSortLoss(tasks=Tasks(box_loss=None)),
    "average precision": APLoss,
    "alrp": lambda: ALRPLoss(balancing=EpochBalance(iterations=3)),
}


def candidates_of(pool: Pool) -> Candidates:
    generator = torch.Generator().manual_seed(1)
    corner = 10 * torch.rand(len(pool.errors), 2, generator=generator)
    target = torch.cat([corner, corner + 1 + 5 * torch.rand(len(corner), 2, generator=generator)], dim=1)
    predicted = target + 0.4 * torch.rand(target.shape, generator=generator)
    boxes = Matched(predicted.requires_grad_(), target)
    return Candidates("dense", pool.logits.clone().requires_grad_(), pool.labels, C, boxes=boxes)


def steps(loss: Callable[..., LossOutput], num: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    candidates = candidates_of(draw(num))
    terms, stats = loss(candidates)
    sum(terms.values()).backward()
    gradients = candidates.logits.grad, candidates.boxes.predicted.grad
    return {**terms, **stats}, [gradient for gradient in gradients if gradient is not None]


@pytest.mark.parametrize("name", MODULES)
def test_modules_compile_once_for_all_sizes(name: str) -> None:
    eager, compiled = MODULES[name](), Compiled(MODULES[name]())
    graphs = []
    for num in NUM_CANDIDATES:
        numbers, gradients = steps(compiled, num)
        expected_numbers, expected_gradients = steps(eager, num)
        assert numbers.keys() == expected_numbers.keys()
        assert_equal(list(numbers.values()), list(expected_numbers.values()))
        assert_equal(gradients, expected_gradients)
        graphs.append(compiled.graphs)
    assert graphs[1:] == graphs[1:2] * (len(graphs) - 1)


@pytest.mark.parametrize("change", [-1, 1])
def test_compiled_modules_turn_a_wrong_number_of_boxes_into_nan(change: int) -> None:
    """In eager mode they raise; a graph does not look."""
    candidates = candidates_of(draw(50))
    num = len(candidates.boxes.predicted) + change
    boxes = Matched(*(part.detach().repeat(2, 1)[:num] for part in candidates.boxes[:2]))
    wrong = Candidates("dense", candidates.logits, candidates.labels, C, boxes=boxes)
    with pytest.raises(ValueError, match="positives but"):
        find_positives(wrong)
    positives = Compiled(find_positives)(wrong)
    assert positives.overlap.iou.isnan().all()
    assert positives.logits.isnan().all()


@pytest.mark.parametrize("change", [-1, 0, 1])
def test_compiled_modules_turn_wrong_rows_into_nan(change: int) -> None:
    """In eager mode they raise; a graph does not look."""
    candidates = candidates_of(draw(50))
    rows = candidates.is_positive.nonzero().squeeze(1)
    given = replace(candidates_of(draw(50)), rows=rows + change * (rows == rows[2]))
    positives = Compiled(find_positives)(given)
    if change == 0:
        assert torch.equal(positives.logits, candidates.logits.detach()[rows])
    else:
        assert positives.overlap.iou.isnan().all()
        assert positives.logits.isnan().all()


def has_compiler() -> bool:
    try:
        subprocess.run(["c++", "--version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # of what inductor looks for on the machine
def test_inductor_compiles_a_loss() -> None:
    if not has_compiler():
        pytest.skip("needs a C++ compiler, c++")
    function = FUNCTIONS["rank & sort, labels"]
    compiled = Compiled(function, "inductor")
    for num in NUM_CANDIDATES[:2]:
        for mine, theirs in zip(evaluated(compiled, draw(num)), evaluated(function, draw(num)), strict=True):
            torch.testing.assert_close(mine, theirs)
