"""The model as an object: what it takes, what it finds, and that it finds the same however it is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import rankdet
from rankdet.data import FixedSize, KeepRatio, Transforms
from rankdet.detectors import ATSS, MaskRCNN
from rankdet.inference.detections import Detections
from rankdet.inference.model import Model
from rankdet.structures import Batch, Candidates, Detection, Images, InputError, MaskScores

CLASSES = [(1, "cat"), (5, "dog"), (9, "cow")]


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    """(3, H, W) uint8: noise, so that every pixel matters."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture
def atss(tiny_atss: Callable[[bool], ATSS]) -> Model:
    """A detector with group normalization, whose statistics padding would change."""
    torch.set_num_threads(1)
    network = tiny_atss(True).eval()
    assert any(isinstance(module, nn.GroupNorm) for module in network.modules())
    nn.init.normal_(network.dense.head.classifier.weight, std=0.5)  # scores from 0 to 1
    return Model(network, CLASSES, Transforms(KeepRatio(96, (64,))))


class Bright(nn.Module):
    """Finds one object: the bounding box of the pixels that are brighter than 200, in the pixels that it is given."""

    def detect(self, images: Images) -> list[Detection]:
        found = []
        for pixels, (height, width) in zip(images.pixels, images.sizes, strict=True):
            rows, columns = (pixels[:, :height, :width].float().mean(0) > 200).nonzero(as_tuple=True)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found.append(Detection(torch.tensor([box]).float(), torch.ones(1), torch.tensor([2])))
        return found


def marked(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8, black with a white rectangle from (4, 2) to (12, 8)."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[2:8, 4:12] = 255
    return image


BRIGHT = Model(Bright(), CLASSES)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("as_file", [True, False])
def test_images_of_16_bits_are_drawn_as_bright_as_the_model_sees_them(
    atss: Model, tmp_path: Path, bits: int, as_file: bool
) -> None:
    model = replace(atss, transforms=replace(atss.transforms, significant_bits=bits))
    gray = photo(480, 500)[0].numpy()
    image = Image.fromarray(gray.astype(np.uint16) << (bits - 8))
    image.save(tmp_path / "a.png")
    given = tmp_path / "a.png" if as_file else image
    found = model.detect(given)
    assert np.array_equal(np.array(found[:0].draw(given)), np.stack([gray] * 3, axis=2))


def test_every_form_of_an_image_gives_the_same(tmp_path: Path):
    array, file = marked(20, 30), tmp_path / "image.png"
    image, tensor = Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1)
    image.save(file)
    forms = [image, array, tensor, tensor.float() / 255, array / 255, str(file), file]
    for found in [*map(BRIGHT.detect, forms), *BRIGHT.detect(forms, batch_size=3)]:
        assert found.boxes.tolist() == [[4, 2, 12, 8]]
        assert (found.names, found.size) == (["cow"], (20, 30))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1", "LA"])
def test_pil_images_of_any_mode_are_taken(mode: str):
    gray = Image.fromarray(marked(20, 30)[:, :, 0])
    image = gray.convert("RGB").convert(mode) if mode != "I;16" else Image.fromarray(np.array(gray, np.uint16) * 257)
    assert image.mode == mode
    assert BRIGHT.detect(image).boxes.tolist() == [[4, 2, 12, 8]]


def test_files_and_pil_images_are_turned_upright_by_their_exif_orientation(tmp_path: Path):
    upright = Image.fromarray(marked(20, 30))
    turned = upright.rotate(90, expand=True)  # what a camera held upright stores
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90° clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        found = BRIGHT.detect(image)
        assert (found.size, found.boxes.tolist()) == ((20, 30), [[4, 2, 12, 8]])
        assert found.draw(image).width > found.draw(image).height


def test_boxes_are_in_pixels_of_the_image_that_was_given():
    model = Model(Bright(), CLASSES, Transforms(FixedSize(40, 90)))
    (box,) = model.detect(marked(20, 30)).boxes.tolist()
    assert box == pytest.approx([4, 2, 12, 8], abs=0.5)


def test_a_list_of_mixed_sizes_gives_what_each_image_gives_alone(atss: Model):
    sizes = [(40, 60), (60, 40), (50, 50), (64, 96), (33, 71)]
    images = [photo(*sizes[number % 5], seed=number) for number in range(64)]
    alone = [atss.detect(image) for image in images]
    together = atss.detect(images)
    assert sum(map(len, alone)) > 200
    for one, other in zip(alone, together, strict=True):
        assert one.size == other.size
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)


def test_a_batch_holds_images_of_one_padded_size_only():
    class Noting(Bright):
        seen: list[Images]

        def detect(self, images: Images) -> list[Detection]:
            self.seen.append(images)
            return super().detect(images)

    network = Noting()
    network.seen = []
    images = [marked(*size) for size in [(20, 30), (40, 20), (20, 30), (30, 20), (40, 20)]]
    found = Model(network, CLASSES).detect(images, batch_size=2)
    assert [detections.size for detections in found] == [image.shape[:2] for image in images]
    assert sorted(batch.sizes for batch in network.seen) == [((20, 30),) * 2, ((30, 20),), ((40, 20),) * 2]


