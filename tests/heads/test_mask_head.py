"""The mask head: its size, and that a RoI has the channel of its class."""

from __future__ import annotations

import torch

from rankdet.heads import MaskHead


def test_masks_are_the_channels_of_the_classes_asked_for() -> None:
    torch.manual_seed(0)
    head = MaskHead(8, 5, channels=6, num_convolutions=2)
    pooled, labels = torch.randn(4, 8, 14, 14), torch.tensor([3, 0, 3, 4])
    found = head(pooled, labels)
    assert found.shape == (4, 28, 28)
    hidden = pooled
    for convolution in head.convolutions:
        hidden = convolution(hidden).relu()
    hidden = head.upsampling(hidden).relu()
    channels = torch.nn.functional.conv2d(hidden, head.classifier.weight[:, :, None, None], head.classifier.bias)
    torch.testing.assert_close(found, channels[torch.arange(4), labels])


def test_no_rois_leave_the_graph_whole() -> None:
    head = MaskHead(8, 5, channels=6)
    pooled = torch.zeros(0, 8, 14, 14, requires_grad=True)
    head(pooled, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_logits_start_small_whatever_the_number_of_classes() -> None:
    torch.manual_seed(0)
    pooled, labels = torch.rand(9, 64, 14, 14), torch.zeros(9, dtype=torch.int64)
    for num_classes in (1, 80):
        assert MaskHead(64, num_classes, channels=64)(pooled, labels).std() < 2
