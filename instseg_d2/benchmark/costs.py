"""Multiply-adds of SparseInst's network by stage, of either way to compute it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from instseg_d2.analysis import analyze
from instseg_d2.inference import prepare_for_inference

from .plain import plain_module


class Traced(nn.Module):
    """A function of a model and an image, as a network whose operators can be counted."""

    def __init__(self, model: nn.Module, function: Callable[[Any, torch.Tensor], Any]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, images: torch.Tensor) -> Any:
        outputs = self.function(self.model, images)
        return tuple(outputs.values()) if isinstance(outputs, dict) else outputs


def network_macs(model: nn.Module, size: tuple[int, int], *, plain: bool) -> dict[str, int]:
    """
    Args:
        model: a SparseInst in eval mode, not prepared; it is not changed.
        size: (height, width) of the padded image.
        plain: count the plain way, else the way of the model when it is prepared for inference.

    Returns:
        for one image: ``backbone``, ``encoder``, ``decoder`` and their sum, ``network``.
    """
    if plain:
        functions = _plain_functions()
    else:
        model, functions = prepare_for_inference(model), _product_functions()
    image = torch.zeros(1, 3, *size, device=next(model.parameters()).device)
    totals = [analyze(Traced(model, function), image).total.flops for function in functions]
    to_backbone, to_encoder, to_decoder = totals
    return {
        "network": to_decoder,
        "backbone": to_backbone,
        "encoder": to_encoder - to_backbone,
        "decoder": to_decoder - to_encoder,
    }


Function = Callable[[Any, torch.Tensor], Any]


def _product_functions() -> list[Function]:
    """Up to and with the backbone, the encoder and the decoder."""
    return [
        lambda model, x: model.backbone(x),
        lambda model, x: model.encoder(model.backbone(x)),
        lambda model, x: tuple(model.network(x)),
    ]


def _plain_functions() -> list[Function]:
    plain = plain_module("plain_network")
    return [
        lambda model, x: model.backbone(x),
        lambda model, x: plain.plain_encoder(model.encoder, model.backbone(x)),
        lambda model, x: plain.plain_outputs(model, x),
    ]
