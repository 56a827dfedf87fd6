"""What results depend on, so that a run is continued only in the way that it was begun."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode
from torch import nn

from .config import known_keys
from .families import FAMILY_PACKAGES, config_value

WEIGHTS, WEIGHTS_FILE = "digest of the weights", "MODEL.WEIGHTS"

TRAINING_KEYS = (
    "DATASETS.PROPOSAL_FILES_TRAIN",
    "DATASETS.TRAIN",
    "MODEL.EMA",
    "MODEL.RECOMPUTE_FIRST_STAGES",
    "SOLVER",
    "TEST.BEST",
    "TEST.EARLY_STOPPING",
    "TEST.EVAL_PERIOD",
    "TEST.EXPECTED_RESULTS",
)
"""Of a config: what makes no difference to a trained model."""

PLACE_KEYS = (
    "CUDNN_BENCHMARK",
    "DATALOADER",
    "MODEL.CHANNELS_LAST",
    "MODEL.DEVICE",
    "MODEL.LOADING",
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "VIS_PERIOD",
)
"""Of a config: where and how fast things are done, and the name of the weights' file."""


@dataclass(frozen=True)
class Settings:
    """What results depend on.

    Attributes:
        content: name -> text, number or flag, or a dict of such; can be written as JSON.
    """

    content: dict[str, Any]

    def differences(self, other: Settings) -> list[str]:
        """What is not the same, in words; empty if all is."""
        mine, its = _flat(self.content), _flat(other.content)
        names = [name for name in dict.fromkeys([*mine, *its]) if mine.get(name) != its.get(name)]
        if WEIGHTS not in names and WEIGHTS_FILE in names:  # another name of the same
            names.remove(WEIGHTS_FILE)
        return [
            f"{name}: {mine.get(name, 'nothing')} and {its.get(name, 'nothing')}" for name in names
        ]


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def settings_of_model(
    cfg: CfgNode, model: nn.Module, without: Sequence[str] = ()
) -> dict[str, Any]:
    """What all predictions of a trained model depend on: its weights, its config, and this code.

    Args:
        cfg: the config of the model.
        model: with its weights.
        without: more keys and nodes of the config that make no difference.

    Returns:
        content of :class:`Settings`.
    """
    return {
        "digest of the code of instseg-d2": digest_of_code(),
        "version of torch": torch.__version__,
        WEIGHTS_FILE: cfg.MODEL.WEIGHTS,
        WEIGHTS: digest_of_weights(model),
        "config": config_values(cfg, without=(*TRAINING_KEYS, *PLACE_KEYS, *without)),
    }


def config_values(
    cfg: CfgNode, sections: Sequence[str] | None = None, *, without: Sequence[str]
) -> dict[str, str]:
    """The values of a config, as text.

    Args:
        sections: keys and nodes that count; None: all.
        without: of these, keys and nodes that do not.
    """

    def is_in(key: str, nodes: Sequence[str]) -> bool:
        return any(key == node or key.startswith(f"{node}.") for node in nodes)

    values = {}
    for key in known_keys(cfg):
        value = config_value(cfg, key)
        is_wanted = sections is None or is_in(key, sections)
        if is_wanted and not is_in(key, without) and not isinstance(value, CfgNode):
            values[key] = repr(value)
    return values


def digest_of_weights(model: nn.Module) -> str:
    """Of names, types, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_of_code() -> str:
    """Of the modules of this project, and of Detectron2's version."""
    digest = hashlib.sha256(detectron2.__version__.encode())
    root = Path(__file__).parents[1]
    for package in (Path(__file__).parent.name, *FAMILY_PACKAGES):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
