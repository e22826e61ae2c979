"""Batches and loaders."""

import itertools
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from itertools import islice

import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from rankdet.data import (
    FixedSize,
    GroupedBatchSampler,
    KeepRatio,
    SampleKey,
    Transforms,
    build_test_loader,
    build_training_loader,
    collate,
)
from rankdet.data.augmentation import Expansion, MinIoUCrop, PhotometricDistortion
from rankdet.data.loading import MOST_STARTS, _share, padded_size
from rankdet.data.own import from_map_dataset
from rankdet.structures import InputError


def same(one, two):
    assert torch.equal(one.images.pixels, two.images.pixels)
    assert one.images.sizes == two.images.sizes
    assert one.sources == two.sources
    for first, second in zip(one.targets, two.targets, strict=True):
        assert torch.equal(first.boxes, second.boxes)
        assert torch.equal(first.labels, second.labels)
        assert torch.equal(first.masks, second.masks)


def test_collate_pads_below_and_right_with_zeros(folder):
    dataset = folder.dataset()
    samples = [dataset[SampleKey(index, 0)] for index in (0, 1)]
    batch = collate(samples)
    assert batch.images.pixels.shape == (2, 3, 64, 64)
    assert batch.images.pixels.dtype == torch.uint8
    assert batch.images.sizes == ((48, 64), (64, 48))
    assert torch.equal(batch.images.pixels[0, :, :48, :64], samples[0].image)
    assert batch.images.pixels[0, :, 48:].sum() == 0
    assert batch.images.pixels[1, :, :, 48:].sum() == 0
    assert collate(samples, divisor=60).images.pixels.shape == (2, 3, 120, 120)
    assert collate(samples[:1], divisor=1).images.pixels.shape == (1, 3, 48, 64)


def test_batch_names_the_files_that_its_images_stand_in_for(folder):
    (folder.images / "10.png").write_bytes(b"no image")
    (folder.images / "12.png").unlink()
    dataset = folder.dataset(skip_unreadable=True)
    sampler = [[SampleKey(0, 0), SampleKey(1, 0)], [SampleKey(2, 0)]]
    batches = list(islice(build_training_loader(dataset, sampler, workers=1, pin_memory=True), 2))
    missing = f"{folder.images / '12.png'}: the image is missing"
    assert batches[0].skipped[0].startswith(f"{folder.images / '10.png'}: the image cannot be decoded")
    assert batches[0].skipped[1:] == batches[1].to("cpu").skipped == (missing,)
    assert [source.image_id for source in batches[0].sources] == [13, 11]


def test_batches_are_the_same_for_any_number_of_workers_and_any_start(folder):
    dataset = folder.dataset(Transforms(KeepRatio(100, (30, 40)), 0.5, 0.5), with_masks=True)
    streams = []
    for workers, start in ((0, 0), (2, 0), (1, 2)):
        sampler = GroupedBatchSampler(dataset.aspect_ratios, 2, start=start)
        loader = build_training_loader(dataset, sampler, workers=workers, pin_memory=True)
        streams.append(list(islice(loader, 6)))
    for one, two in zip(streams[0], streams[1], strict=True):
        same(one, two)
    for one, two in zip(streams[0][2:], streams[2][:4], strict=True):
        same(one, two)


class Given:
    """A data set of a caller."""

    classes = ("cat",)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index):
        pixels = torch.arange(48 * 64, dtype=torch.uint8).view(1, 48, 64).expand(3, -1, -1)
        target = {"boxes": [[4, 6, 24, 16]], "labels": [0], "masks": torch.ones(1, 48, 64)}
        return pixels + index, target


@pytest.mark.parametrize("given", [False, True], ids=["a file", "the caller's"])
def test_a_data_set_that_was_pickled_gives_the_same_samples(folder, given):
    """As workers get it that are spawned."""
    changes = PhotometricDistortion(), Expansion(fill=(1, 2, 3)), MinIoUCrop()
    transforms = Transforms(KeepRatio(100, (30, 40)), 0.5, 0.5, *changes)
    dataset = folder.dataset(transforms, with_masks=True)
    if given:
        dataset = from_map_dataset(Given(), "given", transforms=transforms, with_masks=True)
    again = pickle.loads(pickle.dumps(dataset))
    for index, seed in itertools.product(range(len(dataset)), range(3)):
        same(*(collate([one[SampleKey(index, seed)]]) for one in (dataset, again)))


