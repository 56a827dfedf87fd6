"""What tests of the converter need: small checkpoints, files of them, and its refusals."""

import json
from functools import cache
from pathlib import Path

import pytest
import timm
import torch

from instseg_d2.weights.file import read_weights_file
from tools.convert_checkpoint import main

SUFFIXES = (".pth", ".pkl", ".safetensors")


@cache
def names_and_shapes(model):
    with torch.device("meta"):
        return {n: tuple(v.shape) for n, v in timm.create_model(model).state_dict().items()}


def small(shapes):
    """Tensors with these names; of many dimensions but few numbers."""
    return {
        name: (
            torch.tensor(7)
            if name.endswith("num_batches_tracked")
            else torch.rand(tuple(min(length, 3) for length in shape)) + 0.1
        )
        for name, shape in shapes.items()
    }


def golden(shared, name):
    content = json.loads((shared / "goldens" / "sparseinst" / f"{name}.json").read_text())
    return content["shapes"]


def save(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def model_in(path):
    return read_weights_file(str(path))["model"]


def assert_same(ours, theirs):
    assert sorted(ours) == sorted(theirs)  # safetensors keeps no order
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype
        assert torch.equal(ours[name], value), name


def refusal(*args):
    """The message with which the converter refuses; its status is 1."""
    with pytest.raises(SystemExit) as error:
        main([str(arg) for arg in args])
    message = error.value.code  # a text is printed, and the status is 1
    assert isinstance(message, str)
    assert message.startswith("error: ")
    return message
