"""What is wanted of the proposals of a whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from detectron2.config import CfgNode

from instseg_d2.errors import ConfigError

from .options import choose

NODE = "MODEL.SHARP_MASK.PROPOSALS"


def _half_octaves(first: int, last: int) -> tuple[float, ...]:
    return tuple(2.0 ** (step / 2) for step in range(first, last + 1))


#: The SharpMask paper's sets of scales (arXiv 1603.08695, section 5: SharpMask, Zoom and Zoom2).
PRESETS = {
    "default": _half_octaves(-5, 1),
    "zoom": _half_octaves(-5, 2),
    "zoom2": _half_octaves(-5, 3),
}


@dataclass(frozen=True)
class ProposalOptions:
    """The keys of ``MODEL.SHARP_MASK.PROPOSALS``; :func:`.proposal_config.add_proposal_config`
    says what they mean."""

    num: int = 1000
    score_threshold: float = 0.0
    preset: str = "default"
    scales: tuple[float, ...] = ()
    reference_size: int = 0
    mask_threshold: float = 0.2
    nms_threshold: float = 1.0
    batch: int = 32

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values that nothing can be proposed with."""
        choose(PRESETS, self.preset, f"{NODE}.PRESET")
        for name in ("num", "batch"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("reference_size", self.reference_size >= 0, "at least 0")
        self._require("score_threshold", 0 <= self.score_threshold < 1, "at least 0 and below 1")
        self._require("mask_threshold", 0 < self.mask_threshold < 1, "above 0 and below 1")
        self._require("nms_threshold", 0 <= self.nms_threshold <= 1, "from 0 to 1")
        right = all(isinstance(s, Real) and 0 < s < math.inf for s in self.scales)
        self._require("scales", right, "numbers above 0")
        self._require("scales", len(set(self.scales)) == len(self.scales), "different numbers")

    def _require(self, name: str, right: bool, wanted: str) -> None:
        if not right:
            value = getattr(self, name)
            raise ConfigError(f"{NODE}.{name.upper()} is {value!r}; it must be {wanted}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ProposalOptions:
        """
        Raises:
            ConfigError: a value is out of range.
        """
        node = cfg.MODEL.SHARP_MASK.PROPOSALS
        values: dict[str, Any] = {f.name: getattr(node, f.name.upper()) for f in fields(cls)}
        return cls(**{**values, "scales": tuple(values["scales"])})

    def scales_of(self, height: int, width: int) -> tuple[float, ...]:
        """What the sides of an image of this size are multiplied with, ascending."""
        scales = sorted(self.scales or PRESETS[self.preset])
        if not self.reference_size:
            return tuple(scales)
        return tuple(scale * self.reference_size / max(height, width) for scale in scales)