def test_loader_leaves_the_global_random_state_alone(folder):
    dataset = folder.dataset(Transforms(horizontal_flip=0.5))
    before = torch.random.get_rng_state()
    next(iter(build_training_loader(dataset, GroupedBatchSampler(dataset.aspect_ratios, 2), workers=0)))
    list(build_test_loader(dataset, workers=0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_test_loader_gives_every_image_once_in_batches_of_one_padded_size(folder):
    loader = build_test_loader(folder.dataset(), batch_size=2, workers=1)
    assert len(loader) == 3
    for _ in range(2):  # the workers stay
        # 12 is wider than the others, and 64 × 48 pixels are padded as 48 × 64 are.
        assert [[source.image_id for source in batch.sources] for batch in loader] == [[10, 11], [12], [13]]
        assert [tuple(batch.images.pixels.shape[2:]) for batch in loader] == [(64, 64), (64, 96), (64, 64)]


@pytest.mark.parametrize("resize", [None, KeepRatio(100, (40,)), KeepRatio(400, (300,)), FixedSize(50, 70)])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("world_size", [1, 3])
def test_no_image_of_a_test_batch_is_padded_for_another(folder, resize, batch_size, world_size):
    for image_id, size in enumerate(itertools.product((30, 64, 65, 200), (20, 64, 90)), start=20):
        folder.add_image(image_id, *size)
    dataset, found = folder.dataset(Transforms(resize)), []
    for rank in range(world_size):
        loader = build_test_loader(dataset, batch_size, workers=0, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches:
            assert 1 <= len(batch.images) <= batch_size
            assert {padded_size([size]) for size in batch.images.sizes} == {tuple(batch.images.pixels.shape[2:])}
            found += [source.image_id for source in batch.sources]
        assert len(found[-len(dataset) :]) >= len(dataset) // world_size
    assert sorted(found) == dataset.image_ids.tolist()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.unlink(), "the image is missing"),
        (lambda path: path.write_bytes(b""), "the image cannot be decoded"),
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), "the image cannot be decoded"),
        (lambda path: Image.new("RGB", (9, 9)).save(path), "the image is 9 × 9 pixels, its annotations say 80 × 40"),
        (lambda path: Image.new("F", (80, 40)).save(path, "tiff"), "the image has 32 bits"),
    ],
)
def test_a_test_batch_tells_of_an_image_that_cannot_be_read(folder, workers, harm, reason):
    harm(folder.images / "12.png")  # which is alone in its batch
    batches = list(build_test_loader(folder.dataset(), batch_size=2, workers=workers, pin_memory=True))
    assert [len(batch.images) for batch in batches] == [2, 0, 1]
    [told] = [reason for batch in batches for reason in batch.skipped]
    assert told.startswith(f"{folder.images / '12.png'}: {reason}")


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_images_without_repetition(folder, world_size):
    dataset = folder.dataset()
    found = []
    for rank in range(world_size):
        loader = build_test_loader(dataset, batch_size=2, workers=0, rank=rank, world_size=world_size)
        found += [source.image_id for batch in loader for source in batch.sources]
    assert sorted(found) == [10, 11, 12, 13]


