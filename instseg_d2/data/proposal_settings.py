"""What proposals depend on, so that a run is continued only in the way that it was begun."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from ..config import known_keys
from ..families import config_value

SECTIONS = (
    "MODEL",
    "INPUT.FORMAT",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "DATASETS.SHAPES",
)
"""Of a config: what can matter to proposals."""

WITHOUT = (
    "MODEL.CHANNELS_LAST",
    "MODEL.DEVICE",
    "MODEL.LOADING",
    "MODEL.WEIGHTS",
)
"""Of these sections: what makes no difference, and the name of the weights' file."""

_WEIGHTS, _WEIGHTS_FILE = "digest of the weights", "MODEL.WEIGHTS"


@dataclass(frozen=True)
class Settings:
    """What proposals depend on.

    Attributes:
        content: name -> text, number or flag, or a dict of such; can be written as JSON.
    """

    content: dict[str, Any]

    def differences(self, other: Settings) -> list[str]:
        """What is not the same, in words; empty if all is."""
        mine, its = _flat(self.content), _flat(other.content)
        names = [name for name in dict.fromkeys([*mine, *its]) if mine.get(name) != its.get(name)]
        if _WEIGHTS not in names and _WEIGHTS_FILE in names:  # another name of the same
            names.remove(_WEIGHTS_FILE)
        return [
            f"{name}: {mine.get(name, 'nothing')} and {its.get(name, 'nothing')}" for name in names
        ]


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def proposal_settings(
    cfg: CfgNode,
    model: nn.Module,
    dataset: str,
    records: Sequence[dict[str, Any]],
    *,
    best: int | None,
    masks: bool,
    ignored_keys: Sequence[str] = (),
) -> Settings:
    """
    Args:
        cfg: the config of the model.
        model: with its weights.
        dataset, records: name and dicts of the data set.
        best: so many proposals of an image are kept; None: all.
        masks: whether masks are kept, if the model gives them.
        ignored_keys: config keys, or nodes, that make no difference.
    """
    return Settings(
        {
            "data set": dataset,
            "images": len(records),
            "digest of the images' names, ids and sizes": _digest_of_images(records),
            _WEIGHTS_FILE: cfg.MODEL.WEIGHTS,
            _WEIGHTS: _digest_of_weights(model),
            "--proposals-per-image": best,
            "--masks": masks,
            "config": _config_values(cfg, (*WITHOUT, *ignored_keys)),
        }
    )


def _config_values(cfg: CfgNode, without: Sequence[str]) -> dict[str, str]:
    def is_in(key: str, nodes: Sequence[str]) -> bool:
        return any(key == node or key.startswith(f"{node}.") for node in nodes)

    values = {}
    for key in known_keys(cfg):
        value = config_value(cfg, key)
        if is_in(key, SECTIONS) and not is_in(key, without) and not isinstance(value, CfgNode):
            values[key] = repr(value)
    return values


def _digest_of_images(records: Sequence[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for record in records:
        # Without the folder, which need not be the same on all machines.
        name = PurePath(str(record.get("file_name"))).name
        identity = [record["image_id"], name, record.get("height"), record.get("width")]
        digest.update(json.dumps(identity).encode())
    return digest.hexdigest()[:16]


def _digest_of_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return digest.hexdigest()[:16]
