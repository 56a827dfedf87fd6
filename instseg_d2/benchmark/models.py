"""Models and images to measure with."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from instseg_d2.errors import ConfigError
from instseg_d2.inference import InferenceOptions, prepare_for_inference
from instseg_d2.modeling import build_model, build_trained_model
from instseg_d2.preprocessing import ImagePreprocessor
from sparseinst_d2.postprocess import class_scores

from .settings import Settings


def random_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 BGR: soft spots and a little noise, which JPEG compresses about as
    well as a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
    spots = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    noise = rng.integers(-8, 9, spots.shape, dtype=np.int16)
    return np.clip(spots + noise, 0, 255).astype(np.uint8)


def write_picture(folder: str | Path, size: tuple[int, int]) -> Path:
    """A JPEG of :func:`random_picture`."""
    path = Path(folder) / "picture.jpg"
    if not cv2.imwrite(str(path), random_picture(*size)):
        raise OSError(f"{path} could not be written")
    return path


def make_inputs(cfg: CfgNode, settings: Settings) -> list[dict[str, Any]]:
    """A batch for inference: the same picture so many times, so that as much is found in each."""
    preprocess = ImagePreprocessor.from_config(cfg)
    inputs = [preprocess(random_picture(*settings.image_size)) for _ in range(settings.batch)]
    if settings.output_size is not None:
        height, width = settings.output_size
        inputs = [{**each, "height": height, "width": width} for each in inputs]
    return inputs


@dataclass(frozen=True)
class Models:
    """One network, as it is and as it is used.

    Attributes:
        cfg: its config.
        model: in eval mode, as it was trained.
        prepared: made faster as ``MODEL.INFERENCE`` says.
        dtype: of the prepared one.
    """

    cfg: CfgNode
    model: Any
    prepared: Any
    dtype: torch.dtype

    def half(self) -> AbstractContextManager[Any]:
        """In which parts of the network run in its precision."""
        return autocast(self.model.device.type, self.dtype)


def build_models(cfg: CfgNode, settings: Settings, inputs: list[dict[str, Any]]) -> Models:
    """The network with its weights, or with random ones: with the same whenever it is built.

    Args:
        cfg: its config.
        settings: say whether there are weights, and how many instances SparseInst keeps.
        inputs: that SparseInst keeps so many of.
    """
    model = build(cfg, settings)
    if cfg.MODEL.META_ARCHITECTURE == "SparseInst" and settings.kept:
        force_kept(model, inputs, settings.kept, is_random=not settings.has_weights)
    options = InferenceOptions.from_config(cfg)
    return Models(cfg, model, prepare_for_inference(model, options), options.dtype)


def build(cfg: CfgNode, settings: Settings) -> Any:
    """In eval mode."""
    if settings.has_weights:
        return build_trained_model(cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(cfg).eval()


def unchanged_layout(model: nn.Module) -> Any:
    """A copy in the usual memory layout, whatever the config says of it: what the plain
    implementation runs on."""
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@torch.no_grad()
def force_kept(model: Any, inputs: list[dict[str, Any]], kept: int, *, is_random: bool) -> None:
    """Set a SparseInst's thresholds so that of the first image exactly so many instances are kept.

    The threshold of class scores comes to lie between two of them, and the final scores have none.
    Of random weights, the classifier's and the mask kernels' are drawn wider before: scores would
    else be equal, and masks flat.

    Raises:
        ConfigError: there are not so many predictions, or scores are equal.
    """
    branch = model.decoder.inst_branch
    if is_random:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for parameter in (branch.cls_score.weight, branch.mask_kernel.bias):
                parameter.copy_(torch.randn(parameter.shape))
    outputs = model.network(model.preprocess(inputs[:1]).tensor)
    scores = class_scores(outputs.pred_logits[0], outputs.pred_scores[0])[0]
    scores = scores.sort(descending=True).values
    if kept > len(scores):
        raise ConfigError(f"--kept is {kept}, but the model predicts {len(scores)} instances")
    limit = float(scores[kept - 1 : kept + 1].double().mean()) if kept < len(scores) else -1.0
    if not limit < float(scores[kept - 1]):
        raise ConfigError(
            f"no threshold keeps exactly {kept} instances: scores are equal or not finite; give "
            "another --kept, or --kept 0 for the config's own thresholds"
        )
    model.postprocess_options = replace(
        model.postprocess_options,
        cls_threshold=limit,
        score_threshold=-1.0,
        max_detections=max(kept, model.postprocess_options.max_detections),
    )


def autocast(device_type: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Half precision, or nothing for float32."""
    is_half = dtype != torch.float32
    return torch.autocast(device_type, dtype=dtype if is_half else None, enabled=is_half)
