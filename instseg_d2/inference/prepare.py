"""From a trained model to one that only runs, but faster."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from .fold_norms import fold_norms
from .options import InferenceOptions
from .static_part import CudaGraphs, compiled, half_precision, halve_weights, static_part, wrap


def prepare_for_inference(
    model: nn.Module,
    options: InferenceOptions = InferenceOptions(),  # noqa: B008  (frozen)
) -> nn.Module:
    """A copy of a model that computes the same, up to rounding, and faster.

    It is called as the model is, but can only be run: its weights are frozen and have other names
    and values, so that it can neither be trained nor saved nor loaded into. Where its own methods
    offer more than its ``forward`` (losses, or the parts of the network), call those of the model.

    A module of the model that can be computed in fewer steps when its weights no longer change has
    a method ``for_inference`` that gives such a module, with norms folded; it may be itself,
    changed.

    Half precision, ``compile`` and ``cuda_graphs`` concern what the model declares as its
    ``static_part`` (:class:`.StaticPart`), or else its backbone, if it has one.

    Args:
        model: in eval mode; it is not changed. Any model may be given.
        options: what is done.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("a model in training mode came in; call its eval() before")
    model = copy.deepcopy(model).requires_grad_(False)
    if options.fold_norms:
        fold_norms(model)
        _replace_parts(model)
    half = options.dtype != torch.float32
    if options.channels_last and (half or _is_on_cpu(model)):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    part = static_part(model)
    if part is not None:
        if half:
            halve_weights(model, part, options.dtype)
            wrap(model, part, partial(half_precision, dtype=options.dtype))
        if options.compile:
            wrap(model, part, compiled)
        if options.cuda_graphs:
            wrap(model, part, CudaGraphs)
    return model


def _replace_parts(model: nn.Module) -> None:
    """Exchange modules with a method ``for_inference`` for what that gives, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            replacement = getattr(child, "for_inference", None)
            if replacement is not None:
                parent.add_module(name, replacement())


def _is_on_cpu(model: nn.Module) -> bool:
    return all(parameter.device.type == "cpu" for parameter in model.parameters())
