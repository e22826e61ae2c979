"""CARAFE: the equation, its gradients, what it keeps, and the pyramid that enlarges by it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rankdet.backbones import CARAFE, CarafeFPN, carafe
from rankdet.backbones.carafe import reassemble, reassemble_reference

FORMATS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])


@pytest.fixture(params=[2**18, 40], ids=["one chunk", "many chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of a few cells are worked on at once, or row by row as large ones."""
    monkeypatch.setattr(carafe, "SMALLEST_CHUNK", request.param)


def make(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A map (B, C, H, W) and weights, both of which want gradients."""
    generator = torch.Generator().manual_seed(0)
    batch, _, height, width = shape
    features = torch.randn(*shape, generator=generator, dtype=dtype)
    weights = torch.randn(batch, 2 * height, 2 * width, 25, generator=generator, dtype=dtype)
    return features.requires_grad_(), weights.requires_grad_()


def by_hand(features: Tensor, weights: Tensor) -> Tensor:
    """Cell by cell."""
    batch, channels, height, width = features.shape
    enlarged = torch.zeros(batch, channels, 2 * height, 2 * width, dtype=features.dtype)
    for y in range(2 * height):
        for x in range(2 * width):
            for n in range(-2, 3):
                for m in range(-2, 3):
                    row, column = y // 2 + n, x // 2 + m
                    if 0 <= row < height and 0 <= column < width:
                        weight = weights[:, y, x, 5 * (n + 2) + m + 2, None]
                        enlarged[:, :, y, x] += weight * features[:, :, row, column]
    return enlarged


def test_the_reference_is_the_equation_cell_by_cell():
    features, weights = make(2, 3, 3, 4)
    torch.testing.assert_close(reassemble_reference(features, weights), by_hand(features, weights))


@FORMATS
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 1), (3, 2, 1, 7), (1, 4, 6, 1)], ids=str)
def test_sums_and_their_gradients_are_those_of_the_reference(chunks: None, layout: Any, shape: tuple[int, ...]):
    features, weights = make(*shape)
    laid_out = features.contiguous(memory_format=layout)
    found, expected = reassemble(laid_out, weights), reassemble_reference(features, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(found, (features, weights), upstream.contiguous(memory_format=layout))
    truth = torch.autograd.grad(expected, (features, weights), upstream)
    torch.testing.assert_close(gradients, truth, rtol=1e-12, atol=1e-12)


def test_gradients_are_derivatives(chunks: None):
    assert torch.autograd.gradcheck(reassemble, make(1, 2, 2, 3))


def test_a_view_with_gaps_is_a_map_as_any_other():
    features, weights = make(2, 4, 5, 6)
    gaps = features[:, ::2, :, 1:-1]
    found = reassemble(gaps, weights[:, :, 2:-2])
    torch.testing.assert_close(found, reassemble_reference(gaps, weights[:, :, 2:-2]))
    found.sum().backward()
    assert features.grad is not None
    assert not features.grad[:, 1::2].any()


@pytest.mark.parametrize("wanted", ["features", "weights"])
def test_one_gradient_is_made_without_the_other(wanted: str):
    features, weights = make(1, 2, 3, 3)
    truth = torch.autograd.grad(reassemble_reference(features, weights).square().sum(), (features, weights))
    own = features if wanted == "features" else features.detach()
    others = weights if wanted == "weights" else weights.detach()
    (found,) = torch.autograd.grad(reassemble(own, others).square().sum(), [own if wanted == "features" else others])
    torch.testing.assert_close(found, truth[wanted == "weights"])


@FORMATS
def test_the_enlarged_map_lies_in_memory_as_the_map_does(layout: Any):
    features, weights = make(2, 3, 4, 5)
    found = reassemble(features.contiguous(memory_format=layout), weights)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_round_as_they_must(dtype: torch.dtype):
    features, weights = (value.detach() for value in make(2, 8, 6, 5))
    weights = weights.softmax(dim=-1)
    own = [value.to(dtype).requires_grad_() for value in (features, weights)]
    found = reassemble(*own)
    assert found.dtype == dtype
    tolerance = {"rtol": 0, "atol": 8 * torch.finfo(dtype).eps}
    torch.testing.assert_close(found.double(), reassemble_reference(features, weights), **tolerance)
    found.sum().backward()
    assert all(value.grad.dtype == dtype and value.grad.isfinite().all() for value in own)


def test_shapes_and_precisions_that_do_not_fit_are_refused():
    features, weights = make(1, 2, 3, 4)
    for wrong in (weights[:, 1:], weights[..., 1:], weights.float()):
        with pytest.raises(ValueError, match=r"weights must be \(1, 6, 8, 25\) and torch.float64, not"):
            reassemble(features, wrong)


class Largest(TorchDispatchMode):
    """The most elements that the memory of any tensor holds which is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.itemsize)
        return result


