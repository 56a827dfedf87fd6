"""What ``MODEL.INFERENCE`` says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from instseg_d2.errors import ConfigError
from instseg_d2.half_precision import check_half_precision

PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class InferenceOptions:
    """How a model is prepared for inference; see :func:`.prepare_for_inference`.

    Attributes:
        fold_norms: batch norms, and other linear steps, become part of the convolutions before
            them.
        channels_last: that memory layout, on the CPU and in half precision.
        precision: a key of :data:`PRECISIONS`, of the network. Its outputs are float32.
        compile: the network goes through ``torch.compile``, on its first use.
        cuda_graphs: on a GPU the network is recorded once for each input size, and replayed.
    """

    fold_norms: bool = True
    channels_last: bool = True
    precision: str = "float32"
    compile: bool = False
    cuda_graphs: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceOptions:
        """``MODEL.INFERENCE``, for ``MODEL.DEVICE``.

        Raises:
            ConfigError: an unknown precision, or one that the CPU cannot do.
            DeviceError: a precision that the GPU has no arithmetic for.
        """
        node = cfg.MODEL.INFERENCE
        key = "MODEL.INFERENCE.PRECISION"
        if node.PRECISION not in PRECISIONS:
            raise ConfigError(f"{key} is {node.PRECISION!r}; known are {', '.join(PRECISIONS)}")
        if node.PRECISION != "float32":
            check_half_precision(PRECISIONS[node.PRECISION], cfg.MODEL.DEVICE, key)
        return cls(
            fold_norms=node.FOLD_NORMS,
            channels_last=node.CHANNELS_LAST,
            precision=node.PRECISION,
            compile=node.COMPILE,
            cuda_graphs=node.CUDA_GRAPHS,
        )

    @property
    def dtype(self) -> torch.dtype:
        """That of ``precision``."""
        return PRECISIONS[self.precision]