def test_test_loader_refuses_to_skip_images(folder):
    with pytest.raises(ValueError, match="for training only"):
        build_test_loader(folder.dataset(skip_unreadable=True))
    with pytest.raises(ValueError, match="out of its range"):
        build_test_loader(folder.dataset(), batch_size=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_message_is_one_line_also_from_a_worker(folder, workers):
    (folder.images / "12.png").unlink()
    with pytest.raises(InputError) as caught:
        list(build_training_loader(folder.dataset(), [[SampleKey(0, 0)], [SampleKey(2, 0)]], workers=workers))
    assert str(caught.value) == f"{folder.images / '12.png'}: the image is missing"


TIGHT = """
import sys
from itertools import repeat
from pathlib import Path
from rankdet.data import CocoDataset, KeepRatio, SampleKey, Transforms, build_test_loader, build_training_loader
from rankdet.structures import InputError

folder, kind = Path(sys.argv[1]), sys.argv[2]
transforms = Transforms(KeepRatio(999, (700,)))
dataset = CocoDataset(folder / "annotations/instances_train.json", folder / "images", transforms, with_masks=True)
keys = repeat([SampleKey(0, 0), SampleKey(1, 0)])
loader = build_training_loader(dataset, keys, 2) if kind == "training" else build_test_loader(dataset, 4, 1)
try:
    for batch in loader:
        pass
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["training", "test"])
@pytest.mark.parametrize("size", ["16k", "64k", "2M"])
def test_used_up_shared_memory_is_one_message_and_no_waiting(folder, tmp_path, kind, size):
    """In a name space of its own, a process has as little shared memory as a container may have."""
    folder.write()
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to mount in a name space of its own")
    script = tmp_path / "tight.py"
    script.write_text(TIGHT)
    run = f"{mount} && exec timeout -k 1 60 {sys.executable} {script} {folder.root} {kind}"
    result = subprocess.run([*command, run], capture_output=True, text=True, timeout=70, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("the workers that read images have no shared memory left (/dev/shm has ")
    assert result.stdout.strip().endswith("data.workers=0 reads images without workers")
    assert "Traceback" not in result.stderr


@dataclass(frozen=True)
class Deadly:
    """Pixels whose reader is killed."""

    number: int

    def __call__(self, index: int) -> torch.Tensor:
        if get_worker_info() is not None:
            os.kill(os.getpid(), self.number)
        return torch.zeros(3, 48, 64, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGBUS, "have no shared memory left"),
        (signal.SIGKILL, "was killed, as the system does where memory is used up"),
        (signal.SIGSEGV, "was killed"),
    ],
)
def test_a_worker_that_is_killed_is_one_message(folder, number, reason):
    dataset = folder.dataset(read_pixels=Deadly(number))
    with pytest.raises(InputError, match=f"{reason}.*; data.workers=0 reads images without workers$") as caught:
        list(build_training_loader(dataset, [[SampleKey(0, 0)]], workers=1))
    assert "\n" not in str(caught.value)
    assert len(list(build_training_loader(dataset, [[SampleKey(0, 0)]], workers=0))) == 1


class Unlucky:
    """In place of a batch: as torch fails where its process for shared memory has ended, so many times."""

    def __init__(self, failures, message):
        self.failures, self.message, self.attempts = failures, message, 0

    def share_memory(self):
        self.attempts += 1
        if self.attempts <= self.failures:
            raise RuntimeError(self.message)


def test_what_serves_shared_memory_is_started_again_where_a_busy_machine_lost_it():
    lost = "No such file or directory"
    late = Unlucky(2, lost)
    _share(late)
    assert late.attempts == 3
    for unlucky, attempts in ((Unlucky(99, lost), MOST_STARTS), (Unlucky(99, "No space left on device"), 1)):
        with pytest.raises(RuntimeError, match=unlucky.message):
            _share(unlucky)
        assert unlucky.attempts == attempts


def test_errors_of_programs_are_not_taken_for_lost_workers(folder):
    def broken(index):
        raise RuntimeError("shm: my own error")

    for workers in (0, 1):
        with pytest.raises(RuntimeError, match="my own error"):
            list(build_training_loader(folder.dataset(read_pixels=broken), [[SampleKey(0, 0)]], workers=workers))


def test_workers_use_one_thread(folder):
    before = torch.get_num_threads()
    loader = build_test_loader(folder.dataset(Transforms(KeepRatio(1333, (800,)))), workers=1)
    assert loader.worker_init_fn is not None
    assert len(list(loader)) == 4
    assert torch.get_num_threads() == before
