"""Small models for whole images, and images."""

from typing import Any

import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.proposal_options import ProposalOptions
from tests.sharpmask_d2.small_networks import small_config, small_model

#: Every kind of model that answers otherwise for whole images.
MODELS: dict[str, dict[str, Any]] = {
    "coarse": {"architecture": "DeepMask"},
    "original head": {"architecture": "DeepMask", "HEAD__NAME": "original", "TRUNK__CHANNELS": 0},
    "sharp": {"architecture": "SharpMask"},
    "original form": {"architecture": "SharpMask", "REFINEMENT__FORM": "original"},
    "multiscale": {"architecture": "SharpMask", "REFINEMENT__NAME": "Multiscale"},
    "coarse output": {"architecture": "SharpMask", "OUTPUT": "coarse"},
}


def make(name: str = "sharp", **settings: Any) -> DeepMask:
    """A model in eval mode; proposals at two scales unless the settings say otherwise."""
    settings = {"PROPOSALS__SCALES": (0.5, 1.0), **MODELS[name], **settings}
    return small_model(**settings).eval()


def make_p3(**settings: Any) -> DeepMask:
    """A SharpMask whose trunk has stride 8 and whose window is an odd multiple of it."""
    cfg = small_config(
        "SharpMask",
        TRUNK__FEATURE="res3", WINDOW_SIZE=56, REFINEMENT__HORIZONTAL_CHANNELS=(4, 4, 4),
        PROPOSALS__SCALES=(0.5, 1.0), **settings,
    )  # fmt: skip
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3"]
    return build_model(cfg).eval()


def an_image(height: int = 70, width: int = 100) -> dict[str, Any]:
    image = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "file_name": "a.jpg"}


def proposals(model: DeepMask, inputs: dict[str, Any], **options: Any) -> Instances:
    """With other options, which are of this call alone."""
    before = model.proposals
    model.proposals = ProposalOptions(**{**vars(before), **options})
    (answer,) = model([inputs])
    model.proposals = before
    return answer["proposals"]


def require_same(first: Instances, second: Instances, share: float = 1e-3) -> None:
    """The same windows in the same order; masks up to rounding at their rims."""
    torch.testing.assert_close(
        first.objectness_logits, second.objectness_logits, rtol=1e-4, atol=1e-4
    )
    differing = first.pred_masks.decode() != second.pred_masks.decode()
    assert differing.float().mean() <= share
