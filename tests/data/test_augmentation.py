"""Augmentation as in SSD: colors, canvas, crop; boxes, masks and outlines follow the pixels."""

import colorsys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, masks_to_boxes

from rankdet.data import (
    Expansion,
    FixedSize,
    MinIoUCrop,
    PhotometricDistortion,
    Placement,
    SampleKey,
    Transforms,
    Window,
)
from rankdet.data.masks import outline, rasterize
from rankdet.heads import crop_outlines
from rankdet.recipes import load_recipe
from rankdet.structures import InputError

SIZE = (40, 60)
BOXES = torch.tensor([[5.0, 5, 25, 20], [30, 10, 58, 38], [0, 30, 10, 40]])
BLACK = (0.0, 0.0, 0.0)
SSD = Transforms(FixedSize(70, 50), 0.5, 0.5, None, Expansion((7.0, 8.0, 9.0), 0.7), MinIoUCrop())


@settings(deadline=None)
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 20), st.integers(1, 20))
def test_a_window_shows_each_pixel_in_its_place_and_the_fill_elsewhere(left, top, width, height):
    values = torch.arange(5 * 7).view(1, 5, 7)
    shown = Window(left, top, left + width, top + height).cut(values, torch.tensor(-1))
    assert shown.shape == (1, height, width)
    for row in range(height):
        for column in range(width):
            y, x = row + top, column + left
            inside = 0 <= y < 5 and 0 <= x < 7
            assert shown[0, row, column] == (values[0, y, x] if inside else -1)


def test_a_canvas_holds_the_image_and_comes_as_often_as_asked():
    torch.manual_seed(0)
    drawn = [Expansion(BLACK, 0.3, (1.0, 4.0)).draw(SIZE) for _ in range(2000)]
    larger = [window for window in drawn if window != (0, 0, 60, 40)]
    assert len(larger) / len(drawn) == pytest.approx(0.3, abs=0.03)
    ratios = torch.tensor([window.size for window in larger]) / torch.tensor(SIZE)
    assert (ratios[:, 0] - ratios[:, 1]).abs().max() < 1 / 40 + 1 / 60
    assert ratios.min() < 1.1
    assert ratios.max() > 3.9
    assert ratios.mean() == pytest.approx(2.5, abs=0.1)
    assert all(left <= 0 and top <= 0 and right >= 60 and bottom >= 40 for left, top, right, bottom in larger)
    assert len({left / (60 - window.size[1]) > 0.5 for window in larger for left in [window.left] if left}) == 2


@pytest.mark.parametrize("iou", [0.0, 0.1, 0.3, 0.5, 0.7])
def test_a_part_has_its_sides_and_overlaps_every_object(iou):
    torch.manual_seed(0)
    crop, canvas = MinIoUCrop((iou,)), Window(-10, -5, 80, 45)
    boxes = torch.tensor([[0.0, 0, 60, 40], [5, 2, 55, 40]])
    drawn = [crop.draw(canvas, boxes) for _ in range(300)]
    parts = [window for window in drawn if window != canvas]
    assert 0.3 < len(parts) / len(drawn) < 0.7  # the other choice is to keep all
    for part in parts:
        height, width = part.size
        assert width >= 0.3 * 90 - 1
        assert height >= 0.3 * 50 - 1
        assert 0.5 - 0.05 < height / width < 2.05
        assert canvas.left <= part.left < part.right <= canvas.right
        assert canvas.top <= part.top < part.bottom <= canvas.bottom
        assert (box_iou(torch.tensor([part]).float(), boxes) >= iou).all()
        assert part.left < 30 < part.right  # the center of one of the two objects
        assert part.top < 21
        assert part.bottom > 20


def test_all_ways_to_crop_are_drawn_alike_where_all_can_be_met():
    torch.manual_seed(0)
    window = Window(0, 0, 100, 100)
    drawn = [MinIoUCrop().draw(window, torch.zeros(0, 4)) for _ in range(1400)]
    assert sum(part == window for part in drawn) / 1400 == pytest.approx(1 / 7, abs=0.03)


def test_where_no_part_can_be_met_all_is_kept():
    torch.manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 5, 5], [55, 35, 60, 40]])
    assert MinIoUCrop((0.9,)).draw(Window(0, 0, 60, 40), boxes) == (0, 0, 60, 40)
    assert MinIoUCrop((0.0,), aspects=(50.0, 60.0)).draw(Window(0, 0, 60, 40), boxes) == (0, 0, 60, 40)


def test_an_object_remains_where_its_center_is_shown():
    placement = Placement(SIZE, (20, 20), window=Window(10, 10, 30, 30))
    assert placement.shows(BOXES).tolist() == [True, False, False]
    assert placement.boxes(BOXES)[0].tolist() == [0, 0, 15, 10]
    assert Placement(SIZE, SIZE).shows(torch.zeros(0, 4)).shape == (0,)


