"""Ranking over processes: however the candidates are split, the loss is that of the process that holds them all.

This file is also the program of each process: ``test_processes.py RANK FOLDER`` joins the others, computes every case
in groups of two, three and four processes, and leaves what it found in the folder.

Legend: M candidates, C classes, P positives, W processes.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rankdet.losses import (
    ALRPLoss,
    APLoss,
    CenternessCrossEntropyLoss,
    CenternessWeights,
    ConstantBalance,
    EpochBalance,
    EqualizationLossV2,
    FocalLoss,
    GIoULoss,
    IoUCrossEntropyLoss,
    IoUWeights,
    MagnitudeBalance,
    MeanQuality,
    NoWeights,
    Pools,
    Processes,
    QualityFocalLoss,
    RankingWeights,
    RankSortLoss,
    Tasks,
    VarifocalLoss,
    alrp_loss,
    alrp_loss_at,
    alrp_loss_of_labels,
    ap_loss,
    ap_loss_at,
    ap_loss_of_labels,
    rank_sort_loss,
    rank_sort_loss_at,
    rank_sort_loss_of_labels,
)
from rankdet.losses.processes import Sync
from rankdet.structures import Candidates, Matched

M, C = 48, 3
WORLD = 4
SPLITS: dict[str, tuple[int, ...]] = {
    "two processes": (22,),
    "two, the first without candidates": (0,),
    "two, the second without candidates": (M,),
    "two, the second without positives": (36,),
    "three processes": (13, 29),
    "three, one without candidates": (17, 17),
    "three, one without positives": (20, 36),
    "four processes": (7, 19, 28),
    "four, two without candidates": (0, 20, 20),
    "four, one without positives, one ignored": (10, 36, 44),
}
"""Rows at which the candidates are cut; from 36 on there are no positives, from 44 on all are ignored."""
SPLITS_OF_MODULES = [
    "two processes",
    "two, the second without positives",
    "three, one without candidates",
    "four, one without positives, one ignored",
]
SPLITS_WITHOUT_POSITIVES = ["two processes", "three, one without candidates"]


class Pool(NamedTuple):
    """(M, C) logits, (M,) labels, (M, C) targets that say the same; of P positives (P, 4) boxes and their objects,
    (P, 5, 5) masks and theirs, (P,) centerness and outputs of auxiliary heads."""

    logits: Tensor
    labels: Tensor
    targets: Tensor
    boxes: Tensor
    objects: Tensor
    masks: Tensor
    target_masks: Tensor
    centerness: Tensor
    heads: Tensor

    def part(self, first: int, last: int) -> Pool:
        """Some rows, and what belongs to their positives."""
        is_positive = (self.labels >= 0) & (self.labels < C)
        start, end = int(is_positive[:first].sum()), int(is_positive[:last].sum())
        return Pool(*(value[first:last] for value in self[:3]), *(value[start:end] for value in self[3:]))

    def leaves(self) -> Pool:
        """Detached, with gradients wanted of logits, boxes, masks and heads."""
        detached = self._make(value.detach().clone() for value in self)
        for value in (detached.logits, detached.boxes, detached.masks, detached.heads):
            value.requires_grad_()
        return detached

    def gradients(self) -> dict[str, Tensor]:
        wanted = {"logits": self.logits, "boxes": self.boxes, "masks": self.masks, "heads": self.heads}
        return {name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in wanted.items()}

    @property
    def quality(self) -> Tensor:
        return self.targets[self.targets > 0]


def draw() -> Pool:
    generator = torch.Generator().manual_seed(3)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    labels = torch.randint(0, 2 * C, (M,), generator=generator).clamp(max=C)
    labels[::9] = -1
    labels[36:] = C
    labels[44:] = -1
    is_positive = labels[:, None] == torch.arange(C)
    num = int(is_positive.sum())
    targets = is_positive * (0.1 + 0.9 * rand(M, C))
    targets[labels < 0] = -1
    corner = 10 * rand(num, 2)
    objects = torch.cat([corner, corner + 1 + 5 * rand(num, 2)], dim=1)
    logits = 2 * torch.randn(M, C, generator=generator, dtype=torch.float64)
    masks = torch.randn(num, 5, 5, generator=generator, dtype=torch.float64)
    boxes = objects + rand(num, 4)
    return Pool(logits, labels, targets, boxes, objects, masks, (rand(num, 5, 5) < 0.4).double(), rand(num), rand(num))


def index_of(pool: Pool) -> tuple[Tensor, Tensor]:
    """Rows and classes of the positives, the last first."""
    row, column = (pool.targets > 0).nonzero().flip(0).unbind(1)
    return row, column


FUNCTIONS: dict[str, Callable[[Pool, Sync], Sequence[Tensor]]] = {
    "rank & sort": lambda pool, sync: rank_sort_loss(pool.logits, pool.targets, sync=sync),
    "rank & sort, labels": lambda pool, sync: rank_sort_loss_of_labels(
        pool.logits, pool.labels, pool.quality, sync=sync
    ),
    "rank & sort, zero quality": lambda pool, sync: rank_sort_loss_of_labels(
        pool.logits, pool.labels, (pool.quality - 0.4).clamp(min=0), zero_quality_is_negative=True, sync=sync
    ),
    "average precision": lambda pool, sync: [ap_loss(pool.logits, pool.targets, sync=sync)],
    "average precision, plain": lambda pool, sync: [
        ap_loss_of_labels(pool.logits, pool.labels, interpolate=False, sync=sync)
    ],
    "alrp": lambda pool, sync: alrp_loss(pool.logits, pool.targets, 1.5 * pool.heads.square(), sync=sync),
    "alrp, labels": lambda pool, sync: alrp_loss_of_labels(pool.logits, pool.labels, pool.heads.square(), sync=sync),
    "rank & sort, index": lambda pool, sync: rank_sort_loss_at(
        pool.logits, index_of(pool), pool.quality.flip(0), ignored=pool.labels < 0, sync=sync
    ),
    "average precision, index": lambda pool, sync: [
        ap_loss_at(pool.logits, index_of(pool), ignored=pool.labels < 0, sync=sync)
    ],
    "alrp, index": lambda pool, sync: alrp_loss_at(
        pool.logits, index_of(pool), pool.heads.square().flip(0), ignored=pool.labels < 0, sync=sync
    ),
    "levels": lambda pool, sync: rank_sort_loss(
        [pool.logits[:5], pool.logits[5:]], [pool.targets[:5], pool.targets[5:]], sync=sync
    ),
    "rank & sort, pools": lambda pool, sync: rank_sort_loss_of_labels(
        pool.logits, pool.labels, pool.quality, pools=Pools((pool.labels.clamp(min=0) % 3)[:, None], 4), sync=sync
    ),
    "alrp, pools": lambda pool, sync: alrp_loss(
        pool.logits, pool.targets, pool.heads.square(), pools=Pools(torch.arange(C), C), sync=sync
    ),
    "float32": lambda pool, sync: rank_sort_loss(pool.logits.float(), pool.targets, sync=sync),
}
MODULES: dict[str, Callable[[Sync], nn.Module]] = {
    "rank & sort": lambda sync: RankSortLoss(sync=sync),
    "rank & sort by IoU": lambda sync: RankSortLoss(
        quality=MeanQuality(), tasks=Tasks(weighting=IoUWeights()), sync=sync
    ),
    "rank & sort by rank": lambda sync: RankSortLoss(tasks=Tasks(weighting=RankingWeights()), sync=sync),
    "rank & sort by soft rank": lambda sync: RankSortLoss(tasks=Tasks(weighting=RankingWeights(0.5)), sync=sync),
    "rank & sort, constant": lambda sync: RankSortLoss(
        tasks=Tasks(weighting=NoWeights(), balancing=ConstantBalance(2.0)), sync=sync
    ),
    "rank & sort, magnitude": lambda sync: RankSortLoss(tasks=Tasks(balancing=MagnitudeBalance()), sync=sync),
    "rank & sort, epochs": lambda sync: RankSortLoss(tasks=Tasks(balancing=EpochBalance(iterations=2)), sync=sync),
    "average precision": lambda sync: APLoss(
        tasks=Tasks(
            weighting=CenternessWeights(),
            balancing=ConstantBalance(2.0),
            auxiliary=(CenternessCrossEntropyLoss(), IoUCrossEntropyLoss()),
        ),
        sync=sync,
    ),
    "average precision by rank": lambda sync: APLoss(
        tasks=Tasks(weighting=RankingWeights(0.5), balancing=ConstantBalance(2.0)), sync=sync
    ),
    "alrp": lambda sync: ALRPLoss(balancing=EpochBalance(iterations=2), sync=sync),
    "alrp, magnitude": lambda sync: ALRPLoss(balancing=MagnitudeBalance(), sync=sync),
    "focal": lambda sync: FocalLoss(
        tasks=Tasks(
            box_loss=GIoULoss(2.0),
            weighting=NoWeights(),
            balancing=ConstantBalance(),
            auxiliary=(CenternessCrossEntropyLoss(),),
        ),
        sync=sync,
    ),
    "quality focal": lambda sync: QualityFocalLoss(sync=sync),
    "varifocal": lambda sync: VarifocalLoss(sync=sync),
}


def of_function(name: str, pool: Pool, sync: Sync = False) -> dict[str, Any]:
    """Values and gradients; each value is weighed by itself."""
    pool = pool.leaves()
    values = FUNCTIONS[name](pool, sync)
    sum((k + 1) * value.sum() for k, value in enumerate(values)).backward()
    return {"values": {str(k): value.detach() for k, value in enumerate(values)}, "gradients": pool.gradients()}


def of_module(name: str, pool: Pool, sync: Sync = False) -> dict[str, Any]:
    """Terms, statistics that are no counts, and gradients; of the third step where a balance remembers the others."""
    loss, whole = MODULES[name](sync), pool
    for _ in range(3 if any(isinstance(part, EpochBalance) for part in loss.modules()) else 1):
        pool = whole.leaves()
        candidates = Candidates(
            "dense",
            pool.logits,
            pool.labels,
            C,
            boxes=Matched(pool.boxes, pool.objects),
            masks=Matched(pool.masks, pool.target_masks),
            centerness=pool.centerness,
            auxiliary={"centerness": Matched(pool.heads, pool.centerness), "iou": Matched(pool.heads, pool.heads)},
        )
        terms, stats = loss(candidates)
        sum(terms.values()).backward()
    stats = {name: value for name, value in stats.items() if name not in ("positives", "background", "negatives")}
    return {
        "values": {name: value.detach() for name, value in (terms | stats).items()},
        "gradients": pool.gradients(),
    }


def of_no_positives(pool: Pool, sync: Sync = False) -> dict[str, Any]:
    """All kinds of ranking losses where no process holds a positive (focal losses count one for each process then)."""
    pool = pool._replace(labels=pool.labels.where(pool.labels < 0, C), targets=pool.targets.clamp(max=0))
    pool = pool._replace(**{name: getattr(pool, name)[:0] for name in Pool._fields[3:]})
    found = {"values": {}, "gradients": {}}
    for evaluate, names in ((of_function, FUNCTIONS), (of_module, MODULES)):
        for name in names:
            if "focal" in name:
                continue
            one = evaluate(name, pool, sync)
            for kind, values in one.items():
                found[kind] |= {f"{evaluate.__name__} {name}: {key}": value for key, value in values.items()}
    return found


def of_equalization(pool: Pool, sync: Sync = False) -> dict[str, Any]:
    """The gradients that decide the weights of classes, after two steps."""
    loss = EqualizationLossV2(GIoULoss(), sync=sync)
    boxes = Matched(pool.boxes, pool.objects)
    for _ in range(2):
        loss(Candidates("rcnn", pool.logits, pool.labels, C, boxes=boxes))
    return {"values": {"gradients": loss.gradients}, "gradients": {}}


def of_weights(pool: Pool, part: Pool, sync: Sync = False, parallel: bool = False) -> dict[str, Any]:
    """Gradient of a model of one layer, which real data-parallel training averages."""
    torch.manual_seed(0)
    model: nn.Module = nn.Linear(C, C).double()
    layer = model
    if parallel:
        model = DistributedDataParallel(model)
    candidates = Candidates("dense", model(part.logits), part.labels, C, boxes=Matched(part.boxes, part.objects))
    sum(RankSortLoss(sync=sync)(candidates).terms.values()).backward()
    return {"values": {}, "gradients": {"weight": layer.weight.grad, "bias": layer.bias.grad}}


def parts(pool: Pool, split: str) -> list[Pool]:
    cuts = [0, *SPLITS[split], M]
    return [pool.part(first, last) for first, last in itertools.pairwise(cuts)]


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    groups = {size: distributed.new_group(list(range(size))) for size in (2, 3)}
    pool, found = draw(), {}
    for split in SPLITS:
        shares = parts(pool, split)
        if rank < len(shares):
            sync: Sync = groups.get(len(shares), True)
            for name in FUNCTIONS:
                found[split, "function", name] = of_function(name, shares[rank], sync)
            if split in SPLITS_OF_MODULES:
                for name in MODULES:
                    found[split, "module", name] = of_module(name, shares[rank], sync)
            found[split, "equalization", ""] = of_equalization(shares[rank], sync)
            if split in SPLITS_WITHOUT_POSITIVES:
                found[split, "no positives", ""] = of_no_positives(shares[rank], sync)
    split = "four processes"
    found[split, "parallel", ""] = of_weights(pool, parts(pool, split)[rank], True, parallel=True)
    torch.save(found, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str, str], Any]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(rank), str(folder)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(WORLD)
    ]  # fmt: skip
    try:
        errors = [process.communicate(timeout=300)[1] for process in running]
    finally:
        # One that fails leaves the others waiting.
        for process in running:
            process.kill()
            process.wait()
    assert [process.returncode for process in running] == [0] * WORLD, "\n".join(errors)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def check(mine: Sequence[Mapping[str, Any]], whole: Mapping[str, Any], tolerance: float) -> None:
    """Values on every process, and the gradients of all, side by side, as data-parallel training averages them."""
    for found in mine:
        assert found["values"].keys() == whole["values"].keys()
        for name, value in whole["values"].items():
            torch.testing.assert_close(found["values"][name], value, rtol=tolerance, atol=tolerance, msg=name)
    for name, gradient in whole["gradients"].items():
        mean = torch.cat([found["gradients"][name] for found in mine]) / len(mine)
        torch.testing.assert_close(mean, gradient, rtol=tolerance, atol=tolerance, msg=name)


def of(found: list[dict[tuple[str, str, str], Any]], *key: str) -> list[Mapping[str, Any]]:
    return [of_process[key] for of_process in found if key in of_process]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_losses_of_all_processes_are_those_of_one(found: list[dict], name: str, split: str) -> None:
    check(of(found, split, "function", name), of_function(name, draw()), 1e-6 if name == "float32" else 1e-9)


@pytest.mark.parametrize("split", SPLITS_OF_MODULES)
@pytest.mark.parametrize("name", MODULES)
def test_whole_losses_of_all_processes_are_those_of_one(found: list[dict], name: str, split: str) -> None:
    check(of(found, split, "module", name), of_module(name, draw()), 1e-6)


@pytest.mark.parametrize("split", SPLITS_WITHOUT_POSITIVES)
def test_without_positives_anywhere_all_are_connected_zeros(found: list[dict], split: str) -> None:
    check(of(found, split, "no positives", ""), of_no_positives(draw()), 1e-9)


@pytest.mark.parametrize("split", SPLITS)
def test_classes_are_weighted_by_the_gradients_on_all_processes(found: list[dict], split: str) -> None:
    check(of(found, split, "equalization", ""), of_equalization(draw()), 1e-6)


def test_data_parallel_training_follows_the_gradient_of_the_whole(found: list[dict]) -> None:
    whole = of_weights(draw(), draw())
    for mine in of(found, "four processes", "parallel", ""):
        for name, gradient in whole["gradients"].items():
            torch.testing.assert_close(mine["gradients"][name], gradient, rtol=1e-6, atol=1e-9)


def test_one_process_alone_is_its_own_pool() -> None:
    for sync in (False, True):
        processes = Processes(sync)
        assert (processes.size, processes.name, processes.group) == (1, "", None)
        assert processes.gather(torch.ones(2, 3))[1] == 0
        assert processes.sum(torch.tensor(3.0)) == processes.mean(torch.tensor(3.0)) == 3


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
