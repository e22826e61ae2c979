"""Images keep their pixels where nothing is drawn, and show boxes where they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from rankdet.report import class_color, draw_detections, draw_grid, write_image
from rankdet.structures import Detection, MaskScores, Target

NAMES = ["circle", "square", "$tar"]
GRAY = 120


def gray(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), GRAY, dtype=torch.uint8)


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detection:
    return Detection(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def color_of(label: int) -> torch.Tensor:
    return (torch.tensor(class_color(label)) * 255).round()


def is_near(image: torch.Tensor, color: torch.Tensor, tolerance: float = 40) -> torch.Tensor:
    return ((image.float() - color[:, None, None]).abs() < tolerance).all(dim=0)


def test_large_image_keeps_its_size_and_its_pixels_away_from_the_boxes():
    pixels = torch.randint(0, 256, (3, 500, 700), dtype=torch.uint8)
    drawn = draw_detections(pixels, found([[100, 200, 300, 400]], [0.9], [1]), NAMES)
    assert drawn.shape == pixels.shape
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn[:, 420:], pixels[:, 420:])
    assert torch.equal(drawn[:, 210:390, 110:290], pixels[:, 210:390, 110:290])
    assert not torch.equal(drawn, pixels)


def test_small_image_is_enlarged_to_a_legible_size():
    assert draw_detections(gray(96, 128), None, NAMES).shape == (3, 480, 640)
    assert draw_detections(gray(300, 97), None, NAMES).shape[2] == 480


@pytest.mark.parametrize("sides", [(12, 3000), (6000, 3), (1, 5000), (4000, 4)])
def test_long_image_is_enlarged_within_bounds_and_never_shrunk(sides):
    drawn = draw_detections(gray(*sides), found([[0, 0, 2, 2]], [0.9], [1]), NAMES)
    assert drawn.shape[1] >= sides[0]
    assert drawn.shape[2] >= sides[1]
    assert max(drawn.shape) == max(4096, *sides)


def test_box_is_drawn_in_the_color_of_its_class_where_it_is():
    drawn = draw_detections(gray(120, 160), found([[40, 50, 80, 100]], [0.9], [1]), NAMES)  # enlarged four times
    rows, columns = torch.nonzero(is_near(drawn, color_of(1)), as_tuple=True)
    assert 158 <= columns.min() <= 162
    assert 318 <= columns.max() <= 322
    assert 398 <= rows.max() <= 402
    assert rows.min() < 200  # the label stands above the box


def test_label_of_a_box_at_the_border_stays_inside():
    drawn = draw_detections(gray(480, 640), found([[600, 0, 640, 200]], [0.5], [1]), NAMES)
    # Above the box there is no image and to the right there is none: the label hangs below, its end at the border.
    label = is_near(drawn, color_of(1), 60)[204:214]
    assert label[:, 572:596].float().mean() > 0.3
    assert not label[:, :540].any()


def test_labels_of_boxes_at_one_place_do_not_cover_each_other():
    boxes = [[100.0, 100, 300, 300]] * 3
    drawn = draw_detections(gray(480, 640), found(boxes, [0.9, 0.3, 0.6], [0, 1, 2]), NAMES)
    for label in range(3):
        assert is_near(drawn, color_of(label)).sum() > 300, NAMES[label]


def test_best_score_lies_on_top():
    boxes = [[100.0, 100, 300, 300], [100.0, 100, 300, 300]]
    drawn = draw_detections(gray(480, 640), found(boxes, [0.9, 0.3], [0, 1]), NAMES)
    edge = is_near(drawn, color_of(0))[200, 95:106]
    assert edge.any()
    assert not is_near(drawn, color_of(1))[200, 95:106].any()


def test_true_objects_are_dashed_white_under_the_detections_and_named_without_them():
    target = Target(torch.tensor([[100.0, 100, 300, 300]]), torch.tensor([2]))
    white = torch.full((3,), 255.0)
    beside = draw_detections(gray(480, 640), found([], [], []), NAMES, target)
    line = is_near(beside, white, 60)[100:300, 99:102].any(dim=1)
    assert 0.3 < line.float().mean() < 0.8  # dashes
    alone = draw_detections(gray(480, 640), None, NAMES, target)
    assert is_near(alone, color_of(2))[110:290, 99:102].any(dim=1).all()


def test_mask_is_tinted_and_outlined_in_the_color_of_its_class_and_nothing_else_is():
    boxes = torch.tensor([[100.0, 100, 300, 300]])
    scores = torch.zeros(1, 28, 28)
    scores[:, 7:21, 7:21] = 1.0  # rows and columns 150 to 250
    without = Detection(boxes, torch.tensor([0.9]), torch.tensor([1]))
    drawn = draw_detections(gray(480, 640), replace(without, masks=MaskScores(scores, boxes)), NAMES)
    plain = draw_detections(gray(480, 640), without, NAMES)
    is_changed = (drawn != plain).any(dim=0)
    assert is_changed[151:249, 151:249].all()
    is_changed[149:251, 149:251] = False
    assert not is_changed.any()
    blend = (0.6 * GRAY + 0.4 * 255 * torch.tensor(class_color(1))).round()
    assert is_near(drawn, blend, 2)[155:245, 155:245].all()
    assert is_near(drawn, color_of(1), 2)[155:245, 150].all()
    assert is_near(drawn, color_of(1), 2)[249, 155:245].all()


def test_masks_grow_with_the_image_and_those_of_objects_are_drawn_alone():
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[:, 20:60, 30:70] = True
    target = Target(torch.tensor([[30.0, 20, 70, 60]]), torch.tensor([2]), mask)
    blend = (0.6 * GRAY + 0.4 * 255 * torch.tensor(class_color(2))).round()
    alone = draw_detections(gray(96, 128), None, NAMES, target)  # enlarged five times
    assert is_near(alone, blend, 2)[140:290, 170:340].all()
    beside = draw_detections(gray(96, 128), found([], [], []), NAMES, target)
    assert not is_near(beside, blend, 2).any()
    detection = Detection(
        target.boxes, torch.tensor([0.5]), target.labels, MaskScores(torch.ones(1, 28, 28), target.boxes)
    )
    drawn = draw_detections(gray(96, 128), detection, NAMES)
    assert is_near(drawn, blend, 2)[140:290, 170:340].all()


def test_a_crowd_has_no_labels():
    corners = torch.stack(torch.meshgrid(torch.arange(9) * 50.0, torch.arange(7) * 50.0, indexing="ij"), -1).reshape(
        -1, 2
    )
    boxes = torch.cat([corners + 10, corners + 40], dim=1)

    def drawn(number: int) -> torch.Tensor:
        detection = Detection(boxes[:number], torch.full((number,), 0.5), torch.zeros(number, dtype=torch.int64))
        return draw_detections(gray(480, 640), detection, NAMES)

    assert is_near(drawn(60), color_of(0)).sum() > 2 * is_near(drawn(63), color_of(0)).sum()


def test_a_class_has_one_color_and_the_first_thirty_differ():
    colors = np.array([class_color(label) for label in range(30)])
    assert ((colors >= 0) & (colors <= 1)).all()
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 9 * np.eye(30)
    assert distances.min() > 0.05
    assert class_color(17) == class_color(17)


def test_grid_holds_the_images_side_by_side_with_captions_above():
    first, second = gray(100, 200), gray(100, 200) // 2
    grid = draw_grid([first, second], ["standard", "RS"])
    assert grid.shape[2] > 400
    row = grid[0, -30]
    assert (row == GRAY).sum() == 200
    assert (row == GRAY // 2).sum() == 200
    assert (grid[:, :25] < 100).any()  # ink of the captions
    assert draw_grid([first, second], ["", ""]).shape[1] < grid.shape[1]


def test_grid_of_two_rows_centres_smaller_images():
    grid = draw_grid([gray(100, 100), gray(50, 40), gray(100, 100)], ["a", "b", ""], columns=2)
    assert grid.shape[2] < 250
    assert (grid == GRAY).all(dim=0).sum() >= 2 * 100 * 100 + 50 * 40


def test_written_image_reads_back(tmp_path):
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    write_image(tmp_path / "image.png", pixels)
    back = (imread(tmp_path / "image.png")[..., :3] * 255).round().astype(np.uint8)
    assert np.array_equal(back, pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("bad", [torch.zeros(3, 10, 10), torch.zeros(10, 10, 3, dtype=torch.uint8)])
def test_what_is_no_image_is_refused(bad):
    with pytest.raises(ValueError, match="an image is"):
        draw_detections(bad, None, NAMES)


def test_grid_without_images_or_captions_is_refused():
    with pytest.raises(ValueError, match="0 images and 0 captions"):
        draw_grid([], [])
    with pytest.raises(ValueError, match="1 images and 0 captions"):
        draw_grid([gray(10, 10)], [])
