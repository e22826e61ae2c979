"""What travels between the rooms is checked where it is made."""

from __future__ import annotations

import pytest
import torch

from rankdet.structures import Candidates, Matched, Target


def test_auxiliary_outputs_must_pair_like_all_others() -> None:
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 2, -1])
    good = Matched(torch.zeros(1, 1), torch.zeros(1, 1))
    assert Candidates("dense", logits, labels, 2, auxiliary={"centerness": good}).auxiliary == {"centerness": good}
    with pytest.raises(ValueError, match="head 'dense': auxiliary 'centerness': predicted"):
        Candidates("dense", logits, labels, 2, auxiliary={"centerness": good._replace(target=torch.zeros(2, 1))})
    with pytest.raises(ValueError, match="1 pairs but 2 rows"):
        Candidates("dense", logits, labels, 2, auxiliary={"centerness": good._replace(rows=torch.zeros(2))})


def test_every_object_of_a_target_has_its_mask() -> None:
    boxes, labels = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    assert Target(boxes, labels, torch.zeros(2, 5, 6, dtype=torch.bool)).masks is not None
    with pytest.raises(ValueError, match="2 boxes and 3 masks do not pair"):
        Target(boxes, labels, torch.zeros(3, 5, 6, dtype=torch.bool))
