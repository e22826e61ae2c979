"""How many images `rankdet doctor` checks per second of processor time, with headers alone and with all decoded.

    python benchmarks/doctor.py [--images 2000]

Makes a COCO folder of JPEG files of 640 × 480 pixels with seven objects each, as COCO has them, in a temporary folder.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from rankdet.recipes.doctor import check_folder


def make_folder(root: Path, num_images: int) -> None:
    """Write the folder: half of the images to learn from, half to evaluate on."""
    random = np.random.default_rng(0)
    pixels = Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize((640, 480))
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        folder = root / "images" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for id_ in range(1, num_images // 2 + 1):
            name = f"{split}{id_:06}.jpg"
            pixels.save(folder / name, comment=name.encode())
            images.append({"id": id_, "file_name": name, "width": 640, "height": 480})
            for x, y, w, h in random.uniform([0, 0, 8, 8], [400, 300, 240, 180], (7, 4)).round(2).tolist():
                outline = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotation = {"id": len(annotations) + 1, "image_id": id_, "category_id": 1 + id_ % 80, "iscrowd": 0}
                annotations.append(annotation | {"bbox": [x, y, w, h], "area": w * h, "segmentation": [outline]})
        document = {"images": images, "annotations": annotations}
        document["categories"] = [{"id": id_, "name": f"class {id_}"} for id_ in range(1, 81)]
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def main() -> None:
    """Print images per second of processor time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    num_images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as temporary:
        make_folder(Path(temporary), num_images)
        for name, decode in (("headers", False), ("all decoded", True)):
            start, wall = time.process_time(), time.perf_counter()
            findings = check_folder(Path(temporary), images=decode)
            seconds = time.process_time() - start
            print(
                f"{name}: {num_images / seconds:.0f} images per second of processor time, "
                f"{num_images / (time.perf_counter() - wall):.0f} by the clock, {len(findings)} findings"
            )


if __name__ == "__main__":
    main()
