"""Image files of all kinds."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from rankdet.data import read_image
from rankdet.data.images import Header, header, measured_bits
from rankdet.data.pixels import to_pixels
from rankdet.structures import InputError

RGB = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def without_entries(content: bytes, place: int) -> bytes:
    """A little-endian TIFF file of one image, where ``place`` is behind its entries, with another without entries."""
    assert content[:4] == b"II*\x00"
    assert content[place : place + 4] == bytes(4)
    return content[:place] + struct.pack("<I", len(content)) + content[place + 4 :] + bytes(6)


def test_an_image_is_read_whatever_is_broken_about_those_behind_it(save_image):
    path = save_image("a.tif", RGB)
    content = path.read_bytes()
    start = struct.unpack("<I", content[4:8])[0]
    entries = struct.unpack("<H", content[start : start + 2])[0]
    path.write_bytes(without_entries(content, start + 2 + 12 * entries))
    with Image.open(path) as image, pytest.raises(TypeError):
        image.n_frames  # noqa: B018
    assert header(path) == Header((20, 30))
    assert torch.equal(read_image(path, (20, 30)), as_tensor(RGB))


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


def png_of(values, color_type):
    """A PNG of 16 bits, (height, width, channels), which Pillow does not write in colors."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    size = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(("channels", "color_type"), [(1, 0), (3, 2), (4, 6)])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_an_image_of_16_bits_that_uses_fewer_keeps_the_upper_eight_of_these(tmp_path, channels, color_type, bits):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (20, 30, channels), dtype=np.uint16)
    values[0, 0] = (1 << bits) - 1
    path = tmp_path / "a.png"
    path.write_bytes(png_of(values, color_type))
    expected = np.broadcast_to((values[..., :3] >> (bits - 8)).astype(np.uint8), (20, 30, 3)).copy()
    assert torch.equal(read_image(path, (20, 30), bits), as_tensor(expected))
    assert torch.equal(to_pixels(path, bits=bits), as_tensor(expected))
    assert measured_bits([path]) == (bits, (1 << bits) - 1)
    assert header(path).depth == 16


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "RGB", "P"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_tiffs_without_compression_are_turned_like_others(save_image, mode, orientation):
    image = Image.fromarray(RGB).convert(mode)
    names = [save_image(f"{kind}.tiff", image, compression=kind, exif=with_orientation(orientation))
             for kind in ("raw", "tiff_lzw")]  # fmt: skip
    for upright in (True, False):
        plain, packed = (to_pixels(name, upright=upright) for name in names)
        assert torch.equal(plain, packed)
    assert header(names[0]).upright == tuple(to_pixels(names[0]).shape[1:])


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_gray_tiffs_of_16_bits_are_scaled_by_the_bits_that_they_use(save_image, compression):
    values = np.random.default_rng(0).integers(0, 1 << 12, (20, 30), dtype=np.uint16)
    path = save_image("a.tiff", values, compression=compression, exif=with_orientation(6))
    upright = np.rot90((values >> 4).astype(np.uint8), -1).copy()
    assert torch.equal(read_image(path, (30, 20), bits=12), torch.from_numpy(upright).expand(3, -1, -1))
    assert measured_bits([path])[0] == 12


def test_values_beyond_the_bits_are_white_and_few_images_are_measured(save_image, tmp_path):
    dark, bright = (save_image(f"{value}.png", np.full((4, 4), value, dtype=np.uint16)) for value in (900, 5000))
    assert read_image(bright, (4, 4), bits=12).unique().tolist() == [255]
    assert measured_bits([dark, tmp_path / "missing.png", bright]) == (14, 5000)
    assert measured_bits([*[dark] * 999, bright]) == (10, 900)  # which is not among those looked at
    assert measured_bits([save_image("a.png", RGB), save_image("b.jpg", RGB)]) is None
    assert measured_bits([]) is None


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_without_colors_are_refused_by_their_headers_and_as_pil_images(save_image, mode):
    image = Image.new(mode, (30, 20), 7)
    path = save_image("a.tiff", image)
    for attempt in (lambda: header(path), lambda: read_image(path, (20, 30)), lambda: to_pixels(image)):
        with pytest.raises(InputError, match="32 bits per channel, or signed ones"):
            attempt()