def test_nothing_larger_than_the_enlarged_map_is_made_and_nothing_but_the_inputs_is_kept(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(carafe, "SMALLEST_CHUNK", 1)
    features, weights = make(1, 64, 16, 16, dtype=torch.float32)
    kept: list[Tensor] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value)
    with hooks, Largest() as forward:
        enlarged = reassemble(features, weights)
    with Largest() as backward:
        torch.autograd.grad(enlarged, (features, weights), torch.ones_like(enlarged))
    assert [value.data_ptr() for value in kept] == [value.data_ptr() for value in (features, weights)]
    assert forward.elements == enlarged.numel()
    assert backward.elements <= enlarged.numel()


def test_weights_are_a_pixel_shuffle_and_sum_to_one():
    torch.manual_seed(0)
    module = CARAFE(8, compressed_channels=4).double()
    features = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    weights = module.weights(features)
    assert weights.shape == (2, 6, 10, 25)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 6, 10, dtype=torch.float64))
    logits = module.encoder(module.compressor(features))
    shuffled = torch.nn.functional.pixel_shuffle(logits, 2).softmax(dim=1)
    torch.testing.assert_close(weights, shuffled.permute(0, 2, 3, 1))


def test_a_fresh_module_is_nearly_the_mean_of_25_cells():
    torch.manual_seed(0)
    features = torch.randn(1, 16, 8, 8)
    mean = conv2d(features.view(16, 1, 8, 8), torch.full((1, 1, 5, 5), 1 / 25), padding=2).view(1, 16, 8, 8)
    expected = mean.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(CARAFE(16)(features), expected, rtol=0, atol=0.05)


def test_initialization_is_that_of_the_published_module():
    torch.manual_seed(0)
    module = CARAFE(256)
    assert module.compressor.weight.shape == (64, 256, 1, 1)
    assert module.encoder.weight.shape == (100, 64, 3, 3)
    assert module.encoder.weight.std().item() == pytest.approx(0.001, rel=0.05)
    limit = math.sqrt(6 / (256 + 64))  # Xavier uniform
    assert module.compressor.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert not module.compressor.bias.any()
    assert not module.encoder.bias.any()


def test_the_pyramid_fits_maps_of_odd_sizes_and_p6_joins_its_top_down_path():
    torch.manual_seed(0)
    fpn = CarafeFPN((8, 16, 32), 4)
    maps = [torch.rand(1, 8, 25, 31), torch.rand(1, 16, 13, 16), torch.rand(1, 32, 7, 8)]
    pyramid = fpn(maps)
    assert [tuple(level.shape) for level in pyramid] == [(1, 4, 25, 31), (1, 4, 13, 16), (1, 4, 7, 8), (1, 4, 4, 4)]
    assert len(fpn.upsamplers) == 3
    # The coarsest level by hand, and the next with it: enlarged, and cut at the bottom.
    (lateral,) = fpn.coarser
    assert (lateral.in_channels, lateral.kernel_size, lateral.stride) == (32, (3, 3), (2, 2))
    coarsest = lateral(maps[-1])
    torch.testing.assert_close(pyramid[3], fpn.outputs[3](coarsest))
    enlarged = fpn.upsamplers[2](coarsest)
    assert enlarged.shape[-2:] == (8, 8)
    torch.testing.assert_close(pyramid[2], fpn.outputs[2](fpn.laterals[2](maps[2]) + enlarged[:, :, :7]))


def test_every_parameter_of_the_pyramid_has_a_gradient_from_its_finest_level_alone_but_for_other_outputs():
    torch.manual_seed(0)
    fpn = CarafeFPN((8, 16), 8, extra_levels=2)
    finest, *others = fpn([torch.rand(2, 8, 8, 8), torch.rand(2, 16, 4, 4)])
    assert [tuple(level.shape[2:]) for level in others] == [(4, 4), (2, 2), (1, 1)]
    finest.square().sum().backward()
    silent = {name for name, weight in fpn.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert silent == {f"outputs.{level}.{part}" for level in (1, 2, 3) for part in ("weight", "bias")}


def test_a_pyramid_may_have_no_coarser_level():
    fpn = CarafeFPN((8, 16), 4, extra_levels=0)
    assert len(fpn([torch.rand(1, 8, 6, 6), torch.rand(1, 16, 3, 3)])) == 2
    assert len(fpn.upsamplers) == 1
