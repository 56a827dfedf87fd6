"""Runs of ``tools/demo.py`` on small networks with random weights."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from tools.demo import main


def network(folder, config, overrides):
    """Config and overrides of a network with random weights that finds something."""
    torch.manual_seed(0)
    model = build_model(load_config(config, overrides))
    branch = getattr(getattr(model, "decoder", None), "inst_branch", torch.nn.Module())
    for name, parameter in branch.named_parameters():
        if name.startswith(("iam_conv", "mask_kernel", "cls_score", "objectness")):
            torch.nn.init.normal_(parameter, std=0.2 if name.startswith("iam_conv") else 1.0)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return config, [*overrides, "MODEL.WEIGHTS", str(folder / "weights.pth")]


def pixels(height=48, width=64, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels() if image is None else image).save(path)
    return path


def arguments(net, inputs, output, *options):
    config, overrides = net
    named = ["--config-file", config, "--input", *map(str, inputs), "--output", str(output)]
    return [*named, *options, *overrides]


def run(net, inputs, output, *options):
    main(arguments(net, inputs, output, "--score-threshold", "0", *options))


def error_of(net, inputs, output, *options):
    with pytest.raises(SystemExit) as error:
        main(arguments(net, inputs, output, *options))
    assert error.value.code not in (None, 0)
    return str(error.value.code)


def content(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def load(path):
    return json.loads(path.read_text())
