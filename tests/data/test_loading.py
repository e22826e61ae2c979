"""Batches and loaders."""

from itertools import islice

import pytest
import torch

from rankdet.data import (
    GroupedBatchSampler,
    KeepRatio,
    SampleKey,
    Transforms,
    build_test_loader,
    build_training_loader,
    collate,
)
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
    assert batches[0].skipped == (str(folder.images / "10.png"), str(folder.images / "12.png"))
    assert batches[1].to("cpu").skipped == (str(folder.images / "12.png"),)
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


def test_loader_leaves_the_global_random_state_alone(folder):
    dataset = folder.dataset(Transforms(horizontal_flip=0.5))
    before = torch.random.get_rng_state()
    next(iter(build_training_loader(dataset, GroupedBatchSampler(dataset.aspect_ratios, 2), workers=0)))
    list(build_test_loader(dataset, workers=0))
    assert torch.equal(before, torch.random.get_rng_state())


def test_test_loader_gives_every_image_once_in_the_order_of_the_file(folder):
    loader = build_test_loader(folder.dataset(), batch_size=3, workers=1)
    assert len(loader) == 2
    for _ in range(2):  # the workers stay
        assert [source.image_id for batch in loader for source in batch.sources] == [10, 11, 12, 13]


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
        list(build_test_loader(folder.dataset(), workers=workers))
    assert str(caught.value) == f"{folder.images / '12.png'}: the image is missing"


def test_workers_use_one_thread(folder):
    before = torch.get_num_threads()
    loader = build_test_loader(folder.dataset(Transforms(KeepRatio(1333, (800,)))), workers=1)
    assert loader.worker_init_fn is not None
    assert len(list(loader)) == 4
    assert torch.get_num_threads() == before
