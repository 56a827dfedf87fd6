"""Proposals of a whole image: DeepMask's and SharpMask's, beside plain implementations."""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.structures import Instances

from .models import autocast, build_models, make_inputs, unchanged_layout
from .plain import plain_module
from .settings import PLAIN, Settings, dtype_of, require_architecture
from .stages import PRODUCT, side
from .timing import Comparison

CHOSEN = "plain, chosen first"


def whole_image_proposals(settings: Settings) -> Iterator[Comparison]:
    """Product, the plain way (a mask at every window), and the plain way with masks of the chosen
    windows alone; in both, one mask at a time is pasted and encoded.

    Raises:
        ConfigError: another model than DeepMask and SharpMask, or another config to compare with.
    """
    cfg = settings.cfg()
    require_architecture(cfg, ["DeepMask", "SharpMask"], "the benchmark of proposals")
    inputs = make_inputs(cfg, settings)[:1]
    models = build_models(cfg, settings, inputs)
    sides = {PRODUCT: side(models.prepared.predict_images, inputs)}
    other = settings.other_cfg()
    if settings.against == PLAIN:
        assert other is not None
        plain = plain_module("plain_proposals").plain_proposals
        model, half = unchanged_layout(models.model), dtype_of(other)

        def propose(everywhere: bool) -> list[dict[str, Instances]]:
            with autocast(model.device.type, half):
                return [{"proposals": plain(model, inputs[0], everywhere=everywhere)}]

        sides[PLAIN], sides[CHOSEN] = side(propose, True), side(propose, False)
    elif other is not None:
        against = build_models(other, settings, inputs)
        sides[settings.against] = side(
            against.prepared.predict_images, make_inputs(other, settings)[:1]
        )
    compare = _difference if settings.against == PLAIN else None
    yield Comparison("proposals", sides, difference=compare)


def _difference(
    first: list[dict[str, Instances]], second: list[dict[str, Instances]]
) -> float | None:
    """The share of mask pixels that differ; None for other numbers of proposals."""
    shares = []
    for one, other in zip(first, second, strict=True):
        masks = one["proposals"].pred_masks, other["proposals"].pred_masks
        if len(masks[0]) != len(masks[1]):
            return None
        for index in range(len(masks[0])):
            differing = masks[0][index].decode() != masks[1][index].decode()
            shares.append(float(differing.float().mean()))
    return sum(shares) / max(len(shares), 1)
