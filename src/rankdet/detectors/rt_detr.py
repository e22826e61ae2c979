"""RT-DETR (Zhao et al., CVPR 2024, arXiv:2304.08069), for standard and ranking losses.

Legend: B images, H heads, Q queries of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image

from rankdet.backbones import Backbone, HybridEncoder
from rankdet.heads import DecoderOutputs, Denoising, NoisedQueries, QueryDecoder, padding_of, query_candidates
from rankdet.heads.anchors import sizes_of
from rankdet.label_assignment import HungarianAssigner, pad_objects
from rankdet.ranges import Count, Fraction, checked
from rankdet.structures import Batch, Candidates, Detection, Images


@checked
@dataclass(frozen=True)
class QueryDetectionSettings:
    """Which queries become detections: nothing is suppressed, for each object has one query.

    Parameters
    ----------
    score_threshold
        Pairs of query and class up to this score are dropped.
    per_image
        Most detections of an image: the best pairs of query and class.
    """

    score_threshold: Fraction = 0.0
    per_image: Count = 100

    def select(self, boxes: Tensor, scores: Tensor) -> Detection:
        """Return detections among boxes (Q, 4) with scores (Q, C)."""
        best, pairs = scores.flatten().topk(min(self.per_image, scores.numel()))
        num_classes = scores.shape[1]
        found = Detection(boxes[pairs // num_classes], best, pairs % num_classes)
        return found.select(best > self.score_threshold)


@checked
class RTDETR(nn.Module):
    """Backbone, hybrid encoder, query selection and decoder; each object is matched with one query.

    Heads of the losses are ``"encoder"``, the cells that become queries; ``"denoising1"``, ``"denoising2"``, …, the
    noised queries behind each layer of the decoder; and ``"decoder1"``, ``"decoder2"``, …, the queries behind each
    layer. The last layer detects. Each head is a pool of its own, in which queries of all images of the batch compete.

    The standard form and that of Rank & Sort Loss differ in their losses alone. Neither looks at ``self.training``;
    only batch normalization does, which ``groups`` of encoder and decoder replace. All parts and settings are public
    attributes and may be replaced.

    Parameters
    ----------
    num_classes
        Number of classes C.
    backbone
        Network from images to feature maps, all of which are used: strides 8, 16 and 32 of a large network.
    pyramid_channels
        Channels of the hybrid encoder.
    encoder
        Pyramid, from the channels of the backbone's maps and its own.
    decoder
        Query selection and decoder, from the channels and levels of the pyramid, and C.
    denoising
        Queries made of objects, in training alone, from C and the channels of the decoder; None: none.
    assigner
        Matches objects with queries, in each head anew.
    testing
        From scores to detections.

    Notes
    -----
    Boxes are regressed as parts of their own image, without padding. Cells of the padding are attended to by none, and
    become queries last. The published code resizes all images to one size, where this makes no difference.

    Examples
    --------
    >>> from functools import partial
    >>> from rankdet.backbones import TinyBackbone
    >>> from rankdet.structures import Source, Target
    >>> encoder = partial(HybridEncoder, heads=2, feedforward=16, blocks=1, groups=4)
    >>> decoder = partial(QueryDecoder, channels=16, queries=20, layers=2, heads=2, feedforward=16, groups=4)
    >>> backbone = TinyBackbone((8, 16))
    >>> detector = RTDETR(3, backbone=backbone, pyramid_channels=16, encoder=encoder, decoder=decoder, denoising=None)
    >>> images = Images(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ((64, 64),))
    >>> target = Target(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([2]))
    >>> heads = detector(Batch(images, (target,), (Source(0, "0.png", (64, 64)),)))
    >>> [(candidates.head, len(candidates.labels)) for candidates in heads]
    [('encoder', 20), ('decoder1', 20), ('decoder2', 20)]
    >>> len(detector.detect(images)[0].boxes)
    60
    """

    def __init__(
        self,
        num_classes: Count,
        *,
        backbone: Backbone,
        pyramid_channels: Count = 256,
        encoder: Callable[..., HybridEncoder] = HybridEncoder,
        decoder: Callable[..., QueryDecoder] = QueryDecoder,
        denoising: Callable[..., Denoising] | None = Denoising,
        assigner: HungarianAssigner = HungarianAssigner(),
        testing: QueryDetectionSettings = QueryDetectionSettings(),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.encoder = encoder(backbone.channels, pyramid_channels)
        self.decoder = decoder(pyramid_channels, len(backbone.channels), num_classes)
        self.denoising = None if denoising is None else denoising(num_classes, self.decoder.channels)
        self.assigner = assigner
        self.detection = testing

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of each head, each one pool over the images of the batch.

        The host waits for the device once, to match queries and objects.
        """
        objects = pad_objects(batch.targets, batch.images.sizes, self.num_classes)
        noised = None if self.denoising is None else self.denoising(objects)
        outputs = self._outputs(batch.images, noised)
        heads = [outputs.selected, *outputs.layers]
        logits, boxes = (torch.stack(parts) for parts in zip(*heads, strict=True))
        matchings = self.assigner(logits, boxes, objects)
        names = ["encoder", *(f"decoder{number}" for number, _ in enumerate(outputs.layers, start=1))]
        first, *others = (
            query_candidates(name, head, matching, objects)
            for name, head, matching in zip(names, heads, matchings, strict=True)
        )
        of_noised = (
            []
            if noised is None
            else [
                query_candidates(f"denoising{number}", head, noised.matching, objects, noised.labels)
                for number, head in enumerate(outputs.noised, start=1)
            ]
        )
        return [first, *of_noised, *others]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Return detections of each image in its own pixels, without padding."""
        logits, boxes = self._outputs(images).layers[-1]
        found = []
        for own_logits, own_boxes, (height, width) in zip(logits, boxes, images.sizes, strict=True):
            pixels = box_convert(own_boxes, "cxcywh", "xyxy") * own_boxes.new_tensor([width, height, width, height])
            clipped = clip_boxes_to_image(pixels, (height, width))
            found.append(self.detection.select(clipped, own_logits.float().sigmoid()))
        return found

    def _outputs(self, images: Images, noised: NoisedQueries | None = None) -> DecoderOutputs:
        maps = self.backbone(images)
        height, width = images.pixels.shape[-2:]
        padding = padding_of(sizes_of(maps), (height, width), images.sizes, images.pixels.device)
        pyramid = self.encoder(maps, None if padding is None else padding.inside[-1])
        outputs: DecoderOutputs = self.decoder(pyramid, padding, noised)
        return outputs
