import os
import shlex
from urllib.parse import urlparse

import pytest
import timm
import torch
import torchvision
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.errors import WeightsError
from instseg_d2.weights.name_hash import hash_in_name
from instseg_d2.weights.sources import KNOWN_SOURCES, TORCHVISION_URLS


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 3)


def refusal(path):
    with pytest.raises(WeightsError, match="there is no such file") as error:
        InstSegCheckpointer(Model()).load(path)
    return str(error.value)


@pytest.mark.parametrize("name", KNOWN_SOURCES)
def test_known_files_say_where_to_get_them_and_where_to_put_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    message = refusal(f"pretrained_models/{name}")
    assert message.startswith(f"MODEL.WEIGHTS pretrained_models/{name}: there is no such file")
    assert KNOWN_SOURCES[name].url in message
    assert str(tmp_path / "pretrained_models" / name) in message.split()
    assert "MODEL.WEIGHTS ''" in message


@pytest.mark.parametrize("name", KNOWN_SOURCES)
def test_addresses_and_names_agree_with_timm(name):
    source = KNOWN_SOURCES[name]
    assert source.url.endswith(f"/{name}")
    cfg = timm.get_pretrained_cfg(source.timm_model)
    assert cfg is not None
    assert cfg.has_weights
    if cfg.url:
        # The releases moved from one account to another, with the rest of the address unchanged.
        path = urlparse(cfg.url).path.replace("/rwightman/", "/huggingface/")
        assert urlparse(source.url).path == path


@pytest.mark.parametrize("name", KNOWN_SOURCES)
def test_command_writes_the_file_that_the_message_names(tmp_path, monkeypatch, name):
    folder = tmp_path / "a 'quoted' $folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    message = refusal(f"pretrained_models/{name}")
    command = next(line for line in message.splitlines() if "python -c" in line)
    _, _, code = shlex.split(command)
    made = []

    def create_model(model_name, pretrained):
        made.append((model_name, pretrained))
        return Model().backbone

    monkeypatch.setattr(timm, "create_model", create_model)
    exec(code, {})
    assert made == [(KNOWN_SOURCES[name].timm_model, True)]
    written = message.split("give MODEL.WEIGHTS ")[1].splitlines()[0]
    assert hash_in_name(written) is None
    state = torch.load(written)
    assert list(state) == ["weight", "bias"]
    InstSegCheckpointer(Model()).load(written)


@pytest.mark.parametrize("name", TORCHVISION_URLS)
def test_torchvisions_files_say_where_to_get_them(tmp_path, monkeypatch, name):
    weights = torchvision.models.get_model_weights(name.split("-")[0])
    assert TORCHVISION_URLS[name] in [entry.url for entry in weights]
    monkeypatch.chdir(tmp_path)
    message = refusal(name)
    assert TORCHVISION_URLS[name] in message
    assert str(tmp_path / name) in message.split()


def test_unknown_file_of_the_authors_layout_says_what_is_wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("pretrained_models/swin.pth")
    assert os.path.join(str(tmp_path), "pretrained_models", "swin.pth") in message.split()
    assert "a Linear with tensors such as weight (3, 2), bias (3,)" in message
    assert "detectron2://ImageNetPretrained/torchvision/R-50.pkl" in message


def test_other_files_are_a_matter_of_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal("output/my_pretrained_models.pth")
    assert f"Correct the path ({tmp_path}/output/my_pretrained_models.pth)" in message
