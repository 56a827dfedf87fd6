"""Runs one of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from instseg_d2.modeling import check_device

from .evaluation import evaluation
from .loading import data_loading
from .machine import machine, peak_rates
from .operators import operator_shares
from .proposals import whole_image_proposals
from .settings import Settings, dtype_of
from .stages import predictions
from .timing import Comparison, measure
from .training import training_step

#: What can be measured.
MODES: dict[str, Callable[[Settings], Iterator[Comparison]]] = {
    "prediction": predictions,
    "train": training_step,
    "data": data_loading,
    "evaluation": evaluation,
    "proposals": whole_image_proposals,
}


def run(mode: str, settings: Settings) -> dict[str, Any]:
    """
    Args:
        mode: of :data:`MODES`.
        settings: what is to be measured.

    Returns:
        all of which is written as JSON: ``mode``, the settings, ``image_size``, ``machine`` (see
        :func:`.machine.machine`), ``rates`` (:func:`.machine.peak_rates`) and ``parts``, by name
        what :func:`.timing.measure` gives and, if they are asked for, ``operators`` by side (see
        :func:`.operators.operator_shares`).

    Raises:
        ConfigError: the mode does not fit the model; or a wrong name or value.
        DataError, WeightsError, DeviceError: the data, weights or device cannot be used.
    """
    cfg = settings.cfg()
    check_device(cfg)
    dtype = dtype_of(cfg)
    device = torch.device(cfg.MODEL.DEVICE)
    about = machine(device)
    rates = peak_rates(device, dtype)
    parts = {}
    for comparison in MODES[mode](settings):
        part = measure(
            comparison, rounds=settings.rounds, device=device, matmul_rate=rates["matmul"]
        )
        if settings.operators:
            part["operators"] = {
                name: operator_shares(side, device) for name, side in comparison.sides.items()
            }
        parts[comparison.name] = part
    return {
        "mode": mode,
        **asdict(settings),
        "overrides": list(settings.overrides),
        "image_size": list(settings.image_size),
        "machine": about,
        "rates": rates,
        "parts": parts,
    }
