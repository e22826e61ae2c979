"""Imported weights of RT-DETR compute what transformers computes: logits, boxes, and the losses of all heads."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_convert

from rankdet import load
from rankdet.backbones import HybridEncoder, TimmBackbone, TinyBackbone
from rankdet.detectors import RTDETR
from rankdet.heads import Denoising, QueryDecoder
from rankdet.importing import from_transformers, import_checkpoint
from rankdet.importing.categories import reordered
from rankdet.importing.from_transformers import NEWER, Names
from rankdet.importing.rules import translated
from rankdet.losses import ConstantBalance, GIoULoss, L1Loss, NoWeights, Tasks, VarifocalLoss, find_positives
from rankdet.structures import Batch, Images, InputError, Source, Target

transformers = pytest.importorskip("transformers", reason="compares with RT-DETR of transformers")

SIDES = (128, 160)
"""(height, width) of images."""
NUM_CLASSES = 3


def theirs(num_denoising: int = 0, expansion: float = 1.0) -> Any:
    """RT-DETR as transformers builds it, on a tiny ResNet, with weights that are not those of its start."""
    torch.manual_seed(0)
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 64, 128, 256],
        depths=[1, 2, 1, 1],
        layer_type="bottleneck",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[64, 128, 256],
        encoder_hidden_dim=32,
        encoder_ffn_dim=24,
        encoder_attention_heads=4,
        hidden_expansion=expansion,
        d_model=16,
        decoder_in_channels=[32, 32, 32],
        decoder_attention_heads=2,
        decoder_ffn_dim=20,
        decoder_layers=3,
        decoder_n_points=2,
        num_queries=20,
        num_labels=NUM_CLASSES,
        num_denoising=num_denoising,
        label_noise_ratio=0.0,
        box_noise_scale=1e-6,
    )
    # With the other implementation torch 2.14 takes the float32 mask of noised queries for one in double precision.
    config._attn_implementation = "eager"
    model = transformers.RTDetrForObjectDetection(config).eval()
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name or "bbox" in name or "class_embed" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


class Doubled(nn.Module):
    """Pixels from 0 to 1 in double precision."""

    def forward(self, images: Images) -> Tensor:
        return images.pixels.double() / 255


def ours(model: Any, dtype: torch.dtype, names: Names = NEWER, expansion: float = 1.0) -> RTDETR:
    """The same detector of this package, with the weights of ``model``."""
    config = model.config
    options = {"layers": (1, 2, 1, 1), "channels": (8, 16, 32, 64), "stem_width": 8}
    backbone = TimmBackbone("resnet50d", (2, 3, 4), mean=(0.0,) * 3, std=(255.0,) * 3, options=options)
    detector = RTDETR(
        NUM_CLASSES,
        backbone=backbone,
        pyramid_channels=32,
        encoder=partial(HybridEncoder, heads=4, feedforward=24, expansion=expansion),
        decoder=partial(QueryDecoder, channels=16, queries=20, layers=3, heads=2, points=2, feedforward=20),
        denoising=partial(Denoising, queries=config.num_denoising, label_noise=0.0, box_noise=1e-6)
        if config.num_denoising
        else None,
    ).eval()
    tensors = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    detector.load_state_dict(translated(tensors, from_transformers.rt_detr(detector, names), detector.state_dict()))
    if dtype == torch.float64:
        detector.double()
        detector.backbone.normalization = Doubled()
    return detector


def images() -> Images:
    """Two images of blobs that fill their canvas."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 3, 8, 10, generator=generator)
    pixels = nn.functional.interpolate(pixels, size=SIDES, mode="bilinear")
    return Images((255 * pixels).round().to(torch.uint8), (SIDES, SIDES))


