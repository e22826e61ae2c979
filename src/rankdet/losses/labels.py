"""From the labels of other frameworks to those of the losses, or to the places that the forms ``…_at`` take.

Labels here are a class 0 … C − 1, C for background, and −1 for what is ignored.

Legend: B images, Q queries, C classes, P matched pairs, M candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def from_pairs(pairs: Sequence[tuple[Tensor, Tensor]], labels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The places of matched queries in (B, Q, C) logits, from what the matcher of a DETR returns.

    Parameters
    ----------
    pairs
        For each image the matched queries and their objects, two int64 tensors of one length.
    labels
        For each image the (number of objects,) int64 classes 0 … C − 1 of its objects.

    Returns
    -------
    tuple of Tensor
        (P,) int64 image, query and class of each pair, one image after another, on the device of ``labels``: an
        ``index`` for :func:`rank_sort_loss_at`. The first two find the boxes of the queries.

    Raises
    ------
    ValueError
        When there are not as many images in both, or an object is not in its image. On a GPU, where looking would
        wait, and where torch compiles, the class of such an object is −1, which the loss makes NaN.

    Notes
    -----
    The boxes of the objects must follow in the same order: ``torch.cat([b[o] for b, (_, o) in zip(boxes, pairs)])``.

    Examples
    --------
    In the second image, query 5 has found object 1, of class 2, and query 9 object 0:

    >>> pairs = [(torch.tensor([3]), torch.tensor([0])), (torch.tensor([5, 9]), torch.tensor([1, 0]))]
    >>> from_pairs(pairs, [torch.tensor([7]), torch.tensor([0, 2])])
    (tensor([0, 1, 1]), tensor([3, 5, 9]), tensor([7, 2, 0]))
    """
    if len(pairs) != len(labels):
        raise ValueError(f"pairs of {len(pairs)} images but labels of {len(labels)}")
    if not pairs:
        none = torch.zeros(0, dtype=torch.int64)
        return none, none, none
    classes = torch.cat(list(labels))
    query, objects = (torch.cat(list(side)) for side in zip(*pairs, strict=True))
    for number, (queries, found) in enumerate(pairs):
        if queries.shape != found.shape:
            raise ValueError(f"image {number} has {len(queries)} matched queries but {len(found)} objects")
    # Images, and what follows from shapes, are known without looking at any device.
    sizes = torch.tensor([len(each) for each in labels])
    matched = torch.tensor([len(each) for _, each in pairs])
    image = torch.arange(len(pairs)).repeat_interleave(matched, output_size=len(query))
    first, size = (sizes.cumsum(0) - sizes)[image], sizes[image]
    on_host = classes.device.type == "cpu"
    image, query, objects, first, size = (
        part.to(classes.device, non_blocking=not on_host) for part in (image, query, objects, first, size)
    )
    is_there = (objects >= 0) & (objects < size)
    if on_host and not torch.compiler.is_compiling() and not bool(is_there.all()):
        wrong = int((~is_there).nonzero()[0])
        raise ValueError(f"object {int(objects[wrong])} of image {int(image[wrong])}, which has {int(size[wrong])}")
    if not len(classes):
        return image, query, torch.full_like(objects, -1)
    found = classes[(first + objects).clamp(0, len(classes) - 1)]
    return image, query, found.where(is_there, -1)


def from_background_zero(labels: Tensor, num_classes: int) -> Tensor:
    """Labels from those of torchvision: 0 background, 1 … C the classes, below 0 ignored.

    Parameters
    ----------
    labels
        Of any shape, also floats, as those of torchvision's RPN (1 object, 0 background, −1 ignored; C = 1).
    num_classes
        C, without background.

    Returns
    -------
    Tensor
        int64, same shape: class 0 … C − 1, C background, −1 ignored. Column 0 of the logits, that of the background,
        is no class: a loss takes ``logits[:, 1:]``.

    Raises
    ------
    ValueError
        When a label is above C. On a GPU, where looking would wait, and where torch compiles, it stays as it is, which
        the ``check`` of a loss finds.

    Examples
    --------
    >>> from_background_zero(torch.tensor([0, 1, 80, -1, -2]), 80)
    tensor([80,  0, 79, -1, -1])
    >>> from_background_zero(torch.tensor([1.0, 0.0, -1.0]), 1)
    tensor([ 0,  1, -1])
    """
    labels = labels.to(torch.int64)
    is_known = labels <= num_classes
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(is_known.all()):
        raise ValueError(f"labels must be 1 to {num_classes}, 0 or below, got {int(labels.max())}")
    found = torch.where(labels == 0, num_classes, (labels - 1).clamp(min=-1))
    return torch.where(is_known, found.where(labels >= 0, -1), labels)


def from_background_last(labels: Tensor, weights: Tensor) -> Tensor:
    """Labels from those of mmdetection: 0 … C − 1 the classes, C background; a weight of 0 is ignored.

    Parameters
    ----------
    labels
        int64 of any shape.
    weights
        Same shape: ``label_weights``. Weights other than 0 count as 1; a ranking loss has no weights of candidates.

    Returns
    -------
    Tensor
        int64, same shape: the labels, −1 where ignored.

    Raises
    ------
    ValueError
        When the shapes differ.

    Examples
    --------
    >>> from_background_last(torch.tensor([3, 80, 80]), torch.tensor([1.0, 1.0, 0.0]))
    tensor([ 3, 80, -1])
    """
    if labels.shape != weights.shape:
        raise ValueError(f"labels {tuple(labels.shape)} and weights {tuple(weights.shape)} must have one shape")
    return labels.where(weights != 0, -1)
