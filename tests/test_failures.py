"""What the system does to commands is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rankdet.cli.failures import reason_of
from rankdet.data.images import UnreadableImageError, header
from rankdet.recipes import load_recipe
from rankdet.structures import InputError


def test_memory_that_is_used_up_is_told_with_what_takes_less():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**52)
    assert str(reason_of(error.value)).startswith("memory is used up: take a smaller data.batch_size")
    assert reason_of(MemoryError()) == reason_of(error.value)
    assert "runtime.precision=bfloat16" in str(reason_of(torch.OutOfMemoryError("CUDA out of memory")))


def test_errors_that_are_no_failures_of_the_system_keep_their_trace():
    with pytest.raises(RuntimeError) as error:
        torch.zeros(2) @ torch.zeros(3)
    assert reason_of(error.value) is None


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_standard_streams_are_closed_does_its_work(closed: str, tmp_path: Path):
    command = f"{sys.executable} -m rankdet make-shapes {tmp_path}/shapes --train 2 --val 1 --size 32 {closed}"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert (tmp_path / "shapes" / "annotations").is_dir()


def test_a_pipe_in_the_place_of_an_image_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: the image cannot be decoded: it is no regular file"):
        header(tmp_path / "a.jpg")


def test_a_short_recipe_of_many_values_and_one_that_is_in_itself_are_refused(tmp_path: Path):
    path = tmp_path / "a.yaml"
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"a\.yaml is no YAML: more than 100000 values"):
        load_recipe(path)
    path.write_text("a: &a [1, *a]")
    with pytest.raises(InputError, match=r"a\.yaml is no YAML: an alias stands in what it means"):
        load_recipe(path)
    path.write_text("base: rs_faster_rcnn_shapes\nschedule: &length {iterations: 7}\n")
    assert load_recipe(path).schedule.iterations == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer={type: adamw, lr: 0.1, betas: [0.9]}", r"optimizer\.betas\.1: missing"),
        ("detector.rpn.delta_stds=[0.1, 0.1]", r"delta_stds\.2: missing; .*delta_stds\.3: missing"),
        ("data.batch_size=1000000000", r"data\.batch_size: must be at most 65536"),
    ],
)
def test_lists_that_are_too_short_and_batches_that_no_memory_holds_are_named(change: str, message: str):
    with pytest.raises(InputError, match=message):
        load_recipe("rs_faster_rcnn_shapes", [change])