@pytest.mark.parametrize("expansion", [1.0, 0.5])
def test_logits_and_boxes_are_those_of_transformers(expansion: float) -> None:
    """In double precision: in single, rounding decides which of two nearly equal cells is selected first."""
    model, batch = theirs(expansion=expansion), images()
    detector = ours(model, torch.float64, expansion=expansion)
    model.double()
    with torch.no_grad():
        expected = model.model(batch.pixels.double() / 255)
        outputs = detector._outputs(batch)
    close = partial(torch.testing.assert_close, atol=1e-10, rtol=1e-10)
    assert expected.intermediate_logits.std() > 0.1
    close(outputs.selected.logits, expected.enc_topk_logits)
    close(outputs.selected.boxes, expected.enc_topk_bboxes)
    for layer, found in enumerate(outputs.layers):
        close(found.logits, expected.intermediate_logits[:, layer])
        close(found.boxes, expected.intermediate_reference_points[:, layer])


def targets() -> tuple[Target, ...]:
    """Two large objects in each image, which some box of every cell overlaps."""
    height, width = SIDES
    scale = torch.tensor([width, height] * 2)
    first = torch.tensor([[0.02, 0.01, 0.99, 0.95], [0.04, 0.03, 0.97, 0.99]]) * scale
    second = torch.tensor([[0.01, 0.04, 0.96, 0.98], [0.05, 0.02, 0.98, 0.94]]) * scale
    return Target(first, torch.tensor([0, 2])), Target(second, torch.tensor([1, 1]))


STANDARD = VarifocalLoss(
    constant_weights=True,
    tasks=Tasks(box_loss=GIoULoss(2.0), delta_loss=L1Loss(5.0), weighting=NoWeights(), balancing=ConstantBalance()),
)


@pytest.mark.parametrize("num_denoising", [0, 8])
def test_losses_of_all_heads_and_their_gradients_are_those_of_transformers(num_denoising: int) -> None:
    model, pixels = theirs(num_denoising), images()
    detector = ours(model, torch.float64)
    for parameter in detector.backbone.parameters():
        parameter.requires_grad_(parameter.ndim > 1)  # normalization of the backbone is no parameter there
    model.double().train()  # noised queries are made in training alone
    detector.train()
    labels = [
        {
            "class_labels": target.labels,
            "boxes": box_convert(target.boxes / torch.tensor(SIDES[::-1] * 2), "xyxy", "cxcywh").double(),
        }
        for target in targets()
    ]
    expected = model(pixels.pixels.double() / 255, labels=labels)
    sources = tuple(Source(number, f"{number}.png", SIDES) for number in range(2))
    heads = detector(Batch(pixels, targets(), sources))
    # They number the layers but the last, and then the encoder.
    names = {"decoder3": "", "decoder1": "_aux_0", "decoder2": "_aux_1", "encoder": "_aux_2"}
    names |= {f"denoising{layer + 1}": f"_dn_{layer}" for layer in range(3) if num_denoising}
    assert [candidates.head for candidates in heads][-1] == "decoder3"
    assert {candidates.head for candidates in heads} == set(names)
    total = 0
    for candidates in heads:
        assert (find_positives(candidates).overlap.iou > 0).all()  # there such a positive has no classification loss
        terms = STANDARD(candidates).terms
        parts = [expected.loss_dict[f"loss_{part}{names[candidates.head]}"] for part in ("vfl", "giou", "bbox")]
        assert min(parts) > 0.05
        close = partial(torch.testing.assert_close, atol=0, rtol=1e-5, check_dtype=False)
        close(terms["classification"], parts[0])
        close(terms["localization"], parts[1])
        close(terms["deltas"], parts[2])
        total = total + sum(terms.values())
    expected.loss.backward()
    total.backward()
    gradients = {
        name.removeprefix("model."): value.grad for name, value in model.named_parameters() if value.grad is not None
    }
    rules = list(from_transformers.rt_detr(detector, NEWER))
    own = {name: value.grad for name, value in detector.named_parameters() if value.grad is not None}
    for name, gradient in translated(gradients, rules, own).items():
        # Noised boxes are drawn on each side: they differ by a millionth of their sides.
        difference = float((own[name] - gradient).abs().max())
        assert difference < 1e-4 * float(gradient.abs().max()) + 1e-9, name


