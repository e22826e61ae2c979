"""Detect objects with a file of `rankdet export` and ONNX Runtime: python detect_with_onnx.py model.onnx photo.jpg"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def detect(session: onnxruntime.InferenceSession, path: str) -> list[tuple[str, float, list[float]]]:
    """Return the class, the score and the box (xyxy, in pixels) of each object in an image."""
    facts = json.loads(session.get_modelmeta().custom_metadata_map["rankdet"])
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    if facts["preprocessing"]:
        inputs, factors = {"image": np.asarray(image)}, np.ones(4)
    else:
        resize, (width, height) = facts["resize"], image.size
        if resize and resize["type"] == "FixedSize":
            width, height = resize["width"], resize["height"]
        elif resize:  # the largest size within two limits that keeps the ratio of the sides
            scale = min(resize["long"] / max(image.size), resize["shorts"][0] / min(image.size))
            width, height = int(width * scale + 0.5), int(height * scale + 0.5)
        small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        # The file has a canvas, in whose corner the image lies; one that takes any size has names in its shape.
        rows, columns = (side if isinstance(side, int) else 0 for side in session.get_inputs()[0].shape[2:])
        canvas = np.zeros((1, 3, max(rows, height), max(columns, width)), dtype=np.uint8)
        canvas[0, :, :height, :width] = small
        inputs = {"images": canvas, "sizes": np.array([[height, width]])}
        factors = np.array([image.width / width, image.height / height] * 2)
    boxes, scores, labels = (output[0] for output in session.run(["boxes", "scores", "labels"], inputs))
    is_sure = (scores > 0) & (scores >= np.array(facts["thresholds"])[labels])  # a row of score 0 is no object
    found = zip(labels[is_sure], scores[is_sure], boxes[is_sure] * factors, strict=True)
    return [(facts["classes"][label], float(score), box.tolist()) for label, score, box in found]


if __name__ == "__main__":
    for name, score, box in detect(onnxruntime.InferenceSession(sys.argv[1]), sys.argv[2]):
        print(f"{name} {score:.3f} {' '.join(f'{side:.1f}' for side in box)}")
