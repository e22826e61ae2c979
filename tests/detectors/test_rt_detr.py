"""RT-DETR on tiny images: which query is whose, what noised queries may see, what is detected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert

from rankdet.detectors import RTDETR, QueryDetectionSettings
from rankdet.structures import Target

from .batches import make_batch
from .waits import Waits

Build = Callable[[bool], RTDETR]
NUM_CLASSES = 3
QUERIES = 30
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
TWO = Target(torch.tensor([[4.0, 4.0, 24.0, 22.0], [20.0, 10.0, 60.0, 50.0]]), torch.tensor([2, 0]))
ONE = Target(torch.tensor([[2.0, 8.0, 30.0, 30.0]]), torch.tensor([1]))


@pytest.fixture
def detector(tiny_rt_detr: Build) -> RTDETR:
    return tiny_rt_detr(True)


SIZES = [(64, 64), (40, 60), (32, 50)]
BATCH = make_batch([TWO, EMPTY, ONE], SIZES)


def test_heads_are_the_encoder_noised_queries_and_the_layers_of_which_the_last_detects(detector: RTDETR) -> None:
    heads = detector(BATCH)
    names = ["encoder", "denoising1", "denoising2", "decoder1", "decoder2"]
    assert [candidates.head for candidates in heads] == names
    for candidates in heads:
        # Ten positives and ten negatives for each of at most two objects.
        per_image = 20 if candidates.head.startswith("denoising") else QUERIES
        assert candidates.per_image == (per_image,) * 3
        assert candidates.logits.shape == (3 * per_image, NUM_CLASSES)
    with torch.no_grad():
        torch.testing.assert_close(detector._outputs(BATCH.images).layers[-1].logits.flatten(0, 1), heads[-1].logits)
    detector.denoising = None
    assert [candidates.head for candidates in detector(BATCH)] == ["encoder", "decoder1", "decoder2"]


def test_each_object_has_one_query_of_its_own_image_whose_box_is_beside_it(detector: RTDETR) -> None:
    heads = {candidates.head: candidates for candidates in detector(BATCH)}
    with torch.no_grad():
        outputs = detector._outputs(BATCH.images)
    for name, predicted in zip(("encoder", "decoder1", "decoder2"), [outputs.selected, *outputs.layers], strict=True):
        candidates = heads[name]
        assert torch.equal(candidates.rows // QUERIES, torch.tensor([0, 0, 2]))
        found = candidates.labels != NUM_CLASSES
        assert torch.equal(candidates.rows, found.nonzero().squeeze(1))
        objects = {tuple(box): (label, image) for image, target in enumerate((TWO, EMPTY, ONE))
                   for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True)}  # fmt: skip
        seen = [objects[tuple(box)] for box in candidates.boxes.target.tolist()]
        assert sorted(seen) == [(0, 0), (1, 2), (2, 0)]
        assert candidates.labels[candidates.rows].tolist() == [label for label, _ in seen]
        for place, row in enumerate(candidates.rows.tolist()):
            image, query = divmod(row, QUERIES)
            height, width = SIZES[image]
            scale = torch.tensor([width, height, width, height])
            box = predicted.boxes[image, query]
            torch.testing.assert_close(candidates.deltas.predicted[place], box)
            torch.testing.assert_close(candidates.boxes.predicted[place], box_convert(box, "cxcywh", "xyxy") * scale)
            target = box_convert(candidates.boxes.target[place] / scale, "xyxy", "cxcywh")
            torch.testing.assert_close(candidates.deltas.target[place], target)


def test_each_head_is_matched_anew_at_the_least_cost(detector: RTDETR) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    assigner = detector.assigner

    def recorded(logits: Tensor, boxes: Tensor, objects: object) -> object:
        seen.append((logits, boxes))
        return assigner(logits, boxes, objects)

    detector.assigner = recorded
    heads = [candidates for candidates in detector(BATCH) if not candidates.head.startswith("denoising")]
    ((logits, boxes),) = seen  # all at once
    assert boxes.shape == (3, 3, QUERIES, 4)
    for candidates, own in zip(heads, logits, strict=True):
        assert torch.equal(candidates.logits, own.flatten(0, 1))


def test_noised_queries_are_unseen_by_all_others(detector: RTDETR) -> None:
    with_noise = {candidates.head: candidates for candidates in detector(BATCH)}
    detector.denoising = None
    for candidates in detector(BATCH):
        torch.testing.assert_close(candidates.logits, with_noise[candidates.head].logits)
        torch.testing.assert_close(candidates.boxes.predicted, with_noise[candidates.head].boxes.predicted)


def test_groups_of_noised_queries_do_not_see_each_other(detector: RTDETR) -> None:
    denoising = detector.denoising
    noised = denoising(_objects(detector))
    assert noised.groups.tolist() == [group for group in range(5) for _ in range(4)]
    before = detector._outputs(BATCH.images, noised).noised[-1].logits
    others = noised.groups != 2
    moved = noised._replace(queries=noised.queries + (~others)[:, None] * torch.randn(16))
    after = detector._outputs(BATCH.images, moved).noised[-1].logits
    torch.testing.assert_close(after[:, others], before[:, others])
    assert not torch.isclose(after[:, ~others], before[:, ~others]).all()


def _objects(detector: RTDETR) -> object:
    from rankdet.label_assignment import pad_objects

    return pad_objects(BATCH.targets, BATCH.images.sizes, detector.num_classes)


def test_noised_queries_of_smaller_images_are_ignored_and_all_of_empty_ones(detector: RTDETR) -> None:
    candidates = {each.head: each for each in detector(BATCH)}["denoising2"]
    first, empty, last = candidates.labels.view(3, 5, 2, 2)  # images, groups, positive or negative, objects
    assert (first == torch.tensor([[2, 0], [NUM_CLASSES, NUM_CLASSES]])).all()
    assert (empty == -1).all()
    assert (last == torch.tensor([[1, -1], [NUM_CLASSES, -1]])).all()
    boxes = candidates.boxes.target
    assert torch.equal(boxes, torch.cat([TWO.boxes.repeat(5, 1), ONE.boxes.repeat(5, 1)]))


def test_a_batch_without_objects_has_no_noised_queries_and_the_same_heads(detector: RTDETR) -> None:
    heads = detector(make_batch([EMPTY, EMPTY], [(64, 64), (33, 64)]))
    assert [candidates.head for candidates in heads] == ["encoder", "denoising1", "denoising2", "decoder1", "decoder2"]
    for candidates in heads:
        assert candidates.boxes.predicted.shape == (0, 4)
        assert not candidates.is_positive.any()
        assert len(candidates.labels) == (0 if candidates.head.startswith("denoising") else 2 * QUERIES)


def test_the_same_seed_draws_the_same_noise(detector: RTDETR) -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return {candidates.head: candidates for candidates in detector(BATCH)}["denoising2"].logits

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_the_mode_of_the_network_changes_nothing(detector: RTDETR) -> None:
    results = []
    for mode in (True, False):
        torch.manual_seed(0)
        detector.train(mode)
        heads = detector(BATCH)
        results.append([*(candidates.logits for candidates in heads), detector.detect(BATCH.images)[0].scores])
    for training, evaluation in zip(*results, strict=True):
        torch.testing.assert_close(training, evaluation)


def test_of_fewer_cells_than_queries_each_is_one(detector: RTDETR) -> None:
    detector.decoder.num_queries = 1000
    heads = detector(make_batch([EMPTY, ONE], [(32, 32), (31, 9)]))
    assert heads[0].per_image == (64 + 16 + 4,) * 2
    assert all(candidates.logits.isfinite().all() for candidates in heads)


def test_cells_of_the_padding_become_queries_last(detector: RTDETR) -> None:
    batch = make_batch([EMPTY, EMPTY], [(64, 96), (32, 32)])
    with torch.no_grad():
        selected = detector._outputs(batch.images).selected
        detector.decoder.selector.regressor[-1].weight.zero_()  # boxes are their anchors
        anchors = detector._outputs(batch.images).selected
    assert torch.equal(selected.logits, anchors.logits)
    assert (anchors.boxes > 0.01).all()
    assert (anchors.boxes < 0.99).all()
    # Of the small image in its own parts: a cell of stride 4 is an eighth, and centers lie in the middle.
    centers = anchors.boxes[1, :, :2] * 8
    finest = anchors.boxes[1, :, 2] < 0.06
    assert finest.any()
    torch.testing.assert_close(centers[finest] % 1, torch.full_like(centers[finest], 0.5), atol=1e-4, rtol=0)


def test_boxes_of_a_layer_send_no_gradient_to_those_before_it(detector: RTDETR) -> None:
    heads = detector(BATCH)
    heads[-1].boxes.predicted.sum().backward()
    own, before = detector.decoder.predictors[1].regressor, detector.decoder.predictors[0].regressor
    assert all(parameter.grad.any() for parameter in own.parameters())
    assert all(parameter.grad is None for parameter in before.parameters())
    assert all(parameter.grad is None for parameter in detector.decoder.selector.parameters())


def test_nothing_but_the_costs_of_matching_waits_for_the_device(detector: RTDETR) -> None:
    with Waits() as waits:
        detector(BATCH)
    assert waits.count == 0


@pytest.mark.parametrize("threshold", [0.0, 0.02])
def test_detections_are_the_best_pairs_of_query_and_class(detector: RTDETR, threshold: float) -> None:
    torch.nn.init.normal_(detector.decoder.predictors[-1].classifier.weight)
    detector.detection = QueryDetectionSettings(score_threshold=threshold, per_image=40)
    with torch.no_grad():
        logits, boxes = detector._outputs(BATCH.images).layers[-1]
    for image, found in enumerate(detector.detect(BATCH.images)):
        scores = logits[image].sigmoid()
        pairs = sorted(
            ((float(scores[query, label]), query, label) for query in range(QUERIES) for label in range(NUM_CLASSES)),
            reverse=True,
        )[:40]
        pairs = [pair for pair in pairs if pair[0] > threshold]
        assert len(found.scores) == len(pairs) > 5
        assert (len(pairs) < 40) == (threshold > 0)
        torch.testing.assert_close(found.scores, torch.tensor([score for score, _, _ in pairs]))
        assert found.labels.tolist() == [label for _, _, label in pairs]
        height, width = SIZES[image]
        scale = torch.tensor([width, height, width, height])
        expected = box_convert(boxes[image, [query for _, query, _ in pairs]], "cxcywh", "xyxy") * scale
        torch.testing.assert_close(found.boxes, torch.minimum(expected.clamp(min=0), scale))


def test_detector_runs_in_bfloat16(detector: RTDETR) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        heads = detector(BATCH)
        found = detector.detect(BATCH.images)[0]
    assert all(candidates.boxes.predicted.dtype == torch.float32 for candidates in heads)
    assert found.boxes.dtype == found.scores.dtype == torch.float32
