"""The converter on FAIR's DeepMask and SharpMask of Torch7: from file to model, as users do it."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch

from instseg_d2 import model_zoo
from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import file_kind, read_weights_file
from instseg_d2.weights.torch7 import TorchObject
from tests.sharpmask_d2.fair_trees import deepmask, sharpmask
from tests.tools.conversion import SUFFIXES, assert_same, model_in, refusal, save
from tests.torch7_writer import write_torch7
from tools.convert_checkpoint import main


@pytest.fixture
def source(tmp_path):
    return write_torch7(tmp_path / "model.t7", deepmask())


def config_in(said):
    """The config that the converter names, and the overrides."""
    name, overrides = re.search(r"of the config (\S+) with (.*?)\. Its", said).groups()
    return name, shlex.split(overrides)


def test_whole_program(tmp_path, repo):
    source = write_torch7(tmp_path / "model.t7", sharpmask())
    dest = tmp_path / "new.pth"
    command = [sys.executable, str(repo / "tools" / "convert_checkpoint.py"), source, str(dest)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "a file of Lua Torch7" in result.stdout
    assert "SharpMask, ResNet-50, windows of 4 cells a side, encodings of 16" in result.stdout
    name, overrides = config_in(result.stdout)
    assert name == "sharpmask/sharpmask_r50"
    model = model_zoo.get(name, weights=dest, overrides=overrides, device="cpu")
    image = torch.randint(256, (3, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        _, output = model.patch_output(model.preprocess([{"image": image}]))
    assert output.encoding.shape == (1, 16, 1, 1)
    assert torch.isfinite(output.encoding).all()


@pytest.mark.parametrize("build", [deepmask, sharpmask])
def test_the_file_itself_can_be_given_as_weights(tmp_path, build, capsys):
    source, dest = write_torch7(tmp_path / "model.t7", build()), tmp_path / "new.pth"
    main([source, str(dest)])
    name, overrides = config_in(capsys.readouterr().out)
    converted, direct = (
        model_zoo.get(name, weights=path, overrides=overrides, device="cpu").state_dict()
        for path in (dest, source)
    )
    assert_same(converted, direct)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_formats_and_precision(tmp_path, source, suffix, capsys):
    dest = tmp_path / f"half{suffix}"
    main([source, str(dest), "--dtype", "float16"])
    native = model_in(source)
    assert_same(model_in(dest), {name: value.half() for name, value in native.items()})
    assert set(read_weights_file(str(dest))) <= {"model", "__author__", "matching_heuristics"}
    assert "training state" not in capsys.readouterr().out


def test_the_trunk_for_a_library(tmp_path, source):
    main([source, str(tmp_path / "a.pth"), "--part", "backbone", "--to-names", "torchvision"])
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    native = model_in(source)
    assert torch.equal(state["layer1.0.conv1.weight"], native["backbone.res2.0.conv1.weight"])
    assert torch.equal(state["bn1.weight"], native["backbone.stem.conv1.norm.weight"])


def test_the_kind_of_a_file_is_told_by_its_content(tmp_path):
    assert file_kind(write_torch7(tmp_path / "a.pth", deepmask())) == ".t7"
    assert file_kind(write_torch7(tmp_path / "b", TorchObject("nn.DeepMask"))) == ".t7"
    state = {"w": torch.ones(2)}
    assert file_kind(save(tmp_path / "c.t7", state)) == ".pth"  # PyTorch's users named files so
    assert_same(model_in(tmp_path / "c.t7"), state)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"<html>", "it is a web page"),
        (b"version https://git-lfs", "git lfs pull"),
        (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "text format"),
        (b"some text", "cannot be read as a file of Torch7: a value of type"),
    ],
)
def test_files_that_are_none(tmp_path, content, said):
    (tmp_path / "a.t7").write_bytes(content)
    assert said in refusal(tmp_path / "a.t7", tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_what_is_refused(tmp_path, source):
    dest = tmp_path / "a.pth"
    raw = (tmp_path / "model.t7").read_bytes()
    (tmp_path / "short.t7").write_bytes(raw[: len(raw) // 2])
    assert re.search(r"short\.t7 .* at byte \d+", refusal(tmp_path / "short.t7", dest))
    content = deepmask()
    content["model"].fields["trunk"].fields["modules"][2].class_name = "nn.Own"
    other = write_torch7(tmp_path / "other.t7", content)
    assert refusal(other, dest).startswith(f"error: {other}: trunk[3] is of the class 'nn.Own'")
    linear = write_torch7(tmp_path / "linear.t7", TorchObject("nn.Linear", {"w": np.ones(2)}))
    assert "with an object of nn.Linear. Only whole models of DeepMask" in refusal(linear, dest)
    table = write_torch7(tmp_path / "table.t7", {"state": 1, "epoch": 2})
    assert "with a table of epoch, state." in refusal(table, dest)
    assert not dest.exists()


def test_another_config_is_noticed(source):
    with pytest.raises(WeightsError, match=r"MODEL\.WEIGHTS .*model\.t7"):
        model_zoo.get("sharpmask/deepmask_r50", weights=source, device="cpu")
