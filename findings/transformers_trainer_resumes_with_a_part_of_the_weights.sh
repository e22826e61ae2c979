#!/usr/bin/env bash
# transformers: a training of RT-DETR that `Trainer` saves, and resumes from its checkpoint.
#
# A good guess: `train(resume_from_checkpoint=...)` goes on with the weights that were saved, as `from_pretrained` reads
# all of them.
# What happens: a checkpoint has the names of the original repository for some layers. `from_pretrained` translates them,
# the resumption does not. These layers keep what the new model began with; a line of the log names the keys.
# Why it matters: a resumed detector is partly untrained, and so is the best model that is loaded at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6 scipy==1.17.1
cd "$folder"
venv/bin/python -W ignore - <<'PY'
import torch
import transformers
from torch.utils.data import Dataset
from transformers import (
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Images(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        labels = {"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}
        return {"pixel_values": torch.rand(3, 64, 64), "labels": labels}


def collate(examples):
    pixels = torch.stack([example["pixel_values"] for example in examples])
    return {"pixel_values": pixels, "labels": [example["labels"] for example in examples]}


def new_model(seed):
    torch.manual_seed(seed)
    backbone = RTDetrResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=["stage2", "stage3", "stage4"])
    config = RTDetrConfig(
        backbone_config=backbone, num_labels=2, d_model=16, num_queries=12, decoder_layers=2, encoder_hidden_dim=16,
        encoder_in_channels=[8] * 3, decoder_in_channels=[16] * 3, encoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_ffn_dim=16, decoder_attention_heads=2, decoder_n_points=2, num_denoising=0, hidden_expansion=0.5,
    )
    return RTDetrForObjectDetection(config)


class Begin(TrainerCallback):
    """Keeps the weights that a training begins with."""

    def on_train_begin(self, args, state, control, model=None, **others):
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}


def trainer(model, steps, callbacks=()):
    settings = TrainingArguments(
        output_dir="run", use_cpu=True, max_steps=steps, save_steps=1, per_device_train_batch_size=2,
        remove_unused_columns=False, report_to="none", disable_tqdm=True,
    )
    return Trainer(model, settings, data_collator=collate, train_dataset=Images(), callbacks=list(callbacks))


trained = new_model(seed=0)
trainer(trained, steps=1).train()
saved = dict(trained.named_parameters())
begin = Begin()
trainer(new_model(seed=1), steps=2, callbacks=[begin]).train(resume_from_checkpoint="run/checkpoint-1")
read = dict(RTDetrForObjectDetection.from_pretrained("run/checkpoint-1").named_parameters())
resumed_others = [name for name in saved if not torch.equal(begin.weights[name], saved[name])]
read_others = [name for name in saved if not torch.equal(read[name], saved[name])]
print("transformers", transformers.__version__)
print(f"not as saved, of {len(saved)} parameters: {len(resumed_others)} resumed, {len(read_others)} by from_pretrained")
print("the first of them:", *resumed_others[:3])
assert not read_others, read_others
assert 0 < len(resumed_others) < len(saved), len(resumed_others)
PY