@pytest.mark.parametrize("is_saved", [True, False], ids=["saved by transformers", "tensors of its network"])
def test_a_checkpoint_of_transformers_is_imported_with_its_sizes_and_classes(is_saved: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = ["cat", "dog", "bird"]
    config = transformers.RTDetrConfig(
        encoder_hidden_dim=32,
        encoder_ffn_dim=24,
        hidden_expansion=0.5,
        d_model=16,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=20,
        id2label=dict(enumerate(names)),
        label2id={name: label for label, name in enumerate(names)},
    )
    model = transformers.RTDetrForObjectDetection(config).eval()
    if is_saved:
        model.save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
    else:
        file = tmp_path / "weights.pth"
        torch.save(model.state_dict(), file)
    folder = None if is_saved else coco_folder(tmp_path / "data", names)
    found = import_checkpoint(file, tmp_path / "ours.pt", data=folder)
    assert found.origin == "transformers"
    assert found.recipe.name == "detr_r50_coco"
    assert [name for _, name in found.categories[0]] == names
    changed = {field: theirs for field, _, theirs in found.changes if "backbone" not in field}
    assert changed == {
        "detector.pyramid_channels": 32,
        "detector.encoder.feedforward": 24,
        "detector.encoder.expansion": 0.5,
        "detector.decoder.channels": 16,
        "detector.decoder.feedforward": 20,
    }
    network = load(tmp_path / "ours.pt", "cpu").network
    batch = images()
    with torch.no_grad():
        expected = model(batch.pixels / 255)
    best, pairs = expected.logits.sigmoid().flatten(1).topk(300)
    scale = torch.tensor([SIDES[1], SIDES[0]] * 2)
    boxes = box_convert(expected.pred_boxes, "cxcywh", "xyxy") * scale
    for image, detected in enumerate(network.detect(batch)):
        torch.testing.assert_close(detected.scores, best[image], atol=1e-5, rtol=1e-5)
        close = (detected.boxes - boxes[image, pairs[image] // 3].clamp(min=0).minimum(scale)).abs().amax(dim=1) < 0.01
        assert close.float().mean() > 0.95  # ties of scores stand in any order


def coco_folder(folder: Path, names: list[str]) -> Path:
    """A validation split without objects, with these categories."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "val").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "val" / "0.png")
    document = {
        "images": [{"id": 1, "file_name": "0.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return folder


def test_classes_of_all_heads_and_of_noised_queries_take_the_order_of_the_data() -> None:
    detector = RTDETR(
        3,
        backbone=TinyBackbone((8, 16)),
        pyramid_channels=8,
        encoder=partial(HybridEncoder, heads=2, feedforward=8, blocks=1, groups=4),
        decoder=partial(QueryDecoder, channels=8, queries=5, layers=2, heads=2, feedforward=8, groups=4),
    )
    weights = {name: torch.rand(value.shape) for name, value in detector.state_dict().items()}
    moved = reordered(weights, [2, 0, 1], {})
    layers = ["decoder.selector.classifier", *(f"decoder.predictors.{layer}.classifier" for layer in (0, 1))]
    for name, value in weights.items():
        layer = name.rpartition(".")[0]
        if layer == "denoising.embedding":
            assert torch.equal(moved[name], value[[2, 0, 1, 3]])
        else:
            assert torch.equal(moved[name], value[[2, 0, 1]] if layer in layers else value)


TINY_SIZES = {
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 24,
    "d_model": 16,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 20,
    "num_labels": 80,
}


def with_basic_blocks() -> Any:
    backbone = transformers.RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    sizes = TINY_SIZES | {"encoder_in_channels": [128, 256, 512]}
    return transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(backbone_config=backbone, **sizes))


def of_version_2() -> Any:
    return transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config(**TINY_SIZES))


@pytest.mark.parametrize(
    ("build", "mistake"), [(with_basic_blocks, r"\d+ missing"), (of_version_2, "6 left over: decoder.layers.0")]
)
def test_networks_that_are_not_here_are_refused(build: Callable[[], Any], mistake: str, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"rt_detr of transformers, as recipe detr_r50_coco has it: {mistake}"):
        import_checkpoint(tmp_path / "model.safetensors", tmp_path / "ours.pt")
    assert not (tmp_path / "ours.pt").exists()
