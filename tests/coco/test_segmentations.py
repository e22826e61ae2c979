"""Masks of detections → run lengths: the same as encoding the whole mask, without ever making it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as oracle

from rankdet.coco import encode_masks, read_ground_truth, segmentations
from rankdet.coco.segmentations import sums_of_runs
from rankdet.structures import MaskScores

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")


def random_masks(number: int, size: tuple[int, int], seed: int) -> MaskScores:
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([size[1], size[0], size[1], size[0]])
    corners = (1.2 * torch.rand(number, 4, generator=generator) - 0.1) * sides
    regions = torch.cat(
        [torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], 1
    )
    return MaskScores(torch.rand(number, 7, 9, generator=generator), regions)


@pytest.mark.parametrize("size", [(60, 40), (5, 90), (1, 1), (33, 1)])
def test_run_lengths_equal_those_of_pycocotools(size: tuple[int, int]) -> None:
    masks = random_masks(60, size, seed=sum(size))
    for found, mask in zip(encode_masks(masks, size), masks.bitmaps(size), strict=True):
        expected = oracle.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert found == {"size": list(size), "counts": expected["counts"].decode()}


@pytest.mark.parametrize("region", [[0.0, 0, 8, 6], [0, -1, 5, 7], [3, 0, 4, 6], [3, 2, 3, 2], [20, 20, 30, 30]])
def test_full_columns_run_on_and_nothing_is_nothing(region: list[float]) -> None:
    masks = MaskScores(torch.ones(1, 500, 500), torch.tensor([region]))
    (found,) = encode_masks(masks, (6, 8))
    assert np.array_equal(oracle.decode(found), masks.bitmaps((6, 8))[0].numpy())
    if region == [0, 0, 8, 6]:
        assert found["counts"] == oracle.encode(np.ones((6, 8), dtype=np.uint8, order="F"))["counts"].decode()


def test_a_mask_is_empty_exactly_where_pycocotools_finds_no_pixel_in_the_image() -> None:
    rng = np.random.default_rng(0)
    height, width = 30, 50
    left, top = rng.uniform(-45, 60, (2, 2000))
    right, bottom = left + rng.choice([0, 0.4, 3, 40], 2000), top + rng.choice([0, 0.4, 3, 40], 2000)
    outlines = np.stack([left, top, right, top, right, bottom, left, bottom], axis=1).round(1).tolist()
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    rows = [{"id": row + 1, **box, "segmentation": [outline]} for row, outline in enumerate(outlines)]
    image = {"id": 1, "file_name": "1.png", "width": width, "height": height}
    content = {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": rows}
    truth, _ = read_ground_truth(content, files=True, masks=True)
    pixels = np.array([oracle.area(code) for code in oracle.frPyObjects(outlines, height, width)])
    assert np.array_equal(truth.has_empty_mask, pixels == 0)
    assert 150 < (pixels > 0).sum() < 1850


def letters(runs: list[int]) -> bytes:
    """Runs as COCO compresses them: from the fourth on differences to the one before the last, 5 bits a letter."""
    written = bytearray()
    for place, run in enumerate(runs):
        rest, is_whole = run - runs[place - 2] if place > 2 else run, False
        while not is_whole:
            letter, rest = rest & 31, rest >> 5
            is_whole = rest == (-1 if letter & 16 else 0)
            written.append(48 + letter + (0 if is_whole else 32))
    return bytes(written)


@pytest.mark.parametrize("largest", [2, 40, 5000, 2**31])
def test_pixels_of_many_run_lengths_are_the_sums_of_their_runs(largest: int) -> None:
    random = np.random.default_rng(largest)
    runs = [random.integers(largest, size=random.integers(80)).tolist() for _ in range(3000)]
    assert sums_of_runs([letters(one) for one in runs]).tolist() == [sum(one) for one in runs]


def test_pixels_of_one_long_mask_are_the_sum_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = np.random.default_rng(0).integers(1000, size=100_000).tolist()
    assert sums_of_runs([letters(runs)]).tolist() == [sum(runs)]
    monkeypatch.setattr(segmentations, "LONG_TEXT", 0)  # as if 32 bits were too few
    assert sums_of_runs([letters(runs), letters([3, 1])]).tolist() == [sum(runs), 4]
