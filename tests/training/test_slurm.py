"""docs/slurm.sbatch as SLURM runs it, whose commands are stand-ins: one task for each machine, signals passed on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rankdet.data import make_shapes
from rankdet.runs.folder import Run

from ..conftest import TINY
from ..faults.trials import difference, left
from .comparing import equal

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "slurm.sbatch"
COMMANDS = {
    "srun": """
shift  # --kill-on-bad-exit=0
trap 'kill -USR1 "${tasks[@]}"' USR1
for machine in $(seq "$SLURM_NNODES"); do "$@" & tasks+=($!); done
status=0
for task in "${tasks[@]}"; do
  while wait "$task"; last=$?; kill -0 "$task" 2>/dev/null; do :; done
  if [ "$last" -ne 0 ]; then status=$last; fi
done
exit "$status"
""",
    "scontrol": """
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> "$REQUESTS"; fi
""",
    "torchrun": f"""
exec {sys.executable} -m torch.distributed.run "$@"
""",
}


def job(folder: Path, out: Path, machines: int, processes: int, restarts: int = 0) -> subprocess.Popen:
    """The job, started for the first time or again."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in COMMANDS.items():
        command = folder / "bin" / name
        command.write_text(f"#!/bin/bash{text}")
        command.chmod(0o755)
    slurm = {"JOB_ID": str(os.getpid()), "JOB_NODELIST": "here[1-2]", "NNODES": str(machines)}
    slurm |= {"GPUS_ON_NODE": str(processes), "RESTART_COUNT": str(restarts)}
    environment = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
    environment |= {"REQUESTS": str(folder / "requests.txt"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "job.txt").open("a") as output:
        return subprocess.Popen(
            ["bash", str(SCRIPT), str(folder / "tiny.yaml"), "--out", str(out)],
            env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


@pytest.mark.parametrize(("machines", "processes"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_a_job_that_is_signalled_leaves_a_checkpoint_is_queued_again_and_ends_as_one_that_is_not(
    machines: int, processes: int, tmp_path: Path
):
    data = make_shapes(tmp_path / "shapes", train=22, val=6, size=64)
    changes = {
        "data": TINY["data"] | {"folder": str(data)},
        "schedule": {"iterations": 30, "warmup_iterations": 2},
        "runtime": TINY["runtime"] | {"checkpoint_interval": 100, "keep_checkpoints": 1},
        "evaluation": {"at_end": True, "batch_size": 1},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | changes))
    out, requests = tmp_path / "run", tmp_path / "requests.txt"
    first = job(tmp_path, out, machines, processes)
    while not Run(out).log.exists() or not Run(out).log.stat().st_size:
        assert first.poll() is None, (tmp_path / "job.txt").read_text()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGUSR1)  # the script alone, as by --signal=B:USR1@300
    assert first.wait(timeout=300) == 0, (tmp_path / "job.txt").read_text()
    assert requests.read_text() == f"requeue {os.getpid()}\n"
    (checkpoint,) = Run(out).checkpoints()
    assert checkpoint != Run(out).checkpoint(30)
    assert job(tmp_path, out, machines, processes, restarts=1).wait(timeout=300) == 0
    said = (tmp_path / "job.txt").read_text()
    assert f"going on at iteration {int(checkpoint.stem.split('_')[1])}" in said
    assert requests.read_text().count("requeue") == 1
    whole = tmp_path / "whole"
    if machines * processes == 1:
        from rankdet.training.running import train

        train(tmp_path / "tiny.yaml", out=whole)
    else:
        assert job(tmp_path, whole, machines, processes).wait(timeout=300) == 0
    assert equal(left(out), left(whole)), difference(left(out), left(whole))
