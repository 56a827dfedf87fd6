"""Converted, FAIR's networks compute what their files say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from instseg_d2 import model_zoo
from instseg_d2.weights.file_writing import write_weights_file
from instseg_d2.weights.torch7 import read_torch7
from sharpmask_d2.fair_names import from_torch7
from tests.sharpmask_d2.fair_trees import RELEASED, Sizes, Style, deepmask, sharpmask
from tests.sharpmask_d2.torch7_interpreter import run_model
from tests.torch7_writer import write_torch7

STYLES = {
    "as released": Style(),
    "on the CPU": Style(package="nn", affine="nn.SpatialConstDiagonal"),
    "on a GPU": Style(cuda=True, flat=True),
    "pieces of larger storages": Style(strided=True, dtype="<f8"),
    "half precision": Style(dtype="<f2", cuda=True),
    "batch norms": Style(affine="nn.SpatialBatchNormalization"),
    "batch norms of cuDNN": Style(affine="cudnn.SpatialBatchNormalization", flat=True),
    "all layers in a row": Style(nested=False, bare=True),
    "prepared for whole images": Style(convolutional=True),
    "in a row, for whole images": Style(convolutional=True, nested=False, flat=True),
    "stride in the 1x1 convolutions": Style(stride_in_1x1=True),
    "no reduction": Style(reduced=False),
    "reflected": Style(padding="nn.SpatialReflectionPadding"),
    "padded with zeros by modules": Style(padding="nn.SpatialZeroPadding"),
    "padded with zeros by convolutions": Style(padding="", nested=False),
}


def overrides_in(advice: str, architecture: str) -> list[str]:
    """The overrides of the config that the advice names."""
    match = re.fullmatch(r"FAIR's (\w+), of the config (\S+?)(?: with (.*?))?\. Its .*", advice)
    assert match
    name = architecture.lower()
    assert (match[1], match[2]) == (architecture, f"sharpmask/{name}_r50")
    return shlex.split(match[3] or "")


@torch.no_grad()
def our_outputs(model: nn.Module, images: Tensor, style: Style) -> dict[str, Tensor]:
    """What the interpreter gives, from the network here."""
    features = model.backbone(images)
    if not style.convolutional:
        features = model.crop_context(features)
    output = model.head(features[model.feature])
    encodings = output.encoding.flatten(1)
    is_enlarged = not (style.convolutional or style.bare)
    coarse = model.head.masks(encodings)
    outputs = {
        "encoding": encodings,
        "coarse": model.coarse_masks(encodings, 2 * model.head.mask_size)
        if is_enlarged
        else coarse,
        "score": output.score_logits,
    }
    if hasattr(model, "refinement"):
        outputs["sharp"] = model.sharp_masks(encodings, model.skips(features))
    return outputs


def compare(tmp_path: Path, architecture: str, style: Style, sizes: Sizes) -> str:
    """Write, convert, load and compare; returns the advice."""
    content = {"DeepMask": deepmask, "SharpMask": sharpmask}[architecture](style, sizes)
    content = read_torch7(write_torch7(tmp_path / "model.t7", content))
    found = from_torch7(content)
    assert found is not None
    state, advice = found
    assert {value.dtype for value in state.values()} == {torch.float32}
    write_weights_file(str(tmp_path / "model.pth"), state)
    model = model_zoo.get(
        f"sharpmask/{architecture.lower()}_r50",
        weights=tmp_path / "model.pth",
        overrides=overrides_in(advice, architecture),
        device="cpu",
    )
    assert model.window_size == sizes.window
    side = sizes.window + (0 if style.convolutional else 32)
    images = torch.randn(2, 3, side, side)
    theirs = run_model(content["model"], images)
    ours = our_outputs(model, images, style)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        scale = expected.abs().max().item()
        assert expected.std() > 0.02 * scale > 0, name  # the layers are alive
        torch.testing.assert_close(
            ours[name],
            expected.reshape(ours[name].shape).float(),
            rtol=0,
            atol=1e-5 * max(scale, 1),
            msg=lambda text, name=name: f"{name}: {text}",
        )
    return advice


@pytest.mark.parametrize("architecture", ["DeepMask", "SharpMask"])
@pytest.mark.parametrize("style", STYLES)
def test_small_networks(tmp_path: Path, architecture: str, style: str) -> None:
    advice = compare(tmp_path, architecture, STYLES[style], Sizes())
    in_1x1 = STYLES[style].stride_in_1x1
    assert f"MODEL.RESNETS.STRIDE_IN_1X1 {in_1x1})" in advice
    assert "MODEL.SHARP_MASK.WINDOW_SIZE 64 " in advice
    assert ("MODEL.SHARP_MASK.PADDING" in advice) == ("Symmetric" not in STYLES[style].padding)


@pytest.mark.parametrize("architecture", ["DeepMask", "SharpMask"])
def test_a_trunk_of_stride_8(tmp_path: Path, architecture: str) -> None:
    sizes = Sizes(blocks=(3, 4), cells=6, hidden=(8, 4, 6))
    advice = compare(tmp_path, architecture, Style(), sizes)
    assert "MODEL.SHARP_MASK.TRUNK.FEATURE res3" in advice


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["DeepMask", "SharpMask"])
def test_networks_of_the_released_size(tmp_path: Path, architecture: str) -> None:
    advice = compare(tmp_path, architecture, Style(cuda=True), RELEASED)
    assert overrides_in(advice, architecture) == []
