"""Fast R-CNN (arXiv 1504.08083) on segment proposals, as in section 5 of SharpMask's paper.

The detector is Detectron2's ``GeneralizedRCNN`` with ``PrecomputedProposals``: proposals come from
a file, ``DATASETS.PROPOSAL_FILES_TRAIN`` and ``_TEST``. Here is what it lacks for VGG-16: the two
fully connected layers that dropout follows, as ImageNet's classifier has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from torch import nn

from instseg_d2.errors import ConfigError


def add_fast_rcnn_config(cfg: CfgNode) -> None:
    """Add what :class:`FastRCNNDropoutHead` reads beside Detectron2's own keys, in place."""
    # Probability of dropout after each fully connected layer (FastRCNNDropoutHead only).
    cfg.MODEL.ROI_BOX_HEAD.DROPOUT = 0.5


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNDropoutHead(FastRCNNConvFCHead):
    """Detectron2's box head with dropout after every fully connected layer.

    (R, C, h, w) pooled features -> (R, last of ``fc_dims``), not negative. Names and shapes of the
    parameters are those of ``FastRCNNConvFCHead``, so that weights of either are weights of the
    other. With ``fc_dims`` (4096, 4096) on 512 x 7 x 7 features ``fc1`` and ``fc2`` are VGG-16's
    fc6 and fc7.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: Sequence[int] = (),
        fc_dims: Sequence[int] = (4096, 4096),
        conv_norm: str = "",
        dropout: float = 0.5,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the pooled features.
            conv_dims: channels of 3x3 convolutions before the fully connected layers.
            fc_dims: widths of the fully connected layers.
            conv_norm: of the convolutions; see :func:`detectron2.layers.get_norm`.
            dropout: probability that a value is left out in training.

        Raises:
            ConfigError: there are no fully connected layers, or ``dropout`` is no probability.
        """
        if not fc_dims:
            raise ConfigError("MODEL.ROI_BOX_HEAD.NUM_FC is 0, but FastRCNNDropoutHead needs some")
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(
                f"MODEL.ROI_BOX_HEAD.DROPOUT is {dropout}, but must be at least 0 and below 1"
            )
        super().__init__(
            input_shape, conv_dims=list(conv_dims), fc_dims=list(fc_dims), conv_norm=conv_norm
        )
        for number in range(1, len(fc_dims) + 1):
            # In the place of the ReLU, because a Sequential runs in the order of its entries.
            self.add_module(f"fc_relu{number}", nn.Sequential(nn.ReLU(), nn.Dropout(dropout)))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        options: dict[str, Any] = super().from_config(cfg, input_shape)
        return {**options, "dropout": cfg.MODEL.ROI_BOX_HEAD.DROPOUT}
