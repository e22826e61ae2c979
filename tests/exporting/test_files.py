"""Files of models: what ONNX Runtime and torch find with them, what they say of themselves, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rankdet
from rankdet.cli import deploying
from rankdet.data import FixedSize, KeepRatio, Transforms
from rankdet.inference.operating_points import OperatingPoint
from rankdet.recipes import load_recipe
from rankdet.runs.checkpoint import save_checkpoint
from rankdet.structures import Images, InputError

from .networks import CALIBRATION, CLASSES, assert_same, model, network, two_images

SPREAD = {"yolact_shapes": 3, "detr_shapes": 10}
"""By how much classifiers are enlarged, 30 where it is not here: ONNX Runtime takes the least scores for 0."""


def session(path: Path):  # type: ignore[no-untyped-def]
    """The file in ONNX Runtime; the test is skipped where the extra is missing."""
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def written(tmp_path: Path, *arguments: object, **options: object) -> Path:
    pytest.importorskip("onnxscript")
    return rankdet.export(*arguments, tmp_path / "model.onnx", **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_one_file_takes_images_of_any_size_and_any_number(tmp_path: Path) -> None:
    own = model("atss_shapes")
    runtime = session(written(tmp_path, own, size="dynamic", batch="dynamic"))
    both = two_images()
    alone = Images(both.pixels[1:, :, :70, :100].contiguous(), both.sizes[1:])
    for images in (both, alone):
        found = runtime.run(None, {"images": images.pixels.numpy(), "sizes": np.array(images.sizes)})
        # What is no multiple of 32 is padded in the file.
        height, width = (-(-side // 32) * 32 for side in images.pixels.shape[2:])
        padded = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
        padded[:, :, : images.pixels.shape[2], : images.pixels.shape[3]] = images.pixels
        for image, expected in enumerate(own.network.detect(Images(padded, images.sizes))):
            assert len(expected.scores) == 100
            assert_same(expected, [part[image] for part in found])


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> tuple[rankdet.Model, Path]:
    """A detector of masks for two images of one size, and its file."""
    own = model("mask_rcnn_shapes", Transforms(FixedSize(96, 128)))
    return own, written(tmp_path_factory.mktemp("masks"), own, batch=2)


def test_a_file_says_what_its_user_must_know(masks: tuple[rankdet.Model, Path]) -> None:
    runtime = session(masks[1])
    assert [(given.name, given.shape) for given in runtime.get_inputs()] == [
        ("images", [2, 3, 96, 128]),
        ("sizes", [2, 2]),
    ]
    assert [output.name for output in runtime.get_outputs()] == ["boxes", "scores", "labels", "masks", "regions"]
    said = json.loads(runtime.get_modelmeta().custom_metadata_map["rankdet"])
    assert said["classes"] == [name for _, name in CLASSES]
    assert said["category_ids"] == [1, 2, 5]
    assert said["thresholds"] == [0.25, 0.5, 0.75]
    assert said["resize"] == {"type": "FixedSize", "height": 96, "width": 128}
    assert (said["detector"], said["recipe"], said["preprocessing"]) == ("MaskRCNN", None, False)
    assert (said["significant_bits"], said["operating_point"], said["calibration"]) == (16, None, None)


def test_masks_are_those_of_the_model(masks: tuple[rankdet.Model, Path]) -> None:
    own, path = masks
    images = two_images()
    found = session(path).run(None, {"images": images.pixels.numpy(), "sizes": np.array(images.sizes)})
    for image, expected in enumerate(own.network.detect(images)):
        assert_same(expected, [part[image] for part in found])


def test_openvino_reads_the_same_file(masks: tuple[rankdet.Model, Path]) -> None:
    openvino = pytest.importorskip("openvino")
    own, path = masks
    images = two_images()
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images.pixels.numpy(), "sizes": np.array(images.sizes)})
    for image, expected in enumerate(own.network.detect(images)):
        assert_same(expected, [part[image] for part in found.values()])


def test_a_program_of_torch_finds_the_same_at_the_operating_point(tmp_path: Path) -> None:
    own = replace(model("atss_shapes", Transforms(FixedSize(96, 128))), operating_point=OperatingPoint(0.3, 0.4))
    path = rankdet.export(own, tmp_path / "model.pt2", format="torch", batch="dynamic")
    files = {"rankdet.json": ""}
    run = torch.export.load(path, extra_files=files).module()
    said = json.loads(files["rankdet.json"])
    assert (said["detector"], said["operating_point"]) == ("ATSS", {"score_threshold": 0.3, "nms_iou": 0.4})
    images = two_images()
    found = run(images.pixels, torch.tensor(images.sizes))
    with own.evaluating():
        everything = own.network.detect(images)
    for image, expected in enumerate(everything):
        assert len(expected.scores) < 100
        assert_same(expected, [part[image] for part in found])


def test_a_file_has_calibrated_scores_where_the_model_has(tmp_path: Path) -> None:
    own = replace(model("atss_shapes", Transforms(FixedSize(96, 128))), calibration=CALIBRATION)
    path = rankdet.export(own, tmp_path / "model.pt2", format="torch", batch=2)
    files = {"rankdet.json": ""}
    run = torch.export.load(path, extra_files=files).module()
    said = json.loads(files["rankdet.json"])
    assert (said["calibration"], said["thresholds"]) == (
        {"target": "iou", "iou_type": "segm"},
        own.drawing_thresholds(),
    )
    images = two_images()
    found = run(images.pixels, torch.tensor(images.sizes))
    for image, expected in enumerate(own.network.detect(images)):
        assert_same(CALIBRATION(expected), [part[image] for part in found])


@pytest.mark.slow
def test_calibrated_scores_are_the_same_in_onnx_runtime(tmp_path: Path) -> None:
    own = replace(model("mask_rcnn_shapes", Transforms(FixedSize(96, 128))), calibration=CALIBRATION)
    images = two_images()
    runtime = session(written(tmp_path, own, batch=2))
    found = runtime.run(None, {"images": images.pixels.numpy(), "sizes": np.array(images.sizes)})
    for image, expected in enumerate(own.network.detect(images)):
        assert_same(CALIBRATION(expected), [part[image] for part in found])


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    own = model("rs_atss_shapes")
    refused: list[tuple[dict[str, object], str]] = [
        ({"batch": 0}, "batch must be a number of at least 1, or 'dynamic', not 0"),
        ({"batch": "8"}, "batch must be a number of at least 1, or 'dynamic', not '8'"),
        ({"size": (0, 64)}, r"size must be height and width, two numbers of at least 1, .* not \(0, 64\)"),
        ({"size": "480x640"}, "size must be height and width, two numbers of at least 1, .* not '480x640'"),
        ({"size": 480}, "size must be height and width, two numbers of at least 1, .* not 480"),
        ({"preprocessing": True, "batch": 2}, "takes one image"),
        ({"preprocessing": True, "size": "dynamic"}, "has a size of its own"),
    ]
    for options, message in refused:
        with pytest.raises(InputError, match=message):
            rankdet.export(own, tmp_path / "model.pt2", format="torch", **options)  # type: ignore[arg-type]
    fixed = replace(own, transforms=Transforms(FixedSize(96, 128)))
    with pytest.raises(InputError, match="a canvas of 96x96 has no room: the model resizes images to 96x128"):
        rankdet.export(fixed, tmp_path / "model.pt2", format="torch", size=(96, 96), preprocessing=True)
    with pytest.raises(InputError, match="format must be 'onnx' or 'torch', not 'pt2'"):
        rankdet.export(own, tmp_path / "model.pt2", format="pt2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no folder"):
        rankdet.export(own, tmp_path / "nowhere" / "model.pt2", format="torch")
    assert not list(tmp_path.iterdir())


def test_the_command_exports_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, own = load_recipe("rs_atss_shapes"), model("rs_atss_shapes")
    save_checkpoint(
        tmp_path / "trained.pt",
        {
            "detector": own.network.state_dict(),
            "recipe": recipe.model_dump(mode="json"),
            "categories": CLASSES,
            "thresholds": [0.5] * 3,
            "operating_point": {"score_threshold": 0.3, "nms_iou": 0.4},
            "calibration": CALIBRATION.state(),
        },
    )
    with pytest.raises(InputError, match="give height and width as in 480x640"):
        deploying.export(tmp_path / "trained.pt", size="480")
    with pytest.raises(InputError, match="give a number, or dynamic"):
        deploying.export(tmp_path / "trained.pt", batch="two")
    given = (tmp_path / "trained.pt", tmp_path / "model.pt2", "torch", "64x96")
    deploying.export(*given)
    assert capsys.readouterr().err == "at the stored operating point: score threshold 0.3, NMS 0.4\n"
    assert own.network.detection.score_threshold < 0.3
    deploying.export(*given, calibrated=True)
    files = {"rankdet.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files["rankdet.json"])["calibration"] == {"target": "iou", "iou_type": "segm"}
    capsys.readouterr()
    deploying.export(*given, operating_point=False)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"written: {tmp_path / 'model.pt2'}\n", "")
    files = {"rankdet.json": ""}
    run = torch.export.load(tmp_path / "model.pt2", extra_files=files).module()
    said = json.loads(files["rankdet.json"])
    assert (said["recipe"], said["operating_point"]) == ("rs_atss_shapes", None)
    pixels = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    assert_same(
        own.network.detect(Images(pixels, ((64, 96),)))[0], [part[0] for part in run(pixels, torch.tensor([[64, 96]]))]
    )


@pytest.mark.slow
def test_a_file_with_preprocessing_takes_photographs(tmp_path: Path) -> None:
    own = model("rs_atss_shapes", Transforms(KeepRatio(128, (96,))))
    runtime = session(written(tmp_path, own, size=(96, 128), preprocessing=True))
    torch.manual_seed(2)
    for size in ((192, 256), (60, 80), (150, 200)):
        soft = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 12) * 255, size=size, mode="bilinear")
        pixels = np.ascontiguousarray(soft[0].byte().permute(1, 2, 0).numpy())
        found = runtime.run(None, {"image": pixels})
        expected = own.detect(Image.fromarray(pixels))
        assert len(expected) == 100
        # Pixels may differ by one from those of torch, whose weights are rounded.
        assert np.abs(found[1][0] - expected.scores.numpy()).max() < 1e-2
        assert np.abs(np.sort(found[0][0], axis=0) - np.sort(expected.boxes.numpy(), axis=0)).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        "atss_shapes",
        "paa_shapes",
        "rs_faster_rcnn_shapes",
        "mask_rcnn_shapes",
        "cascade_rcnn_shapes",
        "yolact_shapes",
        "solov2_shapes",
        "detr_shapes",
    ],
)
def test_every_detector_finds_the_same_in_onnx_runtime(recipe: str, tmp_path: Path) -> None:
    own = rankdet.Model(network(recipe, SPREAD.get(recipe, 30)), CLASSES)
    runtime = session(written(tmp_path, own, size="dynamic", batch="dynamic"))
    both = two_images()
    larger = torch.nn.functional.interpolate(both.pixels[:1].float(), size=(160, 224), mode="bilinear").byte()
    for images in (both, Images(larger, ((160, 224),))):  # another size and another number
        found = runtime.run(None, {"images": images.pixels.numpy(), "sizes": np.array(images.sizes)})
        for image, expected in enumerate(own.network.detect(images)):
            assert_same(expected, [part[image] for part in found])
