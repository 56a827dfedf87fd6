"""Detectron2's evaluator of Cityscapes, with the data set's scripts mended for today's NumPy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from detectron2.evaluation import CityscapesInstanceEvaluator
from detectron2.structures import Instances
from torch import Tensor

from .rle_masks import RLEMasks


class CityscapesEvaluator(CityscapesInstanceEvaluator):
    """``CityscapesInstanceEvaluator`` that takes run-length codes for masks, comes to its end, and
    leaves no files behind."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """
        Args:
            inputs: with ``file_name``.
            outputs: with ``instances``: ``Instances`` with ``scores``, ``pred_classes`` and
                ``pred_masks``, a tensor (n, height, width) or :class:`.RLEMasks`.
        """
        super().process(inputs, [{"instances": _decoding(each["instances"])} for each in outputs])

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """
        Returns:
            ``{"segm": {"AP": percentage, "AP50": percentage}}``; None in processes but the main
            one.
        """
        mend_scripts()
        found: dict[str, dict[str, float]] | None = super().evaluate()
        return found


def mend_scripts() -> ModuleType:
    """Make the scripts that evaluate instances run, in this process.

    They need a function that NumPy had until 2.4, and fail where all predictions of a class lie in
    regions that are ignored, as those of a model that has just begun may. What they write as JSON
    has NumPy's integers in it, which fails, and nobody reads it: one file is in the folder where
    the program was started.
    """
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as scripts

    scripts.np = _OldNumpy()
    scripts.writeDict2JSON = lambda *_: None
    module: ModuleType = scripts
    return module


def _decoding(instances: Instances) -> Instances:
    """The same, with masks that can be taken one by one."""
    if not isinstance(instances.pred_masks, RLEMasks):
        return instances
    fields = instances.get_fields()
    return Instances(
        instances.image_size, **{**fields, "pred_masks": _Decoded(instances.pred_masks)}
    )


class _Decoded:
    """Masks that are decoded when one of them is asked for: all together they take gigabytes."""

    def __init__(self, masks: RLEMasks) -> None:
        self._masks = masks

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: int) -> Tensor:
        """(height, width) bool."""
        return self._masks[index].decode()[0]


class _OldNumpy:
    """NumPy, as the scripts take it to be."""

    @staticmethod
    def in1d(array: np.ndarray, values: Any) -> np.ndarray:
        """Of each element, whether it is one of the values; one-dimensional."""
        return np.isin(array, values).ravel()

    @staticmethod
    def cumsum(array: np.ndarray) -> np.ndarray:
        """Of nothing a zero: the scripts look at the last element, the number of true examples."""
        return np.cumsum(array) if array.size else np.zeros(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)
