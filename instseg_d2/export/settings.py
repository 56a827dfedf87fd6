"""What is exported, and how exactly it must answer as the model does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

#: Names of the graphs' input and outputs; :mod:`sparseinst_d2.export` describes them.
INPUT = "images"
OUTPUTS = ("boxes", "scores", "labels", "masks", "counts")


@dataclass(frozen=True)
class ExportSettings:
    """
    Attributes:
        top_k: the most instances per image, if the model has so many; None: all it may give.
        precision: ``float32`` or ``float16``, of weights and network; scores are always float32.
        is_bgr: the model reads BGR (``INPUT.FORMAT``).
        score_threshold: instances whose final score is not above this are dropped; None: the
            model's own threshold.
    """

    top_k: int | None = None
    precision: str = "float32"
    is_bgr: bool = False
    score_threshold: float | None = None


@dataclass(frozen=True)
class Tolerances:
    """By how much an exported graph may differ from the model.

    Attributes:
        score: largest difference of two final scores.
        mask_iou: masks of one instance overlap by more than this.
    """

    score: float
    mask_iou: float


#: float16 has 11 bits. Of a trained network scores differed by up to 8e-4; masks overlapped by .95
#: and more, the least those of a few pixels.
TOLERANCES = {"float32": Tolerances(1e-4, 0.99), "float16": Tolerances(3e-3, 0.9)}

#: (the model prepared for inference, settings) -> the module with the input and outputs above.
ExportBuilder = Callable[[nn.Module, ExportSettings], nn.Module]
