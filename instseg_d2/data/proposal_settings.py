"""What proposals depend on, so that a run is continued only in the way that it was begun."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from ..run_settings import WEIGHTS, WEIGHTS_FILE, Settings, config_values, digest_of_weights

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
            WEIGHTS_FILE: cfg.MODEL.WEIGHTS,
            WEIGHTS: digest_of_weights(model),
            "--proposals-per-image": best,
            "--masks": masks,
            "config": config_values(cfg, SECTIONS, without=(*WITHOUT, *ignored_keys)),
        }
    )


def _digest_of_images(records: Sequence[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for record in records:
        # Without the folder, which need not be the same on all machines.
        name = PurePath(str(record.get("file_name"))).name
        identity = [record["image_id"], name, record.get("height"), record.get("width")]
        digest.update(json.dumps(identity).encode())
    return digest.hexdigest()[:16]
