"""The DeepMask meta-architecture (arXiv 1506.06204; heads and trunks of arXiv 1603.08695).

Shape shorthand: B patches, W side of the window that a mask covers, P = W + 2 * context side of a
patch, D length of an encoding, n patches with a mask among the B, or windows of a whole image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from instseg_d2.errors import ConfigError
from instseg_d2.stage_clock import NO_CLOCK, NoClock

from .full_image import propose
from .heads import Head, HeadOutput, resize_masks
from .losses import mask_loss, score_loss
from .options import choose, require_at_least
from .proposal_options import ProposalOptions

NODE = "MODEL.SHARP_MASK"
KINDS = {"mask": "mask", "score": "score"}


@META_ARCH_REGISTRY.register()
class DeepMask(nn.Module):
    """For each window a mask of the object centred in it, and how likely there is one."""

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: Head,
        feature: str,
        window_size: int = 160,
        context: int = 16,
        mask_size: int = 112,
        mask_weight: float = 32.0,
        score_weight: float = 1.0,
        proposals: ProposalOptions = ProposalOptions(),  # noqa: B008  (frozen)
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: gives ``feature``.
            head: reads it.
            feature: name of the trunk's feature.
            window_size, context: W, and the pixels around it in a patch.
            mask_size: side of the masks that are compared with the truth in training.
            mask_weight, score_weight: of the two losses.
            proposals: what is wanted of whole images.
            pixel_mean, pixel_std: per channel, in the order and range of the input image.

        Raises:
            ConfigError: see :func:`check_trunk`, or a size below 1.
        """
        super().__init__()
        check_trunk(backbone, feature, window_size, context)
        require_at_least(1, mask_size, f"{NODE}.LOSS.MASK_SIZE")
        self.backbone = backbone
        self.head = head
        self.feature = feature
        self.window_size = window_size
        self.context = context
        self.mask_size = mask_size
        self.mask_weight = mask_weight
        self.score_weight = score_weight
        self.proposals = proposals
        self.strides = {name: spec.stride for name, spec in backbone.output_shape().items()}
        self.register_buffer("pixel_mean", _per_channel(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", _per_channel(pixel_std), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.SHARP_MASK
        backbone = build_backbone(cfg)
        feature = node.TRUNK.FEATURE
        check_trunk(backbone, feature, node.WINDOW_SIZE, node.CONTEXT)
        spec = backbone.output_shape()[feature]
        return {
            "backbone": backbone,
            "head": Head(cfg, spec.channels, node.WINDOW_SIZE // spec.stride),
            "feature": feature,
            "window_size": node.WINDOW_SIZE,
            "context": node.CONTEXT,
            "mask_size": node.LOSS.MASK_SIZE,
            "mask_weight": node.LOSS.MASK_WEIGHT,
            "score_weight": node.LOSS.SCORE_WEIGHT,
            "proposals": ProposalOptions.from_config(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def stride(self) -> int:
        """Pixels between neighbouring windows: the stride of the trunk's feature."""
        return self.strides[self.feature]

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[Any]:
        """
        Args:
            batched_inputs: patches or, in eval mode, whole images; only patches have ``kind``.

                A patch: ``image`` (3, P, P) in ``INPUT.FORMAT``, 0..255; ``kind``: ``mask``, then
                for training with ``gt_mask`` (s, s) bool, the window without its context, s the
                ``mask_size``; or ``score``, then with ``label``, +1 for an object and -1 for none.

                A whole image: see :meth:`predict_images`.

        Returns:
            training: ``loss_mask`` and ``loss_score``, weighted. Inference: what
            :meth:`predict_patches` or :meth:`predict_images` gives.

        Raises:
            ConfigError: patches or masks of another size, whole images in training, or both
                patches and whole images.
        """
        are_patches = ["kind" in inputs for inputs in batched_inputs]
        if self.training:
            if not all(are_patches):
                raise ConfigError(
                    "a whole image came in for training, which goes by patches: they come from the "
                    "patch mapper and have the key 'kind'. For the proposals of an image call "
                    "model.eval() before"
                )
            return self.losses(batched_inputs)
        if any(are_patches):
            if not all(are_patches):
                raise ConfigError(
                    "patches (with the key 'kind') and whole images (without) came in one batch; "
                    "give them apart"
                )
            return self.predict_patches(batched_inputs)
        return self.predict_images(batched_inputs)

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The weighted losses of patches, see :meth:`forward`."""
        _, output = self.patch_output(self.preprocess(batched_inputs))
        rows = rows_of_kind(batched_inputs, "mask")
        logits = self.coarse_masks(output.encoding.flatten(1)[rows], self.mask_size)
        return {
            "loss_mask": self.mask_loss(logits, batched_inputs),
            "loss_score": self.score_loss(output.score_logits.flatten(), batched_inputs),
        }

    def predict_patches(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Masks and scores of patches.

        Args:
            batched_inputs: dicts with ``image``, see :meth:`forward`.

        Returns:
            per patch ``mask_logits`` (W, W) and ``score_logit`` (), float.

        Raises:
            ConfigError: patches of another size.
        """
        _, output = self.patch_output(self.preprocess(batched_inputs))
        masks = self.coarse_masks(output.encoding.flatten(1), self.window_size)
        return per_patch(mask_logits=masks, score_logit=output.score_logits.flatten())

    @torch.no_grad()
    def predict_images(
        self, batched_inputs: list[dict[str, Any]], clock: NoClock = NO_CLOCK
    ) -> list[dict[str, Instances]]:
        """Proposals of whole images, one after the other.

        Args:
            batched_inputs: one dict an image: ``image`` (3, h, w) in ``INPUT.FORMAT``, 0..255, of
                any dtype and size; ``height`` and ``width`` (H, W) of the output, by default those
                of the image; ``file_name`` and ``image_id``, if known, are for messages.
            clock: measures stages, see :func:`.full_image.propose`.

        Returns:
            per image ``proposals``: ``Instances`` of size (H, W), best first, at most
            ``proposals.num``: ``pred_masks`` (:class:`RLEMasks`, none empty), ``proposal_boxes``
            (``Boxes``: tight around the mask; XYXY, right and bottom exclusive) and
            ``objectness_logits`` (float32).

        Raises:
            DataError: an image of another shape, or a model that puts out NaN or infinity.
        """
        return [{"proposals": propose(self, inputs, clock)} for inputs in batched_inputs]

    # ---- the steps, which whole images take as well ----------------------------------------------

    def normalise(self, image: Tensor) -> Tensor:
        """(3, H, W) or (B, 3, H, W), 0..255, of any dtype and device -> what the backbone reads."""
        return (image.to(self.device) - self.pixel_mean) / self.pixel_std

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """Patches, normalised and stacked: (B, 3, P, P)."""
        side = self.window_size + 2 * self.context
        for inputs in batched_inputs:
            height, width = inputs["image"].shape[-2:]
            if (height, width) != (side, side):
                raise ConfigError(
                    f"a patch of {height} x {width} pixels came in; {NODE}.WINDOW_SIZE "
                    f"{self.window_size} and {NODE}.CONTEXT {self.context} need {side} x {side}"
                )
        return self.normalise(torch.stack([inputs["image"] for inputs in batched_inputs]))

    def crop_context(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features of patches without the cells of the context: W / stride cells a side."""
        return {
            name: _cut_border(value, self.context // self.strides[name])
            for name, value in features.items()
        }

    def patch_output(self, patches: Tensor) -> tuple[dict[str, Tensor], HeadOutput]:
        """(B, 3, P, P) -> the features of the windows and the head's answer, h' = w' = 1."""
        features = self.crop_context(self.backbone(patches))
        return features, self.head(features[self.feature])

    def coarse_masks(self, encodings: Tensor, size: int) -> Tensor:
        """Encodings (n, D) -> mask logits (n, size, size)."""
        return resize_masks(self.head.masks(encodings), size)

    def window_maps(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """What the masks of all windows share, dense maps (B, ., h', w') by stride: nothing here.

        Args:
            features: of a whole image, by name. What is used is taken out of it: features are the
                largest tensors of all, and each can go before the next, larger one is worked on.
        """
        return {}

    def window_masks(self, encodings: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """The masks that the model answers with for windows of a whole image.

        Args:
            encodings: (n, D).
            maps: those of :meth:`window_maps`, in their order, cut to the windows.

        Returns:
            logits (n, W, W).
        """
        return self.coarse_masks(encodings, self.window_size)

    # ---- losses ----------------------------------------------------------------------------------

    # FAIR's batches are either all masks or all scores, by chance, and the mask's gradient is
    # multiplied by the batch of 32. Dividing the sum over each kind by the whole batch is equal to
    # that in expectation.

    def mask_loss(self, logits: Tensor, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """The weighted loss of mask logits (n, s, s), one per patch of kind ``mask``."""
        targets = [inputs["gt_mask"] for inputs in batched_inputs if inputs["kind"] == "mask"]
        for target in targets:
            if target.shape != logits.shape[1:]:
                raise ConfigError(
                    f"a gt_mask of size {tuple(target.shape)} came in; {tuple(logits.shape[1:])} "
                    f"is wanted ({NODE}.LOSS.MASK_SIZE for DeepMask, WINDOW_SIZE for SharpMask)"
                )
        gt_masks = torch.stack(targets) if targets else logits.new_zeros(logits.shape)
        loss = mask_loss(logits.float(), gt_masks.to(logits.device))
        return self.mask_weight * loss / len(batched_inputs)

    def score_loss(self, logits: Tensor, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """The weighted loss of score logits (B,), of which those of kind ``score`` count."""
        rows = rows_of_kind(batched_inputs, "score")
        labels = torch.tensor([batched_inputs[row]["label"] for row in rows], device=logits.device)
        loss = score_loss(logits[rows].float(), labels)
        return self.score_weight * loss / len(batched_inputs)


def check_trunk(backbone: Backbone, feature: str, window_size: int, context: int) -> None:
    """See that the backbone ends with the feature and that its cells fit the window.

    Raises:
        ConfigError: it does not, or they do not.
    """
    shapes = backbone.output_shape()
    if feature not in shapes:
        raise ConfigError(
            f"{NODE}.TRUNK.FEATURE is {feature!r}, but the backbone gives {', '.join(shapes)}; "
            "its OUT_FEATURES (MODEL.RESNETS or MODEL.VGG) say which"
        )
    stride = shapes[feature].stride
    # Of one stride (with dilation) the later name is deeper.
    deeper = [name for name, spec in shapes.items() if (spec.stride, name) > (stride, feature)]
    if deeper:
        raise ConfigError(
            f"the backbone gives {', '.join(deeper)}, deeper than {NODE}.TRUNK.FEATURE {feature}: "
            "nothing would read or train that; leave it out of its OUT_FEATURES (MODEL.RESNETS or "
            "MODEL.VGG)"
        )
    for key, value, least in (("WINDOW_SIZE", window_size, stride), ("CONTEXT", context, 0)):
        if value % stride or value < least:
            raise ConfigError(
                f"{NODE}.{key} is {value}, but must be a multiple of {stride}, the stride of "
                f"{NODE}.TRUNK.FEATURE {feature}"
            )


def rows_of_kind(batched_inputs: list[dict[str, Any]], kind: str) -> list[int]:
    """Where in the batch the patches of one kind are."""
    kinds = [choose(KINDS, inputs["kind"], "kind") for inputs in batched_inputs]
    return [row for row, value in enumerate(kinds) if value == kind]


def _cut_border(feature: Tensor, cells: int) -> Tensor:
    height, width = feature.shape[-2:]
    return feature[..., cells : height - cells, cells : width - cells]


def per_patch(**values: Tensor) -> list[dict[str, Tensor]]:
    """Stacked answers -> one dict a patch, in float32."""
    rows = zip(*(value.float() for value in values.values()), strict=True)
    return [dict(zip(values, row, strict=True)) for row in rows]


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
