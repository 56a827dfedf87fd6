"""The SharpMask meta-architecture: DeepMask with a top-down refinement (arXiv 1603.08695).

Its parameters are those of DeepMask, under the same names, and ``refinement.*``, so that a DeepMask
checkpoint is where its training starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor

from instseg_d2.errors import ConfigError
from instseg_d2.weights.report import LoadReport

from .deepmask import DeepMask, per_patch, rows_of_kind
from .loaded_weights import check_start
from .multiscale import Multiscale
from .options import choose
from .refinement import Refinement, build_refinement

OUTPUTS = {"sharp": True, "coarse": False}


@META_ARCH_REGISTRY.register()
class SharpMask(DeepMask):
    """DeepMask whose masks, of the window's size, are refined by the features on the way down."""

    @configurable
    def __init__(
        self,
        *,
        refinement: Refinement | Multiscale,
        skip_features: Sequence[str],
        freeze_feedforward: bool = True,
        output: str = "sharp",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            refinement: see :mod:`.refinement`.
            skip_features: names of the features that it reads, from deep to shallow.
            freeze_feedforward: train nothing but the refinement.
            output: ``sharp``, or ``coarse`` to leave the refinement out in inference.
            kwargs: of :class:`DeepMask`; ``mask_size`` is W here.

        Raises:
            ConfigError: as of :class:`DeepMask`, or an unknown output.
        """
        super().__init__(**kwargs)
        choose(OUTPUTS, output, "MODEL.SHARP_MASK.OUTPUT")
        self.refinement = refinement
        self.skip_features = tuple(skip_features)
        self.freeze_feedforward = freeze_feedforward
        self.output = output
        if freeze_feedforward:
            self.backbone.requires_grad_(False)
            self.head.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node = cfg.MODEL.SHARP_MASK
        args = super().from_config(cfg)
        backbone, head = args["backbone"], args["head"]
        shapes = backbone.output_shape()
        skips = skip_feature_names(backbone, args["feature"])
        return {
            **args,
            "mask_size": node.WINDOW_SIZE,
            "refinement": build_refinement(
                cfg, [shapes[name].channels for name in skips], head.cells
            ),
            "skip_features": skips,
            "freeze_feedforward": node.FREEZE_FEEDFORWARD,
            "output": node.OUTPUT,
        }

    def train(self, mode: bool = True) -> SharpMask:
        """As of any module, but what is frozen stays in eval mode."""
        super().train(mode)
        if self.freeze_feedforward:
            self.backbone.eval()
            self.head.eval()
        return self

    def check_loaded(self, report: LoadReport | None, weights: str) -> None:
        """See that training may start from what was loaded: :func:`.loaded_weights.check_start`.

        Args:
            report: of the loading; None if nothing was loaded.
            weights: the file.

        Raises:
            WeightsError: it may not; the message says what the file is of.
        """
        frozen = self.freeze_feedforward
        check_start(report, weights, self.head.in_words(), frozen=frozen)

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """
        Returns:
            ``loss_mask``, of the sharp masks. With nothing frozen also ``loss_score``, and
            ``loss_coarse`` of the coarse masks, so that these stay of use. All are weighted.
        """
        rows = rows_of_kind(batched_inputs, "mask")
        patches = self.preprocess(batched_inputs)
        if self.freeze_feedforward:
            with torch.no_grad():
                features, output = self.patch_output(patches[rows])
            encodings = output.encoding.flatten(1)
            logits = self.sharp_masks(encodings, self.skips(features))
            return {"loss_mask": self.mask_loss(logits, batched_inputs)}
        features, output = self.patch_output(patches)
        encodings = output.encoding.flatten(1)[rows]
        skips = self.skips({name: features[name][rows] for name in self.skip_features})
        coarse = self.coarse_masks(encodings, self.window_size)
        sharp = self.sharp_masks(encodings, skips)
        return {
            "loss_mask": self.mask_loss(sharp, batched_inputs),
            "loss_coarse": self.mask_loss(coarse, batched_inputs),
            "loss_score": self.score_loss(output.score_logits.flatten(), batched_inputs),
        }

    def predict_patches(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """As of :class:`DeepMask`, with both masks.

        Returns:
            per patch ``mask_logits`` (W, W), ``coarse_logits`` (W, W) and ``score_logit`` (),
            float. With ``output`` ``coarse`` both masks are the coarse one.
        """
        features, output = self.patch_output(self.preprocess(batched_inputs))
        encodings = output.encoding.flatten(1)
        coarse = self.coarse_masks(encodings, self.window_size)
        sharp = coarse
        if OUTPUTS[self.output]:
            sharp = self.sharp_masks(encodings, self.skips(features))
        scores = output.score_logits.flatten()
        return per_patch(mask_logits=sharp, coarse_logits=coarse, score_logit=scores)

    # ---- the steps, which whole images take as well ----------------------------------------------

    def skips(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """What of the refinement the windows share, of features of windows or of a whole image.

        Patches lose their context before, as in FAIR's code: the refinement sees mirrored
        surroundings beyond a window's edge in training. In a whole image it sees the real ones.
        """
        return self.refinement.skips([features[name] for name in self.skip_features])

    def sharp_masks(self, encodings: Tensor, skip_windows: Sequence[Tensor]) -> Tensor:
        """Encodings (n, D) and their windows of :meth:`skips` -> mask logits (n, W, W)."""
        coarse = self.head.masks(encodings) if self.refinement.needs_coarse_masks else None
        return self.refinement(encodings, skip_windows, coarse)

    def window_maps(self, features: dict[str, Tensor]) -> dict[int, Tensor]:
        """As of :class:`DeepMask`: :meth:`skips` by stride; with ``output`` ``coarse`` nothing."""
        if not OUTPUTS[self.output]:
            return {}
        strides = [self.strides[name] for name in self.skip_features]
        one_by_one = (features.pop(name) for name in self.skip_features)
        return dict(zip(strides, self.refinement.skips(one_by_one), strict=True))

    def window_masks(self, encodings: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """As of :class:`DeepMask`: sharp masks, or coarse ones with ``output`` ``coarse``."""
        if not OUTPUTS[self.output]:
            return self.coarse_masks(encodings, self.window_size)
        return self.sharp_masks(encodings, maps)


def skip_feature_names(backbone: Backbone, feature: str) -> list[str]:
    """The features that are merged on the way from the trunk's feature to stride 2, deep first.

    Raises:
        ConfigError: the backbone does not give them all.
    """
    shapes = backbone.output_shape()
    by_stride = {spec.stride: name for name, spec in shapes.items()}
    by_stride[shapes[feature].stride] = feature
    strides, stride = [], shapes[feature].stride
    while stride >= 2:
        strides.append(stride)
        stride //= 2
    absent = [str(stride) for stride in strides if stride not in by_stride]
    if absent:
        given = ", ".join(f"{name} ({spec.stride})" for name, spec in shapes.items())
        raise ConfigError(
            f"SharpMask on MODEL.SHARP_MASK.TRUNK.FEATURE {feature} needs features of the strides "
            f"{', '.join(map(str, strides))}; the backbone gives {given}. Add those of "
            f"{', '.join(absent)} to its OUT_FEATURES (MODEL.RESNETS or MODEL.VGG)"
        )
    return [by_stride[stride] for stride in strides]
