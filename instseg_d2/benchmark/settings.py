"""What is to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.inference import InferenceOptions

PLAIN = "plain"
#: Height and width of the commonest image in COCO.
COCO_SIZE = (480, 640)


@dataclass(frozen=True)
class Settings:
    """Of one run.

    Attributes:
        config: path or name of a config.
        overrides: ``[KEY, VALUE, ...]``, of both configs. Weights are random unless
            ``MODEL.WEIGHTS`` is among them.
        size: (height, width) of the image, which the model then takes as it is; None for
            :data:`COCO_SIZE`, resized as the config says.
        output_size: (height, width) that results are wanted at; None for the image's.
        batch: images in a batch.
        device: "cpu" or "cuda"; "" for ``MODEL.DEVICE`` of the overrides, or what there is.
        precision: "float32", "bfloat16" or "float16", of the product.
        against_precision: of the other side; "" for the same.
        compile, graphs: see ``MODEL.INFERENCE.COMPILE`` and ``CUDA_GRAPHS``; of the product alone.
        against: :data:`PLAIN`, another config, or "" for nothing.
        rounds: in which every side has its turn.
        kept: so many instances are left of each image; 0: as many as the config's thresholds leave.
        objects: in every image, in training.
        images: of the data sets that are loaded or evaluated; 0 for the mode's default.
        operators: also measure what operators take.
    """

    config: str
    overrides: Sequence[str] = ()
    size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    batch: int = 1
    device: str = ""
    precision: str = "float32"
    against_precision: str = ""
    compile: bool = False
    graphs: bool = False
    against: str = ""
    rounds: int = 7
    kept: int = 30
    objects: int = 30
    images: int = 0
    operators: bool = False

    def cfg(self) -> CfgNode:
        """The config of the product."""
        cfg = self._load(self.config)
        cfg.MODEL.INFERENCE.PRECISION = self.precision
        cfg.MODEL.INFERENCE.COMPILE = cfg.MODEL.INFERENCE.COMPILE or self.compile
        cfg.MODEL.INFERENCE.CUDA_GRAPHS = cfg.MODEL.INFERENCE.CUDA_GRAPHS or self.graphs
        return cfg

    def other_cfg(self) -> CfgNode | None:
        """The config of the other side; None for nothing."""
        if not self.against:
            return None
        cfg = self._load(self.config if self.against == PLAIN else self.against)
        cfg.MODEL.INFERENCE.PRECISION = self.against_precision or self.precision
        if self.against == PLAIN:  # its backbone is Detectron2's as it is
            cfg.MODEL.JOIN_FROZEN_NORMS = cfg.MODEL.RECOMPUTE_FIRST_STAGES = False
        return cfg

    def _load(self, config: str) -> CfgNode:
        cfg = load_config(config, self.overrides)
        cfg.defrost()
        if self.device:
            cfg.MODEL.DEVICE = self.device
        elif "MODEL.DEVICE" not in self.overrides[::2]:
            cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        if self.size:
            cfg.INPUT.MIN_SIZE_TEST = 0
        return cfg

    @property
    def has_weights(self) -> bool:
        """Whether weights are given."""
        pairs = dict(zip(self.overrides[::2], self.overrides[1::2], strict=True))
        return bool(pairs.get("MODEL.WEIGHTS"))

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image as it is read."""
        return self.size or COCO_SIZE


def dtype_of(cfg: CfgNode) -> torch.dtype:
    """That of ``MODEL.INFERENCE.PRECISION``; raises as :meth:`InferenceOptions.from_config`."""
    return InferenceOptions.from_config(cfg).dtype


def require_architecture(cfg: CfgNode, names: Sequence[str], what: str) -> None:
    """
    Raises:
        ConfigError: the config is of another architecture.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in names:
        raise ConfigError(
            f"{what} is there for {' and '.join(names)}, but MODEL.META_ARCHITECTURE is {name}"
        )
