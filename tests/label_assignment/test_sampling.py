"""What a sampler keeps."""

from __future__ import annotations

import pytest
import torch

from rankdet.label_assignment import RandomSampler
from rankdet.structures import Assignment


@pytest.mark.parametrize(
    ("positives", "negatives", "kept_positives", "kept_negatives"),
    [(30, 500, 8, 24), (3, 500, 3, 29), (30, 5, 8, 5), (0, 500, 0, 32), (3, 4, 3, 4), (0, 0, 0, 0), (40, 0, 8, 0)],
)
def test_negatives_fill_what_positives_leave(
    positives: int, negatives: int, kept_positives: int, kept_negatives: int
) -> None:
    labels = torch.tensor([1] * positives + [2] * negatives + [-1] * 7)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    kept = RandomSampler(32, 0.25)(Assignment(labels, torch.zeros_like(labels)), num_classes=2).labels
    assert int((kept == 1).sum()) == kept_positives
    assert int((kept == 2).sum()) == kept_negatives
    assert torch.equal(kept[kept >= 0], labels[kept >= 0])


def test_every_candidate_is_chosen_equally_often() -> None:
    torch.manual_seed(0)
    labels = torch.tensor([0] * 10 + [1] * 10)
    sampler = RandomSampler(4, 0.5)
    assignment = Assignment(labels, torch.zeros_like(labels))
    counts = torch.stack([sampler(assignment, 1).labels >= 0 for _ in range(2000)]).sum(dim=0)
    # 400 expected, standard deviation 18.
    assert counts.min() > 320
    assert counts.max() < 480


def test_a_seed_repeats_the_choice() -> None:
    assignment = Assignment(torch.tensor([0, 1] * 50), torch.zeros(100, dtype=torch.int64))
    choices = []
    for _ in range(2):
        torch.manual_seed(5)
        choices.append(RandomSampler(10, 0.5)(assignment, 1).labels)
    assert torch.equal(*choices)
