"""LVIS: federated rules, frequencies and the cap over all classes, against official numbers and plain definitions."""

import json
import math
from collections import defaultdict
from typing import Any

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycocotools_mask

from rankdet.metrics import OptimalLRP, evaluate

from .lrp_definition import lrp_by_definition

NAN = float("nan")
SIDE = 200
RANGES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
CATEGORIES = {2: "r", 3: "r", 5: "c", 8: "c", 13: "f"}


def random_set(seed: int, iou_type: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images in which some classes were looked for, some not, and some not to the end; ties of scores."""
    rng = np.random.default_rng(seed)
    images, annotations, found = [], [], []
    for image in (4, 9, 21):
        present = rng.choice(list(CATEGORIES), rng.integers(0, 4), replace=False).tolist()
        absent = [category for category in CATEGORIES if category not in present]
        boxes = []
        for category in present:
            for _ in range(rng.integers(1, 4)):
                size = rng.integers(6, 120, 2)
                boxes.append([*rng.integers(0, SIDE - size).tolist(), *size.tolist()])
                area = float(size.prod()) * float(rng.choice([1.0, 0.6]))
                annotations.append(
                    {"id": 1 + len(annotations), "image_id": image, "category_id": category, "area": area}
                    | shape(boxes[-1], iou_type)
                )
        images.append(
            {
                "id": image,
                "height": SIDE,
                "width": SIDE,
                "neg_category_ids": [category for category in absent if rng.random() < 0.5],
                "not_exhaustive_category_ids": [category for category in present if rng.random() < 0.4],
            }
        )
        for _ in range(rng.integers(0, 30)):
            box = boxes[rng.integers(len(boxes))] if boxes and rng.random() < 0.8 else rng.integers(4, 100, 4).tolist()
            box = np.maximum(np.array(box) + rng.integers(-6, 7, 4), [0, 0, 1, 1])
            box[2:] = np.minimum(box[2:], SIDE - box[:2])
            score = float(rng.integers(1, 12)) / 12 if rng.random() < 0.5 else float(rng.random())
            found.append(
                {"image_id": image, "category_id": int(rng.choice(list(CATEGORIES))), "score": score}
                | shape(box.tolist(), iou_type)
            )
    categories = [{"id": id_, "name": f"class {id_}", "frequency": one} for id_, one in CATEGORIES.items()]
    order = rng.permutation(len(found))
    return {"images": images, "categories": categories, "annotations": annotations}, [found[i] for i in order]


def shape(box: list[int], iou_type: str) -> dict[str, Any]:
    if iou_type == "bbox":
        return {"bbox": box}
    code = hotcoco.mask.fr_bbox([float(value) for value in box], SIDE, SIDE)
    return {"segmentation": {"size": [SIDE, SIDE], "counts": code["counts"].decode()}}


def definition(truth: dict[str, Any], found: list[dict[str, Any]], iou_type: str, cap: int) -> dict[str, Any]:
    """AP, AR and the pairs that oLRP is made of, one detection after the other as LVIS defines them."""
    best = defaultdict(list)
    for record in sorted(found, key=lambda record: -record["score"]):
        if len(best[record["image_id"]]) < cap:
            best[record["image_id"]].append(record)
    thresholds = np.linspace(0.5, 0.95, 10).tolist()
    precisions, recalls, pairs, counts = {}, {}, {}, {}
    for category, (name, (low, high)) in [(c, r) for c in CATEGORIES for r in RANGES.items()]:
        matched, num_objects = defaultdict(list), 0
        for image in truth["images"]:
            here = [a for a in truth["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category)]
            if not here and category not in image["neg_category_ids"]:
                continue
            here.sort(key=lambda a: not low <= a["area"] <= high)
            ignored = [not low <= a["area"] <= high for a in here]
            num_objects += len(here) - sum(ignored)
            ours = [d for d in best[image["id"]] if d["category_id"] == category]
            for threshold in thresholds:
                free = set(range(len(here)))
                for detection in ours:
                    overlaps = {k: overlap(detection, here[k], iou_type) for k in sorted(free)}
                    fits = [k for k in overlaps if overlaps[k] >= threshold]
                    fits = [k for k in fits if not ignored[k]] or fits
                    if fits:
                        # Of equal overlaps the last one is taken.
                        k = max(fits, key=lambda k: (overlaps[k], k))
                        free.remove(k)
                        if not ignored[k]:
                            matched[threshold].append((detection["score"], overlaps[k]))
                    elif category not in image["not_exhaustive_category_ids"] and low <= area(detection) <= high:
                        matched[threshold].append((detection["score"], NAN))
        if num_objects:
            for threshold in thresholds:
                precisions[category, name, threshold], recalls[category, name, threshold] = curve(
                    matched[threshold], num_objects
                )
        if not name:
            pairs[category], counts[category] = matched[0.5], num_objects

    def mean(values: dict[Any, float], **fixed: Any) -> float:
        kept = [
            value
            for (category, name, threshold), value in values.items()
            if name == fixed.get("name", "")
            and threshold == fixed.get("threshold", threshold)
            and CATEGORIES[category] == fixed.get("frequency", CATEGORIES[category])
        ]
        return float(np.mean(kept)) if kept else NAN

    result = {"AP": mean(precisions), "AP50": mean(precisions, threshold=thresholds[0])}
    result |= {"AP75": mean(precisions, threshold=thresholds[5])}
    result |= {f"AP{name}": mean(precisions, name=name) for name in "sml"}
    result |= {f"AP{frequency}": mean(precisions, frequency=frequency) for frequency in "rcf"}
    result |= {"AR300": mean(recalls)} | {f"AR{name}": mean(recalls, name=name) for name in "sml"}
    optima = {category: OptimalLRP(*lrp_by_definition(found, counts[category])) for category, found in pairs.items()}
    defined = [optimum.error for optimum in optima.values() if not math.isnan(optimum.error)]
    return result | {"oLRP": float(np.mean(defined)) if defined else NAN, "counts": counts, "optima": optima}


def overlap(first: dict[str, Any], second: dict[str, Any], iou_type: str) -> float:
    key = "bbox" if iou_type == "bbox" else "segmentation"
    return float(pycocotools_mask.iou([first[key]], [second[key]], [0])[0, 0])


def area(detection: dict[str, Any]) -> float:
    if "bbox" in detection:
        return float(detection["bbox"][2] * detection["bbox"][3])
    return float(pycocotools_mask.area(detection["segmentation"]))


def curve(pairs: list[tuple[float, float]], num_objects: int) -> tuple[float, float]:
    """Mean over 101 levels of recall of the highest precision at that recall or above, and the highest recall."""
    ordered = sorted(pairs, key=lambda pair: -pair[0])
    hits = np.cumsum([not math.isnan(iou) for _, iou in ordered])
    recall = hits / num_objects
    precision = hits / np.arange(1, len(ordered) + 1)
    levels = np.linspace(0, 1, 101)
    reached = [precision[recall >= level].max() if (recall >= level).any() else 0.0 for level in levels]
    return float(np.mean(reached)), float(recall[-1]) if len(ordered) else 0.0


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_the_official_numbers(shared, iou_type):
    folder = shared("data", "eval_samples", "lvis_v05_100")
    expected = json.loads((folder / "expected.json").read_text())[iou_type]
    result = evaluate(folder / "lvis_val_100.json", folder / f"pseudo_dets_{iou_type}.json", iou_type)
    names = {"AR@300": "AR300", "ARs@300": "ARs", "ARm@300": "ARm", "ARl@300": "ARl"}
    for key, value in expected.items():
        assert result[names.get(key, key)] == pytest.approx(value, abs=1e-12), key
    assert set(expected) == {key for key in expected if names.get(key, key) in result}


def check(seed: int, iou_type: str, cap: int) -> None:
    truth, found = random_set(seed, iou_type)
    result, expected = evaluate(truth, found, iou_type, cap), definition(truth, found, iou_type, cap)
    optima, counts = expected.pop("optima"), expected.pop("counts")
    for key, value in expected.items():
        assert result[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key
    for category, optimum in optima.items():
        ours = result["per_class"][f"class {category}"]
        assert ours["ground_truths"] == counts[category]
        assert ours["oLRP"] == pytest.approx(optimum.error, abs=1e-9, nan_ok=True), category


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cap=st.sampled_from([3, 10, 300]))
def test_boxes_equal_the_definition_on_random_sets(seed, cap):
    check(seed, "bbox", cap)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cap=st.sampled_from([3, 10, 300]))
def test_masks_equal_the_definition_on_random_sets(seed, cap):
    check(seed, "segm", cap)


def image(id_: int, negative: list[int] | None = None, not_exhaustive: list[int] | None = None) -> dict[str, Any]:
    lists = {"neg_category_ids": negative or [], "not_exhaustive_category_ids": not_exhaustive or []}
    return {"id": id_, "height": 100, "width": 100} | lists


def hit(category: int, score: float, image: int = 1, box: tuple[int, ...] = (10, 10, 40, 40)) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def truth_with(*images: dict[str, Any], objects: list[tuple[int, int]]) -> dict[str, Any]:
    """Images, and the (image, category) of objects that all have one box."""
    annotations = [
        {"id": 1 + place, "image_id": image, "category_id": category, "bbox": [10, 10, 40, 40]}
        for place, (image, category) in enumerate(objects)
    ]
    categories = [{"id": id_, "name": f"class {id_}", "frequency": one} for id_, one in CATEGORIES.items()]
    return {"images": list(images), "categories": categories, "annotations": annotations}


ELSEWHERE = (60, 60, 30, 30)
ONE = pytest.approx(1, abs=1e-12)


def test_detection_of_a_class_that_was_not_looked_for_does_not_matter():
    truth = truth_with(image(1), image(2), objects=[(1, 2)])
    found = [hit(2, 0.5), hit(2, 0.9, image=2), hit(5, 0.9)]
    result = evaluate(truth, found)
    assert (result["AP"], result["oLRP"]) == (ONE, 0)
    assert result["per_class"]["class 5"]["ground_truths"] == 0
    assert math.isnan(result["per_class"]["class 5"]["AP"])


def test_detection_of_a_class_that_was_looked_for_in_vain_is_a_mistake():
    truth = truth_with(image(1), image(2, negative=[2]), objects=[(1, 2)])
    result = evaluate(truth, [hit(2, 0.5), hit(2, 0.9, image=2)])
    assert (result["AP"], result["oLRP"], result["oLRP_FP"]) == (pytest.approx(0.5), 0.5, 0.5)


def test_detection_without_a_match_is_no_mistake_where_the_class_is_not_all_annotated():
    found = [hit(2, 0.5), hit(2, 0.9, box=ELSEWHERE)]
    strict = evaluate(truth_with(image(1), objects=[(1, 2)]), found)
    lenient = evaluate(truth_with(image(1, not_exhaustive=[2]), objects=[(1, 2)]), found)
    assert (strict["AP"], strict["oLRP"]) == (pytest.approx(0.5), 0.5)
    assert (lenient["AP"], lenient["oLRP"]) == (ONE, 0)


def test_average_precision_of_a_frequency_is_the_mean_over_its_classes():
    truth = truth_with(image(1), objects=[(1, 2), (1, 3), (1, 5)])
    result = evaluate(truth, [hit(2, 0.5), hit(5, 0.9)])
    assert (result["APr"], result["APc"]) == (pytest.approx(0.5), ONE)
    assert result["AP"] == pytest.approx(2 / 3)
    assert math.isnan(result["APf"])  # nothing of a frequent class is there


def test_the_best_detections_of_an_image_are_counted_over_all_classes():
    truth = truth_with(image(1, negative=[13]), objects=[(1, 2)])
    others = [hit(13, 0.6, box=ELSEWHERE)] * 3
    assert evaluate(truth, [hit(2, 0.5), *others], max_detections=4)["AP"] == ONE
    assert evaluate(truth, [hit(2, 0.5), *others], max_detections=3)["AP"] == 0
    assert evaluate(truth, [hit(2, 0.5), *(others * 100)[:299]])["AP"] == ONE
    capped = evaluate(truth, [hit(2, 0.5), *others * 100])
    assert (capped["AP"], capped["AR300"], capped["oLRP"]) == (0, 0, 1)


def test_cap_keeps_the_first_of_equal_scores_as_the_official_loader_does():
    truth, found = random_set(5, "bbox")
    found = [record | {"score": round(record["score"], 1)} for record in found]
    kept = []
    for image_id in {record["image_id"] for record in found}:
        of_image = [record for record in found if record["image_id"] == image_id]
        kept += sorted(of_image, key=lambda record: record["score"], reverse=True)[:7]
    alone = [record for record in found if record in kept]
    assert len(alone) < len(found)
    assert str(evaluate(truth, found, max_detections=7)) == str(evaluate(truth, alone))


def test_lvis_has_no_crowds():
    truth = truth_with(image(1), objects=[(1, 2)])
    truth["annotations"][0]["iscrowd"] = 1
    result = evaluate(truth, [hit(2, 0.5)])
    assert (result["AP"], result["per_class"]["class 2"]["ground_truths"]) == (ONE, 1)


def test_ids_beyond_float64_are_kept_apart():
    truth = truth_with(image(2**53 + 1), image(2**53 + 2, negative=[2]), objects=[(2**53 + 1, 2)])
    result = evaluate(truth, [hit(2, 0.5, image=2**53 + 1)])
    assert (result["AP"], result["oLRP"]) == (ONE, 0)


def test_loaded_set_gives_the_same_though_it_has_lost_its_empty_lists():
    truth, found = random_set(5, "bbox")
    truth["images"][0]["neg_category_ids"] = []
    assert str(evaluate(hotcoco.COCO(truth), found)) == str(evaluate(truth, found))


def test_no_detections_give_zero():
    result = evaluate(truth_with(image(1), objects=[(1, 2)]), [])
    assert (result["AP"], result["APr"], result["AR300"], result["oLRP"]) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("images", {"neg_category_ids": 3}, "image 2: neg_category_ids is no list: taken as empty"),
        ("images", {"neg_category_ids": [2, 99]}, "image 2: neg_category_ids holds what is no category of the file"),
        ("images", {"neg_category_ids": [True]}, "image 2: neg_category_ids holds what is no category of the file"),
        ("categories", {"frequency": "x"}, "category 13: frequency is none of r, c, f: the class counts in no APr"),
        ("categories", {"frequency": None}, "category 13: frequency is none of r, c, f: the class counts in no APr"),
    ],
)
def test_what_lvis_cannot_have_is_left_out_and_told(part, change, message):
    truth = truth_with(image(1, negative=[2]), image(2), objects=[(1, 2)])
    truth[part][-1].update(change)
    metrics = evaluate(truth, [])
    assert "APr" in metrics
    assert any(message in line for line in metrics["findings"])