def test_headers_tell_of_frames_transparency_and_kinds_of_pixels(save_image):
    frames = [Image.new("L", (30, 20), value) for value in (0, 100, 200)]
    for name in ("a.tiff", "a.gif", "a.png", "a.webp"):
        assert header(save_image(name, frames[0], save_all=True, append_images=frames[1:])).frames == 3
    assert header(save_image("one.tiff", frames[0])).frames == 1
    palette = Image.fromarray(RGB).quantize(16)
    assert header(save_image("p.png", palette, transparency=0)).is_transparent
    assert not header(save_image("q.png", palette)).is_transparent
    for mode, name in (("RGBA", "b.png"), ("LA", "c.png"), ("L", "d.png"), ("CMYK", "e.jpg"), ("1", "f.png")):
        found = header(save_image(name, Image.fromarray(RGB).convert(mode)))
        assert (found.mode, found.is_transparent) == (mode, mode.endswith("A"))


def test_images_larger_than_pillow_takes_are_read_up_to_a_limit_that_the_message_names(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    row = b"\0" * (1 + 25_000 // 8)
    for height in (15_000, 50_000):  # 375 million pixels of one bit, more than Pillow takes, and 1,250 million
        packed = zlib.compressobj(1)
        data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
        size = struct.pack(">IIBBBBB", 25_000, height, 1, 0, 0, 0, 0)
        chunks = [(b"IHDR", size), (b"IDAT", data), (b"IEND", b"")]
        content = b"".join(
            struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
            for kind, part in chunks
        )
        (tmp_path / f"{height}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert header(tmp_path / "15000.png").stored == (15_000, 25_000)
    with pytest.raises(
        InputError, match=r"25000 × 50000 pixels, and more than 1073741824 are not read: cut it into tiles"
    ):
        header(tmp_path / "50000.png")
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    ("at_least", "decoded"),
    [((80, 120), (80, 120)), ((80, 60), (80, 120)), ((20, 30), (20, 30)), ((1, 1), (20, 30)), ((81, 30), (160, 240))],
)
def test_a_jpeg_is_decoded_to_a_half_a_quarter_or_an_eighth_that_is_large_enough(
    save_image, orientation, at_least, decoded
):
    upright = np.tile(np.linspace(0, 255, 240), (160, 1)).astype(np.uint8)
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright)}[orientation]
    path = save_image("a.jpg", stored.copy(), exif=with_orientation(orientation), quality=95)
    whole, image = read_image(path, (160, 240)), read_image(path, (160, 240), at_least=at_least)
    assert tuple(image.shape[1:]) == decoded
    shown = torch.nn.functional.interpolate(whole[None].float(), size=decoded, mode="area")[0]
    assert (image.float() - shown).abs().mean() < 1


@pytest.mark.parametrize(("size", "decoded"), [((40, 60), (10, 15)), ((40, 62), (20, 31)), ((41, 80), (41, 80))])
def test_a_jpeg_is_decoded_to_whole_pixels(save_image, size, decoded):
    path = save_image("a.jpg", np.zeros((*size, 3), dtype=np.uint8))
    assert tuple(read_image(path, size, at_least=(1, 1)).shape[1:]) == decoded


def test_only_a_jpeg_is_decoded_to_less(save_image):
    assert torch.equal(read_image(save_image("a.png", RGB), (20, 30), at_least=(1, 1)), as_tensor(RGB))


def test_an_image_of_another_size_is_an_error_though_it_is_decoded_to_less(save_image):
    path = save_image("a.jpg", np.zeros((80, 120, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="120 × 80 pixels, its annotations say 60 × 40"):
        read_image(path, (40, 60), at_least=(10, 15))
