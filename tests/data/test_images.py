"""Image files of all kinds."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from rankdet.data import read_image
from rankdet.data.images import Header, header
from rankdet.data.pixels import to_pixels
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


UPRIGHT = {  # by the EXIF standard: which side of the image the first stored row and the first stored column are
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp"])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("size", [(20, 30), (30, 20), (24, 24)])
def test_an_image_is_turned_upright_wherever_that_fits_its_annotated_size(save_image, name, orientation, size):
    stored = np.random.default_rng(1).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    path = save_image(name, stored, exif=with_orientation(orientation), **{"lossless": True} if "webp" in name else {})
    upright = as_tensor(UPRIGHT[orientation](stored).copy())
    found = header(path)
    assert (found.stored, found.upright, found.orientation) == (size, tuple(upright.shape[1:]), orientation)
    assert torch.equal(read_image(path, found.upright), upright)
    assert torch.equal(to_pixels(path), upright)
    assert torch.equal(to_pixels(path, upright=False), as_tensor(stored))
    if found.upright != size:  # the annotations are of the pixels as they are stored
        assert torch.equal(read_image(path, size), as_tensor(stored))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pil_images_are_turned_as_their_files_are(save_image, orientation):
    path = save_image("a.png", RGB, exif=with_orientation(orientation))
    with Image.open(path) as image:
        assert torch.equal(to_pixels(image), to_pixels(path))


@pytest.mark.parametrize("orientation", [0, 9, 42])
def test_an_orientation_that_is_none_is_left_alone(save_image, orientation):
    path = save_image("a.png", RGB, exif=with_orientation(orientation))
    assert header(path).orientation == 1
    assert torch.equal(to_pixels(path), as_tensor(RGB))


@pytest.mark.parametrize(
    "exif", [b"", b"Exif", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0"]
)
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_an_image_with_broken_exif_entries_is_read_as_it_is_stored(save_image, name, exif):
    path = save_image(name, RGB, exif=exif)
    assert header(path).orientation == 1
    assert torch.equal(to_pixels(path), read_image(path, (20, 30)))


def test_an_orientation_behind_the_pixels_of_a_png_counts(save_image):
    whole = save_image("a.png", RGB, exif=with_orientation(6)).read_bytes()
    start = whole.index(b"eXIf") - 4
    chunk = whole[start : start + 12 + int.from_bytes(whole[start : start + 4], "big")]
    rest = whole.replace(chunk, b"")
    path = save_image("b.png", RGB)
    path.write_bytes(rest[:-12] + chunk + rest[-12:])  # as ExifTool writes it
    assert header(path).upright == (30, 20)
    assert torch.equal(to_pixels(path), as_tensor(np.rot90(RGB, -1).copy()))


@pytest.mark.parametrize(
    ("orientation", "stored", "size", "doubt"),
    [
        (1, (20, 30), (20, 30), ""),
        (6, (20, 30), (30, 20), ""),
        (6, (20, 30), (20, 30), "it is not turned"),
        (8, (30, 20), (30, 20), "it is not turned"),
        (6, (20, 20), (20, 20), "it is turned upright"),
        (3, (20, 30), (20, 30), "it is turned upright"),
        (2, (30, 20), (30, 20), "it is turned upright"),
        (4, (20, 30), (30, 20), ""),  # which is no size of this image at all
    ],
)
def test_a_doubtful_orientation_is_told(orientation, stored, size, doubt):
    found = Header(stored, orientation).doubt(size)
    assert doubt in found
    assert bool(found) == bool(doubt)


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
