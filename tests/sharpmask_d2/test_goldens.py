"""Equality with the PyTorch port, on outputs stored with name-determined weights."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from instseg_d2 import model_zoo
from instseg_d2.weights.convert import Options, convert_file
from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.full_image import ImageInput, find_windows
from sharpmask_d2.port_names import from_port, recognises
from tests.sharpmask_d2.small_networks import make_config

#: What the port does otherwise than FAIR.
THE_PORT = {
    "MODEL.SHARP_MASK.PADDING": "reflect",
    "MODEL.SHARP_MASK.STEM_PADDING": "symmetric",
    "MODEL.SHARP_MASK.REFINEMENT.HORIZONTAL_CHANNELS": (64, 64, 64, 64),
    "MODEL.RESNETS.OUT_FEATURES": ["stem", "res2", "res3", "res4"],
}
#: Pixels of grey around the whole image.
BORDER = 80


@pytest.fixture(scope="module")
def goldens(shared: Path) -> Path:
    return shared / "goldens"


def fill_module(goldens: Path) -> ModuleType:
    """The module that makes weights from names."""
    spec = importlib.util.spec_from_file_location("fill", goldens / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def port_state(goldens: Path, name: str) -> dict[str, torch.Tensor]:
    card = json.loads((goldens / "sharpmask" / f"{name}.json").read_text())
    state = fill_module(goldens).filled_state_dict(card["shapes"], card["seed"])
    return {**state, **{alias: state[of] for alias, of in card["aliases"].items()}}


@cache
def golden_model(goldens: Path, architecture: str) -> DeepMask:
    model = build_model(
        make_config(overrides={**THE_PORT, "MODEL.META_ARCHITECTURE": architecture})
    )
    model.load_state_dict(from_port(port_state(goldens, architecture.lower())), strict=True)
    return model.eval()


def require_equal(actual: torch.Tensor, expected: np.ndarray) -> None:
    error = np.abs(actual.numpy().reshape(expected.shape) - expected).max()
    assert error < 1e-3 * expected.std()


def patches_of(data: np.lib.npyio.NpzFile) -> list[dict[str, torch.Tensor]]:
    return [{"image": torch.from_numpy(patch).permute(2, 0, 1)} for patch in data["patches"]]


@torch.no_grad()
def test_deepmask_equals_the_port_on_patches(goldens: Path) -> None:
    model = golden_model(goldens, "DeepMask")
    data = np.load(goldens / "sharpmask" / "deepmask.npz")
    batch = patches_of(data)
    _, output = model.patch_output(model.preprocess(batch))
    require_equal(output.encoding, data["encoding"])
    require_equal(model.head.masks(output.encoding.flatten(1)), data["mask_logits_56"])
    require_equal(model.coarse_masks(output.encoding.flatten(1), 112), data["mask_logits_112"])
    answers = model.predict_patches(batch)
    require_equal(torch.stack([x["score_logit"] for x in answers]), data["score_logits"])


@torch.no_grad()
def test_deepmask_equals_the_port_on_a_whole_image(goldens: Path) -> None:
    model = golden_model(goldens, "DeepMask")
    data = np.load(goldens / "sharpmask" / "deepmask.npz")
    image = torch.from_numpy(data["image"]).permute(2, 0, 1).float()
    padded = F.pad(image, (BORDER,) * 4, value=0.5 * 255)
    output = model.head(model.backbone(model.normalise(padded)[None])["res4"])
    require_equal(output.encoding, data["full_encoding"])
    require_equal(output.score_logits, data["full_score_logits"])


@torch.no_grad()
def test_the_windows_of_a_whole_image_are_those_of_the_port(goldens: Path) -> None:
    model = golden_model(goldens, "DeepMask")
    data = np.load(goldens / "sharpmask" / "deepmask.npz")
    image = torch.from_numpy(data["image"]).permute(2, 0, 1)
    read = ImageInput.read({"image": image}, model.device)
    windows = find_windows(model, read, [read.size]).windows
    rows, columns = data["full_score_logits"].squeeze().shape
    assert len(windows) == rows * columns
    in_place = (windows.cells[:, 0] * columns + windows.cells[:, 1]).argsort()
    require_equal(windows.scores[in_place], data["full_score_logits"])
    require_equal(windows.encodings[in_place].T.contiguous(), data["full_encoding"])


@torch.no_grad()
def test_sharpmask_equals_the_port_on_patches(goldens: Path) -> None:
    model = golden_model(goldens, "SharpMask")
    data = np.load(goldens / "sharpmask" / "sharpmask.npz")
    answers = model.predict_patches(patches_of(data))
    masks = torch.stack([answer["mask_logits"] for answer in answers])
    require_equal(masks, data["mask_logits_160"])
    require_equal(torch.stack([x["score_logit"] for x in answers]), data["score_logits"])


def test_the_ports_files_are_recognised(goldens: Path) -> None:
    for name in ("deepmask", "sharpmask"):
        assert recognises(port_state(goldens, name))


@torch.no_grad()
@pytest.mark.parametrize("name", ["deepmask", "sharpmask"])
def test_a_checkpoint_of_the_port_converts(goldens: Path, tmp_path: Path, name: str) -> None:
    source, dest = tmp_path / "model.pth.tar", tmp_path / "model.pth"
    state = {f"module.{key}": value for key, value in port_state(goldens, name).items()}
    torch.save({"epoch": 3, "state_dict": state}, source)
    said = dict(convert_file(str(source), str(dest), Options()))
    assert "PyTorch port" in said["names"]
    assert {"deepmask": "DeepMask", "sharpmask": "SharpMask"}[name] in said["model"]
    model = model_zoo.get(f"sharpmask/{name}_r50_port", dest, device="cpu")
    data = np.load(goldens / "sharpmask" / f"{name}.npz")
    batch = patches_of(data)
    answers = model.predict_patches(batch)
    if name == "deepmask":
        _, output = model.patch_output(model.preprocess(batch))
        masks = model.coarse_masks(output.encoding.flatten(1), 112)
        require_equal(masks, data["mask_logits_112"])
    else:
        masks = torch.stack([answer["mask_logits"] for answer in answers])
        require_equal(masks, data["mask_logits_160"])
    require_equal(torch.stack([x["score_logit"] for x in answers]), data["score_logits"])
