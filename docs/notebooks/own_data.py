# %% [markdown]
# # A first training on own data
#
# From a folder to a detector, its numbers and its drawings, in less than a minute on one core. Each cell was run when
# this page was built.
#
# ## The data
#
# A data folder is what your tool wrote: COCO, YOLO, Pascal VOC and others are [recognized](../formats.md). Here a
# small one is made, of shapes on a noisy ground, so that nothing has to be downloaded. With your own, leave this cell
# out.

# %%
from rankdet.data import make_shapes

make_shapes("my_data", train=200, val=50)

# %% [markdown]
# `rankdet doctor` says what a training would use, what it would leave out, and what helps. It is worth its seconds
# before every first training.

# %%
# !rankdet doctor my_data --recipe rs_atss_shapes

# %% [markdown]
# ## Train
#
# The recipe is a tiny ATSS from random weights, which learns by Rank & Sort Loss. On photographs take a pretrained
# one: [Which recipe](../which-recipe.md). `changes` are fields of the recipe, as `field=value` is on the command
# line.

# %%
import rankdet

run = rankdet.train("rs_atss_shapes", data="my_data", out="runs/first", changes={"schedule.iterations": 200})

# %% [markdown]
# The run folder has the log, the resolved recipe and checkpoints. Both errors of the ranking lie between 0 and 1: how
# many negatives are above the positives, and how badly positives are sorted by their boxes. The error of the boxes is
# 1 − GIoU.

# %%
import json

import matplotlib.pyplot as plt

log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
log = [record for record in log if record["kind"] == "train"]
for term in ("ranking", "sorting", "localization_error"):
    plt.plot([each["iteration"] for each in log], [each["statistics"][f"dense/{term}"] for each in log], label=term)
plt.xlabel("iteration")
_ = plt.legend()

# %% [markdown]
# ## Measure
#
# AP, oLRP and the threshold of the score at which the LRP error of a class is least, on the images of `val`:

# %%
print(f"AP {run.metrics['AP']:.3f}, oLRP {run.metrics['oLRP']:.3f}")
for name, numbers in run.metrics["per_class"].items():
    print(f"{name:10} AP {numbers['AP']:.3f}  oLRP {numbers['oLRP']:.3f}  threshold {numbers['threshold']:.2f}")

# %% [markdown]
# ## Detect
#
# `detect` takes paths, PIL images, arrays and tensors. `draw` shows each class from its own threshold on.

# %%
model = rankdet.load("runs/first")
found = model.detect("my_data/images/val/000001.png")
found.draw("my_data/images/val/000001.png")

# %%
for name, score, box, _ in found.above():
    print(name, round(score, 2), [round(side) for side in box])

# %% [markdown]
# ## And then
#
# * `rankdet report runs/first --out report.html` is [one page](../report.md) with curves, confusions and the worst
#   mistakes.
# * Scores of a ranking loss order detections. [What a score says](../scores.md) makes them state the IoU that is to
#   be expected.
# * `rankdet export runs/first --format onnx` writes [one file](../exporting.md) that runs without PyTorch.
# * [Recipes](../recipes.md) has all fields, and [From Python](../python.md) parts of your own.
