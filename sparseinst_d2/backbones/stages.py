"""What the backbones on timm's modules share: features by stage, kinds of norms, freezing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import Backbone
from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn

from instseg_d2.errors import ConfigError

NORMS = ("", "BN", "FrozenBN", "SyncBN")


class StagedBackbone(Backbone):
    """A backbone whose stages follow each other; some of their outputs are its features.

    A subclass registers its modules, calls :meth:`set_features`, and yields each stage's output in
    :meth:`stage_outputs`.
    """

    def set_features(
        self, features: dict[str, ShapeSpec], out_features: Sequence[str], key: str
    ) -> None:
        """
        Args:
            features: every feature there is, finest first.
            out_features: those wanted.
            key: the config key that names them, for the message.

        Raises:
            ConfigError: a name that is no feature, or none at all.
        """
        unknown = [name for name in out_features if name not in features]
        if unknown or not out_features:
            raise ConfigError(
                f"{key} is {list(out_features)}; the features here are {', '.join(features)}"
            )
        self._out_features = list(out_features)
        self._out_feature_channels = {name: spec.channels for name, spec in features.items()}
        self._out_feature_strides = {name: spec.stride for name, spec in features.items()}
        self._feature_names = list(features)

    @property
    def size_divisibility(self) -> int:
        """Images whose sides are multiples of this have features that fit onto each other."""
        return max(self._out_feature_strides[name] for name in self._out_features)

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        """The features of ``x`` (B, 3, H, W), all of them, finest first."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {feature name: (B, channels, H / stride, W / stride)}."""
        outputs = dict(zip(self._feature_names, self.stage_outputs(x), strict=True))
        return {name: outputs[name] for name in self._out_features}


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """Frozen batch norm, then an activation: what timm's norms with an activation become."""

    def __init__(self, source: Any) -> None:
        """``source``: a ``BatchNormAct2d`` or ``SyncBatchNormAct``."""
        super().__init__(source.num_features, eps=source.eps)
        self.drop, self.act = source.drop, source.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def set_norm(module: nn.Module, norm: str, key: str) -> None:
    """Exchange the batch norms within ``module`` for another kind, in place.

    Args:
        norm: "" and "BN" leave them as they are.
        key: the config key that says so, for the message.

    Raises:
        ConfigError: ``norm`` is not one of :data:`NORMS`.
    """
    if norm not in NORMS:
        raise ConfigError(f"{key} is {norm!r}; this backbone takes {', '.join(map(repr, NORMS))}")
    for name, child in module.named_children():
        if norm == "FrozenBN":
            module.add_module(name, with_frozen_norms(child))
        elif norm == "SyncBN":
            module.add_module(name, convert_sync_batchnorm(child))


def with_frozen_norms(module: nn.Module) -> nn.Module:
    """``module`` with its batch norms exchanged in place for frozen ones of the same values; if it
    is itself a batch norm, the frozen one."""
    if isinstance(module, BatchNormAct2d | SyncBatchNormAct):
        frozen: nn.Module = FrozenBatchNormAct2d(module)
    elif isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
    else:
        for name, child in module.named_children():
            module.add_module(name, with_frozen_norms(child))
        return module
    frozen.load_state_dict(module.state_dict(), strict=False)  # all but the batch counter
    return frozen


def freeze_first(parent: nn.Module, parts: Sequence[Sequence[str]], freeze_at: int) -> None:
    """Keep parameters and statistics of the first parts as they are, in training as well.

    Args:
        parent: the backbone.
        parts: for each value of ``FREEZE_AT`` from 1 on the submodules that it adds, by name.
        freeze_at: how many of the parts.

    Raises:
        ConfigError: more than there are, or less than 0.
    """
    if not 0 <= freeze_at <= len(parts):
        raise ConfigError(
            f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}; this backbone takes 0 to {len(parts)}"
        )
    for name in (name for part in parts[:freeze_at] for name in part):
        child = with_frozen_norms(parent.get_submodule(name)).requires_grad_(False)
        owner, _, last = name.rpartition(".")
        parent.get_submodule(owner).add_module(last, child)
