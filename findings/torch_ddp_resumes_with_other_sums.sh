#!/usr/bin/env bash
# torch: data-parallel training on CPUs, stopped and resumed with weights, optimizer and images as they were.
#
# A good guess: it ends with the same bits as one that was not stopped, for everything in it is deterministic.
# What happens: `DistributedDataParallel` arranges gradients in other buckets after the first iteration of a process. The
# order in which gradients of three processes are added up follows from their places in buckets. The first iteration after
# each start therefore rounds differently. With two processes there is but one order.
# Why it matters: a resumed run cannot be told from one that has changed; comparisons to the bit fail from three on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.14.1 numpy==2.4.6
cd "$folder"
cat > train.py <<'PY'
import os

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel


def train(rank, size, name, first, last, start):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/{name}.store", rank=rank, world_size=size)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))
    if start:
        model.load_state_dict(torch.load(start))
    parallel, optimizer = DistributedDataParallel(model), torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(first, last):
        images = torch.randn(8, 100, generator=torch.Generator().manual_seed(100 * step + rank))
        optimizer.zero_grad()
        parallel(images).square().mean().backward()
        optimizer.step()
    if rank == 0:
        torch.save(model.state_dict(), f"{name}.pt")
    distributed.destroy_process_group()


def weights(size, name, *steps):
    multiprocessing.start_processes(train, (size, f"{name}{size}", *steps), nprocs=size, start_method="fork")
    return torch.load(f"{name}{size}.pt")


if __name__ == "__main__":
    print("torch", torch.__version__)
    for size in (2, 3):
        whole = weights(size, "whole", 0, 4, "")
        weights(size, "first", 0, 2, "")
        resumed = weights(size, "second", 2, 4, f"first{size}.pt")
        largest = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
        print(f"{size} processes: largest difference of a weight after 4 steps and after 2 and 2: {largest:.1e}")
        assert (largest == 0) == (size == 2)
PY
venv/bin/python -W ignore train.py
