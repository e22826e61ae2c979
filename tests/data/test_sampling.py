"""The endless stream of batches."""

from itertools import islice

import numpy as np
import pytest

from rankdet.data import GroupedBatchSampler
from rankdet.data.sampling import repeat_factors

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


@pytest.mark.parametrize(
    "stages", [[(2, 2, 7), (1, 2, 5), (3, 2, 9)], [(1, 8, 3), (1, 1, 6), (2, 1, 5), (4, 3, 2)], [(1, 4, 3), (1, 2, 1)]]
)
def test_nothing_is_repeated_or_dropped_where_batches_change_their_size(stages):
    """Each stage is (processes, images of each, batches), and goes on where those before it were."""
    keys, before = [], []
    for processes, size, batches in [*stages, (1, 1, 300)]:
        for rank in range(processes):
            for batch in take(batches, batch_size=size, rank=rank, world_size=processes, before=before):
                assert len(batch) == size
                assert len({RATIOS[key.index] >= 1 for key in batch}) == 1
                keys += batch
        before.append((processes * size, batches))
    assert len({key.seed for key in keys}) == len(keys)
    counts = np.bincount([key.index for key in keys], minlength=len(RATIOS))
    for is_landscape in (True, False):
        group = counts[(RATIOS >= 1) == is_landscape]
        assert group.max() - group.min() <= 1
    assert take(5, batch_size=2, before=before, start=4) == take(9, batch_size=2, before=before)[4:]


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
    with pytest.raises(ValueError, match="no image"):
        GroupedBatchSampler([], 1)


def test_repeated_images_are_in_every_epoch_as_often_as_they_shall():
    repeats = np.arange(len(RATIOS)) % 3 + 1
    sampler = GroupedBatchSampler(RATIOS, 4, seed=3, repeats=repeats)
    assert sampler.num_samples == repeats.sum()
    assert sampler.iterations_per_epoch == -(-repeats.sum() // 4)
    keys = [key for batch in islice(sampler, 2000) for key in batch]
    counts = np.bincount([key.index for key in keys], minlength=len(RATIOS))
    for is_landscape in (True, False):
        group = (RATIOS >= 1) == is_landscape
        assert (counts[group] / repeats[group]).std() < 0.02 * counts[group].mean()
    assert len({key.seed for key in keys}) == len(keys)  # each copy is flipped by itself


def test_repeated_images_stay_in_their_group_start_anywhere_and_are_shared_by_processes():
    repeats = np.arange(len(RATIOS)) % 3 + 1
    whole = take(60, batch_size=6, repeats=repeats)
    assert all(len({RATIOS[key.index] >= 1 for key in batch}) == 1 for batch in whole)
    assert take(20, batch_size=6, repeats=repeats, start=40) == whole[40:]
    parts = [take(60, batch_size=2, rank=rank, world_size=3, repeats=repeats) for rank in range(3)]
    assert [[key for part in slices for key in part] for slices in zip(*parts, strict=True)] == whole


def test_images_that_are_not_repeated_make_the_stream_of_ever():
    assert take(60, repeats=np.ones(len(RATIOS), dtype=int)) == take(60)


@pytest.mark.parametrize("repeats", [[0] * len(RATIOS), [1, 2]])
def test_repeats_that_leave_an_image_out_are_refused(repeats):
    with pytest.raises(ValueError, match="at least once"):
        GroupedBatchSampler(RATIOS, 4, repeats=repeats)


def test_repeat_factor_is_that_of_the_rarest_class_of_an_image():
    # 100 images: class 0 in all, class 1 in four, class 2 in one, which has class 1 too; class 3 in none.
    images = np.array([*range(100), 5, 6, 7, 8, 8, 8, 8])
    labels = np.array([*[0] * 100, 1, 1, 1, 1, 1, 1, 2])
    factors = repeat_factors(images, labels, 100, threshold=0.16)
    assert factors[8] == pytest.approx(4)  # √(0.16 / 0.01)
    assert factors[5:8] == pytest.approx([2, 2, 2])  # objects of one image count once
    assert (np.delete(factors, [5, 6, 7, 8]) == 1).all()


def test_images_without_objects_are_not_repeated():
    assert repeat_factors(np.array([1]), np.array([0]), 3, 1.0) == pytest.approx([1, 3**0.5, 1])
    empty = np.zeros(0, dtype=np.int64)
    assert repeat_factors(empty, empty, 2, 0.001).tolist() == [1, 1]
    with pytest.raises(ValueError, match="not positive"):
        repeat_factors(empty, empty, 2, 0.0)


def test_data_set_rounds_its_repeat_factors_up(folder):
    # Usable: "cat" and "dog" in the first of four images, "dog" in the second.
    assert folder.dataset().repeats(0.001).tolist() == [1, 1, 1, 1]
    assert folder.dataset().repeats(0.5).tolist() == [2, 1, 1, 1]  # √(0.5 / 0.25) of "cat"
    assert folder.dataset(keep_empty=False).repeats(2.0).tolist() == [2, 2]
