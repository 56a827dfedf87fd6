"""Predictions: whole, and SparseInst's by stage.

A stage of the plain implementation starts from what its own stages before have given, so that each
side does all of its work.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from instseg_d2.image_sources import named_images
from instseg_d2.preprocessing import ImagePreprocessor
from instseg_d2.visualize import draw_instances

from .costs import network_macs
from .differences import mask_share, relative
from .models import Models, autocast, build_models, make_inputs, unchanged_layout, write_picture
from .plain import plain_module
from .settings import PLAIN, Settings, require_architecture
from .timing import Comparison, Side

PRODUCT = "product"
#: Stages of the network and after it; those around it are the same for all.
STAGES = ("network", "backbone", "encoder", "decoder", "postprocess")


class ProductStages:
    """A SparseInst as it is used."""

    def __init__(self, models: Models) -> None:
        self.model, self.half = models.prepared, models.half
        # Its network may be compiled or recorded, which a count of operators cannot follow.
        self.counted: nn.Module = models.model

    def whole(self, inputs: list[dict[str, Any]]) -> Any:
        return [answer["instances"] for answer in self.model(inputs)]

    def network(self, images: torch.Tensor) -> Any:
        return self.model.network(images)

    def backbone(self, images: torch.Tensor) -> Any:
        with self.half():
            return self.model.backbone(images)

    def encoder(self, features: Any) -> Any:
        with self.half():
            return self.model.encoder(features)

    def decoder(self, feature: torch.Tensor) -> Any:
        with self.half():
            return self.model.decoder.instances(feature)

    def postprocess(self, outputs: Any, inputs: list[dict[str, Any]], images: Any) -> Any:
        return [a["instances"] for a in self.model.postprocess(outputs, inputs, images)]


class PlainStages:
    """The same network, computed as the paper describes it (tests/plain)."""

    def __init__(self, models: Models) -> None:
        self.model = unchanged_layout(models.model)
        self.half = lambda: autocast(self.model.device.type, models.dtype)
        self.counted = self.model
        self.plain = plain_module("plain_network")
        self.instances = plain_module("plain_postprocess").plain_instances

    def whole(self, inputs: list[dict[str, Any]]) -> Any:
        images = self.model.preprocess(inputs)
        return self.postprocess(self.network(images.tensor), inputs, images)

    def network(self, images: torch.Tensor) -> Any:
        with self.half():
            outputs = self.plain.plain_outputs(self.model, images)
        return {name: value.float() for name, value in outputs.items()}

    def backbone(self, images: torch.Tensor) -> Any:
        with self.half():
            return self.model.backbone(images)

    def encoder(self, features: Any) -> Any:
        with self.half():
            return self.plain.plain_encoder(self.model.encoder, features)

    def decoder(self, feature: torch.Tensor) -> Any:
        with self.half():
            return self.plain.plain_decoder(self.model.decoder, feature)

    def postprocess(self, outputs: Any, inputs: list[dict[str, Any]], images: Any) -> Any:
        return [
            self.instances(
                outputs, i, tuple(images.tensor.shape[-2:]), tuple(images.image_sizes[i]),
                (given["height"], given["width"]), self.model.postprocess_options,
            )
            for i, given in enumerate(inputs)
        ]  # fmt: skip


Stages = ProductStages | PlainStages


def predictions(settings: Settings) -> Iterator[Comparison]:
    """Of a SparseInst ``whole`` and by stage, of any other model ``whole`` alone.

    Raises:
        ConfigError: the plain implementation of another model than SparseInst is asked for.
    """
    cfg, other = settings.cfg(), settings.other_cfg()
    if settings.against == PLAIN:
        require_architecture(cfg, ["SparseInst"], "a plain prediction")
    inputs = make_inputs(cfg, settings)
    models = {PRODUCT: build_models(cfg, settings, inputs)}
    if other is not None:
        models[settings.against] = build_models(other, settings, make_inputs(other, settings))
    given = {name: make_inputs(each.cfg, settings) for name, each in models.items()}
    if any(each.cfg.MODEL.META_ARCHITECTURE != "SparseInst" for each in models.values()):
        yield _whole({name: each.prepared for name, each in models.items()}, given, settings)
        return
    stages = {
        name: PlainStages(each) if name == PLAIN else ProductStages(each)
        for name, each in models.items()
    }
    yield from _by_stage(stages, given, settings)
    yield from _around(cfg, models[PRODUCT], stages[PRODUCT], given[PRODUCT])


def _whole(
    models: Mapping[str, nn.Module], given: Mapping[str, Any], settings: Settings
) -> Comparison:
    sides = {name: side(model, given[name]) for name, model in models.items()}
    return Comparison("whole", sides, settings.batch)


@torch.no_grad()
def _by_stage(
    stages: Mapping[str, Stages], given: Mapping[str, Any], settings: Settings
) -> Iterator[Comparison]:
    same = settings.against == PLAIN
    macs = {
        name: network_macs(each.counted, _image_size(each, given[name]), plain=name == PLAIN)
        for name, each in stages.items()
    }
    macs = {
        name: {part: count * settings.batch for part, count in counts.items()}
        for name, counts in macs.items()
    }
    yield Comparison(
        "whole",
        {name: side(each.whole, given[name]) for name, each in stages.items()},
        settings.batch,
        {name: counts["network"] for name, counts in macs.items()},
        mask_share if same else None,
    )
    values = {name: _between(each, given[name]) for name, each in stages.items()}
    for stage in STAGES:
        yield Comparison(
            stage,
            {
                name: side(getattr(each, stage), *values[name][stage])
                for name, each in stages.items()
            },
            settings.batch,
            {name: counts[stage] for name, counts in macs.items() if stage in counts},
            _DIFFERENCES.get(stage) if same else None,
        )


def _logits(outputs: Any) -> torch.Tensor:
    return outputs["pred_logits"] if isinstance(outputs, dict) else outputs.pred_logits


_DIFFERENCES: dict[str, Callable[[Any, Any], float | None]] = {
    "network": lambda one, other: relative(_logits(one), _logits(other)),
    "encoder": relative,
    "decoder": lambda one, other: relative(_logits(one), _logits(other)),
    "postprocess": mask_share,
}


def _image_size(stages: Stages, inputs: list[dict[str, Any]]) -> tuple[int, int]:
    height, width = stages.model.preprocess(inputs[:1]).tensor.shape[-2:]
    return height, width


def _between(stages: Stages, inputs: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """What each stage takes."""
    images = stages.model.preprocess(inputs)
    features = stages.backbone(images.tensor)
    return {
        "network": (images.tensor,),
        "backbone": (images.tensor,),
        "encoder": (features,),
        "decoder": (stages.encoder(features),),
        "postprocess": (stages.network(images.tensor), inputs, images),
    }


def _around(cfg: Any, models: Models, stages: Stages, inputs: Any) -> Iterator[Comparison]:
    """What comes before and after, of one image: ``load``, ``preprocess`` and ``draw``."""
    size = inputs[0]["height"], inputs[0]["width"]
    with tempfile.TemporaryDirectory() as folder:
        path = write_picture(folder, size)
        picture = next(iter(named_images([path]))).read()
        yield Comparison("load", {PRODUCT: Side(lambda _: next(iter(named_images([path]))).read())})
    preprocess = ImagePreprocessor.from_config(cfg)
    yield Comparison(
        "preprocess", {PRODUCT: Side(lambda _: models.prepared.preprocess([preprocess(picture)]))}
    )
    with torch.no_grad():
        instances = stages.whole(inputs[:1])[0].to("cpu")
    yield Comparison(
        "draw", {PRODUCT: Side(lambda _: draw_instances(picture, instances, min_score=0.0))}
    )


def side(function: Callable[..., Any], *arguments: Any) -> Side:
    """A function of these arguments, without gradients."""
    return Side(torch.no_grad()(lambda _: function(*arguments)))
