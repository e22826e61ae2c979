"""Which class a semantic map of an imported YOLACT stands for."""

import torch

from rankdet.importing.from_mmdetection import yolact
from rankdet.recipes import RECIPES


def test_each_semantic_map_of_yolact_moves_to_its_own_class() -> None:
    detector = RECIPES["yolact_shapes"]().detector.build(3, pretrained=False)
    rules = {rule.own: rule for rule in yolact(detector, "segm_head.segm_conv")}
    # There the map at place c − 1 learned class c, and that at the end class 0.
    assert rules["semantic.classifier"].convert(torch.tensor([1, 2, 0])).tolist() == [0, 1, 2]
