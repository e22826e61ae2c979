"""The endless stream of batches."""

from itertools import islice

import numpy as np
import pytest

from rankdet.data import GroupedBatchSampler

RATIOS = np.array([1.5] * 13 + [0.6] * 6 + [1.0] * 2)


def take(count, **fields):
    return list(islice(GroupedBatchSampler(RATIOS, **({"batch_size": 4, "seed": 3} | fields)), count))


def test_batch_is_all_landscape_or_all_portrait():
    for batch in take(100):
        assert len(batch) == 4
        assert len({RATIOS[key.index] >= 1 for key in batch}) == 1


def test_nothing_is_repeated_or_dropped():
    keys = [key for batch in take(400) for key in batch]
    counts = np.bincount([key.index for key in keys], minlength=len(RATIOS))
    for is_landscape in (True, False):
        group = counts[(RATIOS >= 1) == is_landscape]
        assert group.max() - group.min() <= 1  # the epoch that is under way
    assert len({key.seed for key in keys}) == len(keys)


def test_stream_is_the_same_again_and_differs_by_seed():
    assert take(50) == take(50)
    sampler = GroupedBatchSampler(RATIOS, 4, seed=3)
    assert list(islice(sampler, 50)) == list(islice(sampler, 50)) == take(50)
    assert take(50, seed=4) != take(50)
    assert take(1)[0][0] == take(1)[0][0]


def test_epochs_have_different_orders_and_seeds():
    batches = list(islice(GroupedBatchSampler([1.0] * 6, 6), 3))
    orders = [[key.index for key in batch] for batch in batches]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("start", [0, 1, 7, 40])
def test_start_skips_batches(start):
    assert take(20, start=start) == take(20 + start)[start:]


def test_ranks_share_the_batches_of_one_big_process():
    whole = take(60, batch_size=6)
    parts = [take(60, batch_size=2, rank=rank, world_size=3) for rank in range(3)]
    assert [[key for part in slices for key in part] for slices in zip(*parts, strict=True)] == whole


def test_group_smaller_than_a_batch_waits_for_the_next_epochs():
    sampler = GroupedBatchSampler([1.5] * 8 + [0.5], batch_size=4)
    keys = [key for batch in islice(sampler, 90) for key in batch]
    assert {key.index for key in keys} == set(range(9))


def test_iterations_per_epoch_are_rounded_up():
    assert GroupedBatchSampler([1.0] * 205, 4).iterations_per_epoch == 52
    assert GroupedBatchSampler([1.0] * 205, 4, world_size=2).iterations_per_epoch == 26


def test_golden_stream():
    batches = list(islice(GroupedBatchSampler([1.5, 0.5] * 4, batch_size=2, seed=7), 2))
    assert batches == [
        [(1, 8537359801162561875), (7, 6830302528288287142)],
        [(6, 7808500427369534439), (0, 1821039668015705330)],
    ]


@pytest.mark.parametrize("fields", [{"batch_size": 0}, {"rank": 1}, {"start": -1}, {"seed": -1}])
def test_number_out_of_range_is_refused(fields):
    with pytest.raises(ValueError, match="out of its range"):
        GroupedBatchSampler(RATIOS, **({"batch_size": 4} | fields))
    with pytest.raises(ValueError, match="no picture"):
        GroupedBatchSampler([], 1)
