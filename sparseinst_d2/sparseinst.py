"""The SparseInst meta-architecture: images in, losses or instances out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn

from instseg_d2.inference import StaticPart

from .criterion import StepTotals, build_criterion
from .decoder import BaseIAMDecoder, InstanceOutputs, build_decoder, mask_logits
from .encoder import build_encoder
from .postprocess import PostprocessOptions, finish, select


@META_ARCH_REGISTRY.register()
class SparseInst(nn.Module):
    """Sparse Instance Activation for Real-Time Instance Segmentation (arXiv 2203.12827)."""

    pixel_mean: Tensor
    pixel_std: Tensor
    static_part = StaticPart("network", ("backbone", "encoder", "decoder"))

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        encoder: nn.Module,
        decoder: nn.Module,
        criterion: nn.Module | None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 32,
        postprocess: PostprocessOptions | None = None,
    ) -> None:
        """
        Args:
            backbone: gives the features that the encoder reads.
            encoder: feature dict -> (B, C, h, w).
            decoder: (B, C, h, w) -> output dict, see :class:`.decoder.BaseIAMDecoder`.
            criterion: needed for training only.
            pixel_mean, pixel_std: per channel, in the order and range of the input image.
            size_divisibility: inputs are padded to a multiple of this (and of the backbone's own).
            postprocess: thresholds and limits of the inference.
        """
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.decoder = decoder
        self.criterion = criterion
        self.size_divisibility = math.lcm(size_divisibility, backbone.size_divisibility or 1)
        self.postprocess_options = postprocess or PostprocessOptions()
        self.register_buffer("pixel_mean", _per_channel(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", _per_channel(pixel_std), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.SPARSE_INST
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        encoder = build_encoder(cfg, shapes)
        return {
            "backbone": backbone,
            "encoder": encoder,
            "decoder": build_decoder(cfg, cast(int, encoder.out_channels)),
            "criterion": build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": max(shapes[name].stride for name in node.ENCODER.IN_FEATURES),
            "postprocess": PostprocessOptions(
                cls_threshold=node.CLS_THRESHOLD,
                mask_threshold=node.MASK_THRESHOLD,
                score_threshold=node.SCORE_THRESHOLD,
                max_detections=node.MAX_DETECTIONS,
            ),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]], step_totals: StepTotals | None = None
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict an image: ``image`` (3, H, W) in ``INPUT.FORMAT``, 0..255;
                ``instances`` for training, with ``gt_classes`` and ``gt_masks``; ``height`` and
                ``width``, the size wanted for the output (default: that of ``image``).
            step_totals: in training, of :meth:`step_totals` where the batch is a part of a step.

        Returns:
            training: the weighted losses. Inference: per image ``{"instances": Instances}``, see
            :func:`.postprocess.finish`.
        """
        images = self.preprocess(batched_inputs)
        outputs = self.network(images.tensor)
        if self.training:
            return self._losses(outputs, batched_inputs, images, step_totals)
        return self.postprocess(outputs, batched_inputs, images)

    def step_totals(self, batches: Sequence[list[dict[str, Any]]]) -> StepTotals:
        """What the losses of each batch of one optimiser step are normalised by; see
        :mod:`instseg_d2.engine.accumulation`.

        Args:
            batches: of this process, as :meth:`forward` takes them.
        """
        counts = [len(inputs["instances"]) for batch in batches for inputs in batch]
        return StepTotals.of(counts)

    def network(self, images: Tensor) -> InstanceOutputs:
        """All that depends on the images by their size alone: what to compile for inference.

        Args:
            images: (B, 3, H, W), normalised and padded.
        """
        feature = self.encoder(self.backbone(images))
        return cast(BaseIAMDecoder, self.decoder).instances(feature)

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, pad with zeros to a common, divisible size, and stack: (B, 3, H, W)."""
        images = [
            (inputs["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for inputs in batched_inputs
        ]
        return ImageList.from_tensors(images, self.size_divisibility)

    def _losses(
        self,
        outputs: InstanceOutputs,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        totals: StepTotals | None,
    ) -> dict[str, Tensor]:
        if self.criterion is None:
            raise ValueError("this SparseInst was built without a criterion: it cannot be trained")
        gt_instances = [
            with_bitmasks(inputs["instances"]).to(self.device) for inputs in batched_inputs
        ]
        predictions = {
            "pred_logits": outputs.pred_logits,
            "pred_masks": mask_logits(outputs.kernels, outputs.mask_features),
            "pred_scores": outputs.pred_scores,
        }
        height, width = images.tensor.shape[-2:]
        # Upsampled in the criterion, where only the matched masks are, a few at a time.
        scale_factor = cast(BaseIAMDecoder, self.decoder).scale_factor
        # A criterion of somebody else's need not know of totals until they are asked for.
        more = {} if totals is None else {"totals": totals}
        return self.criterion(predictions, gt_instances, (height, width), scale_factor, **more)

    def postprocess(
        self,
        outputs: InstanceOutputs,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        more: Mapping[str, Tensor] | None = None,
    ) -> list[dict[str, Instances]]:
        """Instances and the masks of those that are kept, per image at the size asked for.

        Args:
            outputs: of :meth:`network`.
            batched_inputs: see :meth:`forward`.
            images: see :meth:`preprocess`.
            more: further fields of the instances by name, (B, N, ...).

        Returns:
            ``{"instances": Instances}`` per image.
        """
        height, width = images.tensor.shape[-2:]
        results = []
        for index, (inputs, image_size) in enumerate(
            zip(batched_inputs, images.image_sizes, strict=True)
        ):
            options = self.postprocess_options
            logits, scores, kernels, features = (output[index] for output in outputs)
            selected = select(logits, scores, options)
            instances = finish(
                selected,
                mask_logits(kernels[selected.index], features),
                scale_factor=cast(BaseIAMDecoder, self.decoder).scale_factor,
                padded_size=(height, width),
                image_size=image_size,
                output_size=(
                    int(inputs.get("height", image_size[0])),
                    int(inputs.get("width", image_size[1])),
                ),
                options=options,
                more={name: values[index][selected.index] for name, values in (more or {}).items()},
            )
            results.append({"instances": instances})
        return results


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def with_bitmasks(instances: Instances) -> Instances:
    """The same ground truth with ``gt_masks`` as bitmasks: other mappers may give polygons."""
    masks = instances.gt_masks
    if isinstance(masks, BitMasks):
        return instances
    result = Instances(instances.image_size, **instances.get_fields())
    result.gt_masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    return result
