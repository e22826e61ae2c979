"""What rankdet must be able to do without the extra ``train``, and what it says where that is needed.

`.ci/package` runs this outside of the checkout, in an environment that holds the wheel and what the wheel requires.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import rankdet
from rankdet.extras import TRAIN

HINT = "pip install 'rankdet[train]'"


def losses_work() -> None:
    import torch

    from rankdet.losses import RankSortLoss, rank_sort_loss
    from rankdet.structures import Candidates, Matched

    logits = torch.tensor([0.5, 0.0, 1.0, -1.0], requires_grad=True)
    ranking, sorting = rank_sort_loss(logits, torch.tensor([0.9, 0.6, 0.0, 0.0]))
    (ranking + sorting).backward()
    if logits.grad is None or not logits.grad.any():
        sys.exit("rank_sort_loss has no gradient")
    boxes = Matched(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.0, 0.0, 8.0, 10.0]]))
    labels = torch.tensor([0, 1, 1, 1])
    terms = RankSortLoss()(Candidates("dense", logits.detach()[:, None], labels, 1, boxes=boxes)).terms
    if set(terms) != {"ranking", "sorting", "localization"}:
        sys.exit(f"RankSortLoss has the terms {sorted(terms)}")


def metrics_work() -> None:
    from rankdet.metrics import evaluate

    box = [10.0, 10.0, 30.0, 40.0]
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 1200.0, "iscrowd": 0}],
    }
    found = evaluate(truth, [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}])
    if abs(found["AP"] - 1) > 1e-9 or found["oLRP"] != 0:
        sys.exit(f"a perfect detection has AP {found['AP']} and oLRP {found['oLRP']}")


def trainer_is_asked_for() -> None:
    """In one line: from Python, and from the command line."""
    for name in sorted(set(rankdet.__all__) - {"InputError", "__version__"}):
        try:
            getattr(rankdet, name)
        except ImportError as error:
            if not str(error).startswith(f"rankdet.{name}: ") or HINT not in str(error):
                sys.exit(f"rankdet.{name} says: {error}")
        else:
            sys.exit(f"rankdet.{name} needs no extra: this environment has more than it should")
    for package in ("data", "detectors", "recipes", "training"):
        try:
            import_module(f"rankdet.{package}")
        except ImportError as error:
            if not str(error).startswith(f"rankdet.{package}: ") or HINT not in str(error):
                sys.exit(f"import rankdet.{package} says: {error}")
        else:
            sys.exit(f"rankdet.{package} needs no extra: this environment has more than it should")
    if not issubclass(rankdet.InputError, ValueError):
        sys.exit("rankdet.InputError is no ValueError")
    for command in ([Path(sys.prefix) / "bin" / "rankdet", "--help"], [sys.executable, "-m", "rankdet", "train"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stderr.splitlines()
        if done.returncode != 2 or done.stdout or len(lines) != 1 or HINT not in lines[0]:
            sys.exit(f"{command} has status {done.returncode} and prints {done.stdout}{done.stderr}")


def main() -> None:
    there = {module for module in TRAIN if module != "jinja2" and find_spec(module)}  # torch brings jinja2
    if there:
        sys.exit(f"this environment has {', '.join(sorted(there))}, which the wheel should not bring")
    losses_work()
    metrics_work()
    trainer_is_asked_for()
    print("the losses and the metrics work alone")


if __name__ == "__main__":
    main()