def test_detecting_leaves_mode_gradients_and_random_numbers_alone(atss: Model):
    atss.network.train()
    state = torch.get_rng_state()
    found = atss.detect(photo(40, 60))
    assert atss.network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.boxes.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((20, 30), np.uint8), r"image 0: an array of shape \(20, 30\), not \(H, W, 3\)"),
        (np.zeros((3, 20, 30), np.uint8), r"an array of shape \(3, 20, 30\), not \(H, W, 3\)"),
        (np.zeros((20, 30, 3), np.int32), "an array of int32, not of uint8 or floating-point numbers from 0 to 1"),
        (np.full((20, 30, 3), 255.0), "values go from 255 to 255, not from 0 to 1; or use uint8"),
        (np.full((20, 30, 3), math.nan), "not from 0 to 1"),
        (torch.zeros(2, 3, 20, 30), r"a tensor of shape \(2, 3, 20, 30\), not \(3, H, W\)"),
        (torch.zeros(3, 20, 30, dtype=torch.int64), "a tensor of torch.int64"),
        (torch.zeros(3, 0, 30), "not "),
        (7, "int is no image: give a path, a PIL image"),
        (Image.new("F", (30, 20)), "32 bits per channel"),
        ("nothing.png", "nothing.png: the image is missing"),
        ([marked(20, 30), None], "image 1: NoneType is no image"),
    ],
)  # fmt: skip
def test_what_is_no_image_gets_one_clear_message(image: object, message: str):
    with pytest.raises(InputError, match=message):
        BRIGHT.detect(image)


def test_detections_are_filtered_by_masks_slices_and_indices_and_iterated():
    detection = Detection(torch.arange(12.0).view(3, 4), torch.tensor([0.9, 0.6, 0.3]), torch.tensor([2, 0, 2]))
    found = Detections(detection, (20, 30), CLASSES, [0.5, 0.5, 0.2])
    assert len(found) == 3
    assert found[found.scores > 0.5].names == ["cow", "cat"]
    assert found[1:].scores.tolist() == pytest.approx([0.6, 0.3])
    assert found[[2, 0]].scores.tolist() == pytest.approx([0.3, 0.9])
    assert found[np.array([True, False, True])].names == ["cow", "cow"]
    assert len(found[[]]) == len(found[:0]) == 0
    assert (found[-1].name, found[0].box) == ("cow", (0, 1, 2, 3))
    assert [one.label for one in found] == [2, 0, 2]
    with pytest.raises(IndexError):
        _ = found[3]
    assert found.above().names == ["cow", "cat", "cow"]
    assert found.above(0.7).names == ["cow"]
    assert repr(found).splitlines()[:2] == ["3 detections in 20 × 30 pixels", "  0.900 cow (0, 1, 2, 3)"]


def test_masks_become_pixels_of_the_image():
    scores = MaskScores(torch.ones(1, 2, 2), torch.tensor([[4.0, 2.0, 12.0, 8.0]]))
    detection = Detection(torch.tensor([[4.0, 2.0, 12.0, 8.0]]), torch.ones(1), torch.tensor([0]), scores)
    found = Detections(detection, (20, 30), CLASSES, [0.5] * 3)
    assert found.masks.shape == (1, 20, 30)
    assert found.masks[0, 3:7, 5:11].all()
    assert not found.masks[0, :2].any()
    assert set(found.to_coco(3)[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert BRIGHT.detect(marked(20, 30)).masks is None


def test_masks_are_found_in_pixels_of_the_image(tiny_mask_rcnn: Callable[[bool], MaskRCNN]):
    found = Model(tiny_mask_rcnn(True).eval(), CLASSES, Transforms(FixedSize(64, 64))).detect(photo(40, 60))
    assert found.masks.shape == (len(found), 40, 60)


def test_drawing_needs_the_image_of_the_detections():
    found = BRIGHT.detect(marked(20, 30))
    assert found.draw(marked(20, 30)).size == (720, 480)
    with pytest.raises(InputError, match="the image is 30 × 20 pixels, and these detections are of one of 20 × 30"):
        found.draw(marked(30, 20))


def test_bfloat16_and_channels_last_are_what_the_network_sees(tiny_atss: Callable[[bool], ATSS]):
    seen = []
    network = tiny_atss(True).eval()
    convolution = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    Model(network, CLASSES, precision="bfloat16", channels_last=True).detect(photo(64, 96))
    ((images, maps),) = seen
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert maps.dtype == torch.bfloat16


def test_a_network_that_returns_something_else_is_named():
    class Wrong(nn.Module):
        def __init__(self, heads: object) -> None:
            super().__init__()
            self.heads = heads

        def forward(self, batch: Batch) -> object:
            return self.heads

    batch = Batch(Images(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), ()), (), ())
    with pytest.raises(InputError, match=r"Wrong\.forward must return a list of Candidates"):
        Model(Wrong(None), CLASSES).forward(batch)
    other = Candidates("dense", torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), 2)
    with pytest.raises(InputError, match="head 'dense' of Wrong has 2 classes, and the data have 3"):
        Model(Wrong([other]), CLASSES).forward(batch)


def test_missing_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot read checkpoint .*nothing\.pt"):
        rankdet.load(tmp_path / "nothing.pt")
