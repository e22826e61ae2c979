"""What an installed rankdet must be able to do.

`.ci/package` runs this outside of the checkout, with the interpreter of the environment that holds the wheel.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import rankdet


def command(*arguments: str) -> str:
    """Run the installed ``rankdet`` and return what it prints; raises CalledProcessError where it fails."""
    script = Path(sys.prefix) / "bin" / "rankdet"
    return subprocess.run([script, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    home = Path(rankdet.__file__).resolve().parent
    if not home.is_relative_to(Path(sys.prefix).resolve()):
        sys.exit(f"rankdet comes from {home}, not from the wheel in {sys.prefix}")
    if version("rankdet") != rankdet.__version__:
        sys.exit(f"the wheel is version {version('rankdet')}, the package says {rankdet.__version__}")
    for name in ("py.typed", "reproduce/paper_tables.yaml", "report/templates"):
        if not (home / name).exists():
            sys.exit(f"the wheel lacks {name}")
    if "train" not in command("--help"):
        sys.exit("rankdet --help does not list the commands")
    if "rs_faster_rcnn_r50_coco" not in command("list"):
        sys.exit("rankdet list does not list the recipes")
    if "rs_faster_rcnn" not in command("reproduce", "1", "--dry-run"):
        sys.exit("rankdet reproduce does not know table 1")

    import torch

    from rankdet.losses import rank_sort_loss

    logits = torch.tensor([0.5, 0.0, 1.0, -1.0], requires_grad=True)
    ranking, sorting = rank_sort_loss(logits, torch.tensor([0.9, 0.6, 0.0, 0.0]))
    (ranking + sorting).backward()
    if logits.grad is None or not logits.grad.any():
        sys.exit("rank_sort_loss has no gradient")
    print(f"rankdet {rankdet.__version__} from {home}")


if __name__ == "__main__":
    main()
