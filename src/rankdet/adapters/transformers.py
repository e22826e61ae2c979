"""Rank & Sort Loss in the detectors of Hugging Face's transformers, from 5.24 on.

    model = AutoModelForObjectDetection.from_pretrained(name)
    use_rank_sort(model)

Of the sigmoid detectors that transformers trains, :func:`use_rank_sort` replaces the classification: RT-DETR (v1, v2),
D-FINE, DEIMv2, LW-DETR, RF-DETR, Deformable, Conditional and DAB-DETR, and the segmentation models of RF-DETR and
Conditional DETR. Matching, box losses, auxiliary layers and denoising stay theirs, and so does all around the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.loss.loss_d_fine import DFineForObjectDetectionLoss, DFineLoss
from transformers.loss.loss_deformable_detr import (
    DeformableDetrForObjectDetectionLoss,
    DeformableDetrForSegmentationLoss,
    DeformableDetrImageLoss,
)
from transformers.loss.loss_deimv2 import Deimv2ForObjectDetectionLoss, Deimv2Loss
from transformers.loss.loss_lw_detr import LwDetrForObjectDetectionLoss, LwDetrImageLoss
from transformers.loss.loss_rf_detr import RfDetrForSegmentationLoss, RfDetrImageLoss
from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss, RTDetrLoss
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.utils.versions import require_version

from rankdet.adapters.calibration import Calibration, Matches, evaluating, find_calibration, match, rescale
from rankdet.adapters.detr import Boxes, RankSort, RankSortLabels, corners
from rankdet.losses import Sync

# Before, the main loss of RT-DETR and D-FINE saw the denoising queries (huggingface/transformers#48528).
require_version("transformers>=5.24")

Losses = tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]] | None]
"""The loss, its terms by name and layer, and the outputs of the auxiliary layers."""
Model = TypeVar("Model", bound=PreTrainedModel)

MARK = "rankdet_use_rank_sort"
"""A buffer of models that learn by Rank & Sort Loss. Loaded without it, transformers reports the name."""
STATISTICS = {"ranking": 1.0, "sorting": 1.0}


def use_rank_sort(
    model: Model, delta: float = 0.5, boxes: Boxes = "theirs", sync: Sync = False, *, weight: float = 1.0
) -> Model:
    """Make a detector of transformers learn its classes by Rank & Sort Loss; it returns the same model.

    The loss of a model that gets labels is then the ranking one, in ``Trainer`` and in loops of one's own, under
    autocast and ``torch.compile``. ``deepcopy`` and pickling keep it. ``loss_dict`` has ``ranking`` and ``sorting`` of
    each layer beside the terms of the model.

    Parameters
    ----------
    model
        A detector with a sigmoid per class, before it is compiled or wrapped.
    delta, boxes, sync, weight
        See :class:`rankdet.adapters.detr.RankSort`.

    Raises
    ------
    TypeError
        When it is no model of transformers, such as a wrapped one.
    ValueError
        When the model has no loss that is known here, or one that Rank & Sort Loss cannot replace, or a number is out
        of range.

    Notes
    -----
    ``save_pretrained`` keeps weights, not losses. ``from_pretrained`` reports ``rankdet_use_rank_sort`` as unexpected
    then, and before a further training the model needs ``use_rank_sort`` again. Detection needs nothing; :func:`plain`
    takes the mark away before it is saved.

    A checkpoint of ``Trainer`` has the names of the original weights, and ``Trainer`` does not translate them back when
    it goes on from one or loads the best (huggingface/transformers#43701): backbones keep the weights that they have.
    Therefore ``from_pretrained(checkpoint)`` comes before ``train(resume_from_checkpoint=checkpoint)``.

    Examples
    --------
    A tiny Conditional DETR of random weights:

    >>> from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection, ResNetConfig
    >>> backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage4"])
    >>> config = ConditionalDetrConfig(backbone_config=backbone, d_model=16, num_queries=5, num_labels=3)
    >>> model = use_rank_sort(ConditionalDetrForObjectDetection(config))
    >>> labels = [{"class_labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.2]])}]
    >>> sorted(model(pixel_values=torch.rand(1, 3, 64, 64), labels=labels).loss_dict)
    ['cardinality_error', 'loss_bbox', 'loss_ce', 'loss_giou', 'ranking', 'sorting']
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"use_rank_sort takes a model of transformers, got {type(model).__name__}: pass it before it is wrapped"
        )
    theirs = LOSS_MAPPING.get(model.loss_type)
    if theirs not in CRITERIA:
        raise ValueError(_refusal(model))
    if theirs is Deimv2ForObjectDetectionLoss and model.config.num_denoising and not model.config.auxiliary_loss:
        raise ValueError(
            f"{type(model).__name__} ranks its denoising queries with the others where auxiliary_loss is False: "
            "set auxiliary_loss=True or num_denoising=0 in its config"
        )
    model.loss_function = RankSortLossFunction(theirs, RankSort(delta, weight, boxes, sync))
    if not hasattr(model, MARK):
        # A float: averages of weights that take buffers along cannot subtract truth values.
        model.register_buffer(MARK, torch.ones((), device=model.device))
        model.register_load_state_dict_pre_hook(_add_mark)
    return model


def plain(model: Model) -> Model:
    """Give a model its own loss again and take the mark away, so that it is saved and loaded like any other."""
    if hasattr(model, MARK):
        delattr(model, MARK)
        del model._loss_function
    return model


@torch.no_grad()
def calibrate(
    model: PreTrainedModel,
    loader: Iterable[Mapping[str, Any]],
    threshold: float = 0.5,
    tolerance: float = 0.005,
) -> Calibration:
    """Store a scale and a shift of the logits in the classifiers, so that a threshold fits: :func:`find_calibration`.

    The classifiers of all decoder layers change alike. Those of an encoder, which choose queries by their order, stay.
    So does the order of the detections. ``save_pretrained`` and exports keep the change, and a further training begins
    with it.

    Parameters
    ----------
    model
        A detector that has learned after :func:`use_rank_sort`.
    loader
        Validation batches as ``Trainer.get_eval_dataloader()`` has them: ``pixel_values``, ``labels`` with
        ``class_labels`` and relative ``boxes``, and ``pixel_mask`` where the model takes one.
    threshold
        The threshold of ``post_process_object_detection``.
    tolerance
        AP50 that the detections below the threshold may be worth.

    Raises
    ------
    InputError
        When no detection hits an object, or the threshold is not between 0 and 1.
    TypeError
        When it is no model of :func:`use_rank_sort`.
    """
    if not hasattr(model, MARK):
        raise TypeError("calibrate takes a model of use_rank_sort")
    with evaluating(model):
        found = find_calibration(_matches(model, loader), threshold, tolerance)
    for layer in _last_layers(model, "class_embed", "class_labels_classifier"):
        rescale(layer.weight, layer.bias, found)
    for layer in _last_layers(model, "lqe_layers"):  # what D-FINE and DEIM add to all logits of a query
        rescale(layer.weight, layer.bias, found._replace(shift=0.0))
    return found


@dataclass(frozen=True)
class RankSortLossFunction:
    """The ``loss_function`` of a model that learns by Rank & Sort Loss.

    It is no ``nn.Module``, which transformers would ignore without a word: its property never sees a submodule.

    Parameters
    ----------
    theirs
        The function of transformers for this kind of model. It matches, and computes all but the classification.
    rank_sort
        The loss of a layer.
    """

    theirs: Callable[..., Losses]
    rank_sort: RankSort

    @torch.compiler.disable  # Matching is Python on the host, and each batch has another number of objects.
    def __call__(self, *args: Any, **kwargs: Any) -> Losses:
        """The loss of a batch; the arguments are those of ``theirs``, which differ by kind."""
        kind, base = CRITERIA[self.theirs]
        config = next(value for value in (*args, *kwargs.values()) if isinstance(value, PreTrainedConfig))
        # Their function makes its criterion anew in each call and takes no other one, so it is run with our class by
        # the name of theirs. The function itself stays as it is: other models of the process use it, other threads too.
        names = {**self.theirs.__globals__, base.__name__: partial(_criterion, kind, config, self.rank_sort)}
        function = FunctionType(self.theirs.__code__, names, argdefs=self.theirs.__defaults__)
        loss, terms, auxiliary = function(*args, **kwargs)
        if issubclass(base, RTDetrLoss):  # Their sum is one of all terms, statistics included.
            loss = sum(value for name, value in terms.items() if name.startswith("loss"))
        return loss, terms, auxiliary


class _Labels(RankSortLabels):
    logits_name, labels_name = "logits", "class_labels"


class _WithDenoising(_Labels):
    def get_cdn_matched_indices(self, *args: Any) -> Any:
        # Their last losses are those of the denoising queries, which a process without any object does not make. A
        # pool of all processes would wait for it.
        self.rank_sort = replace(self.rank_sort, sync=False)
        return super().get_cdn_matched_indices(*args)  # type: ignore[misc]


class _Deformable(_Labels, DeformableDetrImageLoss):
    pass


class _DFine(_WithDenoising, DFineLoss):
    pass


class _Deimv2(_WithDenoising, Deimv2Loss):
    pass


class _LwDetr(_Labels, LwDetrImageLoss):
    pass


class _RfDetr(_Labels, RfDetrImageLoss):
    pass


class _RTDetr(_WithDenoising, RTDetrLoss):
    pass


CRITERIA: dict[Callable[..., Losses], tuple[type[RankSortLabels], type[nn.Module]]] = {
    DeformableDetrForObjectDetectionLoss: (_Deformable, DeformableDetrImageLoss),
    DeformableDetrForSegmentationLoss: (_Deformable, DeformableDetrImageLoss),
    DFineForObjectDetectionLoss: (_DFine, DFineLoss),
    Deimv2ForObjectDetectionLoss: (_Deimv2, Deimv2Loss),
    LwDetrForObjectDetectionLoss: (_LwDetr, LwDetrImageLoss),
    RfDetrForSegmentationLoss: (_RfDetr, RfDetrImageLoss),
    RTDetrForObjectDetectionLoss: (_RTDetr, RTDetrLoss),
}
"""Their loss functions, our criterion, and theirs, whose name the function looks up."""


def _criterion(
    kind: type[RankSortLabels], config: PreTrainedConfig, rank_sort: RankSort, /, *args: Any, **kwargs: Any
) -> RankSortLabels:
    """A criterion, made from the arguments of theirs."""
    criterion = kind(*args, **kwargs)
    criterion.rank_sort = rank_sort
    theirs = getattr(criterion, "weight_dict", None) or {
        "loss_ce": getattr(config, "class_loss_coefficient", 1.0),
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
    criterion.weight_dict = {**theirs, **STATISTICS}
    return criterion


def _add_mark(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let weights without the mark be loaded, those of the model before its training for example."""
    if hasattr(model, MARK):  # not after :func:`plain`
        state.setdefault(prefix + MARK, torch.ones(()))


def _matches(model: PreTrainedModel, loader: Iterable[Mapping[str, Any]]) -> Iterator[Matches]:
    """Detections beside objects, image by image: as many pairs of a query and a class as there are queries."""
    for batch in loader:
        inputs = {key: batch[key].to(model.device) for key in ("pixel_values", "pixel_mask") if key in batch}
        outputs = model(**inputs)
        _, num_queries, num_classes = outputs.logits.shape
        for logits, boxes, labels in zip(outputs.logits, outputs.pred_boxes, batch["labels"], strict=True):
            best, places = logits.flatten().topk(num_queries)
            queries, classes = places // num_classes, places % num_classes
            objects = corners(labels["boxes"]).cpu(), labels["class_labels"].cpu()
            yield match(corners(boxes[queries]).cpu(), best.cpu(), classes.cpu(), *objects)


def _last_layers(model: nn.Module, *names: str) -> list[Any]:
    """The last linear layer of each part of these names, or of each entry of such a list; shared ones once."""
    found: dict[int, nn.Linear] = {}
    for name, part in model.named_modules():
        if name.rpartition(".")[2] in names:
            for entry in part if isinstance(part, nn.ModuleList) else [part]:
                *_, last = (layer for layer in entry.modules() if isinstance(layer, nn.Linear))
                found[id(last.weight)] = last
    return list(found.values())


def _refusal(model: PreTrainedModel) -> str:
    name, kind = type(model).__name__, model.config.model_type
    if kind in ("detr", "table-transformer", "yolos"):
        return (
            f"{name}: its classes and 'no object' share a softmax, in matching and in its scores. Rank & Sort Loss "
            "needs a sigmoid per class, as in Deformable DETR or RT-DETR"
        )
    if kind in ("grounding-dino", "mm-grounding-dino"):
        return f"{name}: its classes are tokens of a text, several for one object, which Rank & Sort Loss does not rank"
    known = ", ".join(sorted(each for each, function in LOSS_MAPPING.items() if function in CRITERIA))
    return f"{name} has no loss of a detector that use_rank_sort knows; these have: {known}"