@settings(max_examples=40, deadline=None)
@given(st.integers(-9, 20), st.integers(-9, 20), st.integers(5, 60), st.integers(5, 60), st.booleans(), st.booleans())
def test_boxes_masks_and_outlines_stay_on_their_pixels(left, top, width, height, horizontal, vertical):
    window = Window(left, top, left + width, top + height)
    placement = Placement(SIZE, window.size, horizontal, vertical, window, (0.0, 0.0, 0.0))
    image, masks = torch.zeros(3, *SIZE, dtype=torch.uint8), torch.zeros(3, *SIZE, dtype=torch.bool)
    for number, (x1, y1, x2, y2) in enumerate(BOXES.int().tolist()):
        image[number, y1:y2, x1:x2] = 255
        masks[number, y1:y2, x1:x2] = True
    placed, pixels, polygons = placement.masks(masks), placement.image(image) > 0, squares(BOXES)
    assert torch.equal(placed, pixels)
    outlines = outline(polygons, placement)
    whole = torch.tensor([0.0, 0, width, height])
    for number, box in enumerate(placement.boxes(BOXES)):
        assert torch.equal(rasterize(polygons[number], placement), pixels[number])
        if pixels[number].any():
            assert torch.equal(masks_to_boxes(pixels[number : number + 1])[0] + torch.tensor([0, 0, 1, 1]), box)
        if width == height:
            row = torch.tensor([number])
            assert torch.equal(crop_outlines(outlines, whole[None], row, width)[0], pixels[number])


def squares(boxes):
    return [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]


def test_boxes_beyond_the_image_do_not_reach_onto_the_canvas():
    placement = Placement(SIZE, (80, 120), window=Window(-30, -20, 90, 60))
    assert placement.boxes(torch.tensor([[-5.0, 10, 20, 50]])).tolist() == [[30, 30, 50, 60]]


def test_the_canvas_has_its_color():
    image = torch.full((3, *SIZE), 200, dtype=torch.uint8)
    placed = Placement(SIZE, (80, 120), window=Window(-30, -20, 90, 60), fill=(1.4, 2.6, 3.0)).image(image)
    assert placed[:, 0, 0].tolist() == [1, 3, 3]
    assert (placed[:, 20:60, 30:90] == 200).all()
    assert placed.float().mean(dim=(1, 2)).tolist() == pytest.approx([50.75, 52.25, 52.25])


def test_objects_of_a_sample_follow_its_pixels(folder):
    runs = folder.add(13, 7, [20, 10, 24, 30], segmentation=None)
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[10:40, 20:44] = True
    flat = mask.T.flatten().int()
    edges = (flat.diff() != 0).nonzero().squeeze(1) + 1
    runs["segmentation"] = {
        "size": [48, 64],
        "counts": torch.cat([torch.tensor([0]), edges, torch.tensor([3072])]).diff().tolist(),
    }
    dataset = folder.dataset(SSD, with_masks=True)
    counts = set()
    for seed in range(40):
        for index in (0, 3):
            sample = dataset[SampleKey(index, seed)]
            target = sample.target
            assert sample.image.shape == (3, 70, 50)
            assert target.masks.shape == (len(target.boxes), 70, 50)
            counts.add((index, len(target.boxes)))
            seen = masks_to_boxes(target.masks) + torch.tensor([0, 0, 1, 1])
            assert (seen - target.boxes).abs().max() <= 1.5
    assert counts == {(0, 1), (0, 2), (3, 1)}


def test_a_sample_depends_on_its_key_alone_and_flips_on_nothing_else(folder):
    transforms = Transforms(FixedSize(70, 50), 0.5, 0.5, PhotometricDistortion(), Expansion(BLACK), MinIoUCrop())
    dataset, plain = (
        folder.dataset(transforms, with_masks=True),
        folder.dataset(Transforms(FixedSize(70, 50), 0.5, 0.5)),
    )
    first = [dataset[SampleKey(0, seed)] for seed in range(20)]
    torch.manual_seed(1234)
    for seed, one in enumerate(first):
        two = dataset[SampleKey(0, seed)]
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.target.boxes, two.target.boxes)
        assert torch.equal(one.target.masks, two.target.masks)
    assert len({sample.image.sum().item() for sample in first}) == 20
    for seed in range(20):
        flips = []
        for each in (dataset, plain):
            torch.manual_seed(seed)
            placement = each.transforms.place(SIZE)
            flips.append((placement.horizontal_flip, placement.vertical_flip))
        assert flips[0] == flips[1]


def distorted(pixel, changes):
    """One pixel in other colors, step by step."""
    red, green, blue = (value + changes["brightness"] for value in pixel)
    if changes["is first"]:
        red, green, blue = (value * changes["contrast"] for value in (red, green, blue))
    red, green, blue = (min(max(value, 0), 255) / 255 for value in (red, green, blue))
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    saturated = (max(channel, 0) for channel in colorsys.hsv_to_rgb(hue, saturation * changes["saturation"], value))
    hue, saturation, value = colorsys.rgb_to_hsv(*saturated)
    channels = colorsys.hsv_to_rgb((hue + changes["hue"] / 360) % 1, saturation, value)
    if not changes["is first"]:
        channels = [channel * changes["contrast"] for channel in channels]
    return [min(max(round(255 * channels[number]), 0), 255) for number in changes["order"]]


