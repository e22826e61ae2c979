# %% [markdown]
# # The loss in another trainer
#
# A detector of torchvision and a loop of one's own: Rank & Sort Loss comes in by one line. All of it takes less than
# a minute on one core. Each cell was run when this page was built. [Plugging in](../plugging-in.md) has the lines for
# other frameworks.
#
# ## The usual parts
#
# A small data set in the form of COCO, and from it what torchvision's detectors take: images from 0 to 1, boxes in
# pixels, labels.

# %%
import json
from pathlib import Path

import torch
from torchvision.io import decode_image

from rankdet.data import make_shapes

make_shapes(Path("shapes"), train=160, val=40, size=96)


def read(split):
    content = json.loads(Path(f"shapes/annotations/instances_{split}.json").read_text())
    names = {category["id"]: label for label, category in enumerate(content["categories"])}
    pairs = []
    for image in content["images"]:
        objects = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        boxes = torch.tensor([each["bbox"] for each in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([names[each["category_id"]] for each in objects], dtype=torch.int64)
        pixels = decode_image(f"shapes/images/{split}/{image['file_name']}", mode="RGB") / 255
        pairs.append((pixels, {"boxes": boxes, "labels": labels}))
    return content, pairs


_, train = read("train")
truth, val = read("val")
len(train), len(val), [category["name"] for category in truth["categories"]]

# %% [markdown]
# The detector is torchvision's RetinaNet. Its backbone is five convolutions here, so that it learns from nothing in
# seconds.

# %%
from functools import partial

from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

torch.manual_seed(0)


def convolution(channels, out, stride):
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.GroupNorm(8, out), nn.ReLU())


backbone = nn.Sequential(
    convolution(3, 16, 2),
    convolution(16, 32, 2),
    convolution(32, 64, 1),
    convolution(64, 64, 2),
    convolution(64, 64, 1),
)
backbone.out_channels = 64
model = RetinaNet(
    backbone,
    num_classes=5,
    anchor_generator=AnchorGenerator(((16, 24, 36, 54),), ((1.0,),)),
    head=RetinaNetHead(64, 4, 5, norm_layer=partial(nn.GroupNorm, 8)),
    min_size=96,
    max_size=96,
    topk_candidates=300,
)

# %% [markdown]
# ## One line
#
# All anchors are ranked now. Focal loss and L1 are gone, with their weights, and the boxes have GIoU, balanced by its
# value.

# %%
from rankdet.adapters.torchvision import calibrate, plain, use_rank_sort

model = use_rank_sort(model)

# %% [markdown]
# ## The training stays as it is

# %%
optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.003, total_steps=300)
history = []
for _ in range(300):
    images, targets = zip(*(train[i] for i in torch.randint(len(train), (8,)).tolist()), strict=True)
    terms = model(images, targets)
    optimizer.zero_grad()
    sum(terms.values()).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    history.append({name: term.item() for name, term in terms.items()})
for step in (0, 99, 199, 299):
    print(step + 1, {name: round(value, 3) for name, value in history[step].items()})

# %% [markdown]
# Each box term has the value of the classification: that is the balance. So the two curves are one.

# %%
import matplotlib.pyplot as plt

for name in history[0]:
    plt.plot([each[name] for each in history], label=name)
plt.xlabel("iteration")
_ = plt.legend()

# %% [markdown]
# ## Scores that the usual threshold fits
#
# A ranking loss fixes the order of scores, not where they lie. `calibrate` finds a scale and a shift of the logits on
# validation images, and stores them in the weights, so that torchvision's threshold keeps what AP needs.

# %%
model.eval()


def detect(images):
    with torch.no_grad():
        return [found for image in images for found in model([image])]


images = [image for image, _ in val]
before = sum(len(found["scores"]) for found in detect(images))
calibrate(model, [([image], [target]) for image, target in val])
after = sum(len(found["scores"]) for found in detect(images))
print(f"{before} detections above {model.score_thresh} before, {after} after")

# %% [markdown]
# ## Measure
#
# `rankdet.metrics` measures detections of any tool, by COCO's rules, and needs no trainer.

# %%
from rankdet.metrics import evaluate

records = []
for image, found in zip(truth["images"], detect(images), strict=True):
    columns = (found[name].tolist() for name in ("boxes", "scores", "labels"))
    for box, score, label in zip(*columns, strict=True):
        bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        category = truth["categories"][label]["id"]
        records.append({"image_id": image["id"], "category_id": category, "bbox": bbox, "score": score})
metrics = evaluate("shapes/annotations/instances_val.json", records)
{name: round(metrics[name], 3) for name in ("AP", "AP50", "AP75", "oLRP")}

# %%
from torchvision.transforms.v2.functional import resize, to_pil_image
from torchvision.utils import draw_bounding_boxes

shown = []
for index in range(4):
    found = detect([images[index]])[0]
    is_sure = found["scores"] > 0.5
    names = [truth["categories"][label]["name"] for label in found["labels"][is_sure].tolist()]
    large = resize(images[index], [288, 288])
    shown.append(draw_bounding_boxes(large, found["boxes"][is_sure] * 3, names, colors="yellow", width=2))
to_pil_image(torch.cat(shown, 2))

# %% [markdown]
# ## A model of torchvision again
#
# `plain` gives a model by torchvision's own classes, which is loaded, scripted and exported without rankdet.

# %%
torch.save(plain(model), "detector.pt")
type(torch.load("detector.pt", weights_only=False).head)
