"""Image files of all kinds."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from rankdet.data import read_image
from rankdet.structures import InputError

RGB = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff"])
def test_rgb_is_read_exactly(save_image, name):
    assert torch.equal(read_image(save_image(name, RGB), (20, 30)), as_tensor(RGB))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_gray_has_three_equal_channels(save_image, name):
    image = read_image(save_image(name, RGB[..., 0]), (20, 30))
    assert image.shape == (3, 20, 30)
    assert torch.equal(image[0], image[2])


def test_sixteen_bits_keep_the_upper_eight(save_image):
    gray = RGB[..., 0].astype(np.uint16) * 256 + 255
    image = read_image(save_image("a.png", gray), (20, 30))
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(RGB[..., 0]).expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L"])
def test_every_kind_of_png_becomes_three_channels(save_image, mode):
    image = read_image(save_image("a.png", Image.fromarray(RGB).convert(mode)), (20, 30))
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.uint8


def test_palette_with_transparency_is_read_without_a_warning(save_image):
    path = save_image("a.png", Image.fromarray(RGB).quantize(16), transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path, (20, 30)).shape == (3, 20, 30)


def test_cmyk_jpeg_has_the_colors_of_its_rgb_twin(save_image):
    smooth = np.zeros((20, 30, 3), dtype=np.uint8) + np.array([200, 120, 40], dtype=np.uint8)
    image = read_image(save_image("a.jpg", Image.fromarray(smooth).convert("CMYK")), (20, 30))
    assert (image.float().mean((1, 2)) - torch.tensor([200.0, 120.0, 40.0])).abs().max() < 3


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_exif_orientation_is_followed_only_where_it_makes_the_image_fit(save_image):
    path = save_image("a.png", RGB, exif=with_orientation(6))  # turn by 90 degrees clockwise
    assert torch.equal(read_image(path, (20, 30)), as_tensor(RGB))
    assert torch.equal(read_image(path, (30, 20)), as_tensor(np.rot90(RGB, -1).copy()))


def test_turned_size_without_orientation_is_an_error(save_image):
    path = save_image("a.png", RGB)
    with pytest.raises(InputError, match=r"a\.png: the image is 30 × 20 pixels, its annotations say 20 × 30"):
        read_image(path, (30, 20))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("part", [0.7, 0.05, 0.0])
def test_truncated_file_is_named(save_image, name, part):
    path = save_image(name, RGB)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=rf"a\.{name[2:]}: the image cannot be decoded: "):
        read_image(path, (20, 30))


def test_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(InputError, match=r"a\.jpg: the image cannot be decoded: cannot identify image file$"):
        read_image(tmp_path / "a.jpg", (1, 1))


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"a\.jpg: the image is missing"):
        read_image(tmp_path / "a.jpg", (1, 1))
    with pytest.raises(InputError, match="cannot be decoded"):
        read_image(tmp_path, (1, 1))


def test_float_image_is_refused(save_image):
    path = save_image("a.tiff", RGB[..., 0].astype(np.float32))
    with pytest.raises(InputError, match="32 bits"):
        read_image(path, (20, 30))