@pytest.mark.parametrize("seed", range(12))
def test_colors_change_as_one_pixel_at_a_time_does(seed):
    distortion = PhotometricDistortion(brightness=60.0, hue=90.0)
    pixels = torch.randint(0, 256, (3, 4, 5), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    torch.manual_seed(seed)
    found = distortion(pixels)
    torch.manual_seed(seed)
    is_done, is_first = (torch.rand(5) < 0.5).tolist(), bool(torch.rand(()) < 0.5)
    brightness, contrast, saturation, hue = torch.rand(4, dtype=torch.float64).tolist()
    order = torch.randperm(3).tolist()
    changes = {
        "brightness": 60 * (2 * brightness - 1) * is_done[0],
        "contrast": 0.5 + contrast if is_done[1] else 1,
        "is first": is_first,
        "saturation": 0.5 + saturation if is_done[2] else 1,
        "hue": 90 * (2 * hue - 1) * is_done[3],
        "order": order if is_done[4] else [0, 1, 2],
    }
    expected = torch.tensor([[distorted(pixel.tolist(), changes) for pixel in row] for row in pixels.permute(1, 2, 0)])
    assert (found.int() - expected.permute(2, 0, 1)).abs().max() <= 1
    assert found.dtype == torch.uint8


def test_half_of_the_images_get_each_change_of_colors():
    pixels = torch.tensor([120, 60, 30], dtype=torch.uint8)[:, None, None]
    torch.manual_seed(0)
    only_brightness = PhotometricDistortion(contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
    drawn = torch.stack([only_brightness(pixels).flatten() for _ in range(1000)])
    assert drawn.amax() <= 152
    swapped = drawn[:, 0] < drawn.amax(dim=1)
    assert swapped.float().mean() == pytest.approx(1 / 3, abs=0.05)  # a third of the orders have red first anyway
    assert (drawn.amax(dim=1) == 120).float().mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: Expansion(BLACK, 1.5), "probability must be at most 1, got 1.5"),
        (lambda: Expansion(BLACK, 0.5, (0.5, 2.0)), "ratios must be at least 1, got 0.5"),
        (lambda: Expansion(BLACK, 0.5, (3.0, 2.0)), "ratios must be two limits, the lower one first"),
        (lambda: Expansion((0.0, 0.0, 256.0)), "fill must be at most 255, got 256.0"),
        (lambda: MinIoUCrop((1.0,)), "ious must be less than 1, got 1.0"),
        (lambda: MinIoUCrop(shortest=0.0), "shortest must be greater than 0"),
        (lambda: MinIoUCrop(aspects=(2.0, 0.5)), "aspects must be two limits, the lower one first"),
        (lambda: MinIoUCrop(trials=0), "trials must be at least 1, got 0"),
        (lambda: PhotometricDistortion(brightness=-1.0), "brightness must be at least 0"),
        (lambda: PhotometricDistortion(contrast=(1.5, 0.5)), "contrast must be two limits"),
        (lambda: PhotometricDistortion(hue=200.0), "hue must be at most 180"),
    ],
)
def test_impossible_numbers_are_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        broken()


def test_small_objects_are_left_out_and_images_with_nothing_else_too(folder):
    folder.add(10, 7, [3, 3, 4, 30])
    assert folder.dataset(min_object=4.0).num_objects == 2
    assert folder.dataset(min_object=4.0, keep_empty=False).image_ids.tolist() == [10]
    assert folder.dataset(min_object=2.9, keep_empty=False).image_ids.tolist() == [10, 11]


def test_augmentation_of_a_recipe_is_done_in_training_alone():
    overrides = [
        "data.distortion={hue: 9}",
        "data.expansion={ratios: [1, 3], fill: [1, 2, 3]}",
        "data.crop={ious: [0.5], trials: 7}",
        "data.resize={type: fixed, height: 70, width: 50}",
    ]
    data = load_recipe("rs_mask_rcnn_shapes", overrides).data
    found = data.build_transforms(training=True)
    assert found.distortion == PhotometricDistortion(hue=9.0)
    assert found.expansion == Expansion((1.0, 2.0, 3.0), 0.5, (1.0, 3.0))
    assert found.crop == MinIoUCrop((0.5,), trials=7)
    assert data.build_transforms(training=False) == Transforms(FixedSize(70, 50))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.expansion={ratios: [3, 2], fill: [0, 0, 0]}", "data.expansion.ratios: .*two limits"),
        ("data.expansion={ratios: [0.5, 2], fill: [0, 0, 0]}", "data.expansion.ratios.0: must be at least 1"),
        ("data.expansion={fill: [0, 0, 256]}", "data.expansion.fill.2: must be at most 255"),
        ("data.crop={ious: [1]}", "data.crop.ious.0: .*less than 1"),
        ("data.distortion={contrast: [-1, 1]}", "data.distortion.contrast.0: must be at least 0"),
        ("data.min_object=-1", "data.min_object: "),
    ],
)
def test_impossible_numbers_are_mistakes_of_the_recipe(override, message):
    with pytest.raises(InputError, match=message):
        load_recipe("rs_mask_rcnn_shapes", [override])
