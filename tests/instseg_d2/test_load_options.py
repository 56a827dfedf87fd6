import argparse

import pytest

import train_net
from instseg_d2.checkpoint import InstSegCheckpointer, LoadOptions
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.errors import WeightsError
from instseg_d2.modeling import build_model
from instseg_d2.predictor import Predictor
from tests.small_model import Model, same, save_pth


def test_options_of_the_config():
    assert LoadOptions.from_config(load_config()) == LoadOptions()
    node = "MODEL.LOADING"
    for changed, expected in (
        (["TRUST_FILE", "True"], LoadOptions(trust_file=True)),
        (["ALLOW_PARTIAL", "True"], LoadOptions(allow_partial=True)),
        (["VERIFY_HASH", "False"], LoadOptions(verify_hash=False)),
    ):
        cfg = load_config("", [f"{node}.{changed[0]}", changed[1]])
        assert LoadOptions.from_config(cfg) == expected


@pytest.fixture
def strange_file(tmp_path, tiny_overrides):
    """A config whose weights load with two options only: with code in them, and a wrong name."""
    cfg = load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides)
    content = {"model": build_model(cfg).state_dict(), "args": argparse.Namespace()}
    cfg.MODEL.WEIGHTS = save_pth(tmp_path / "a-0123abcd.pth", content)
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.MODEL.LOADING.VERIFY_HASH = False
    return cfg


def predict(cfg):
    Predictor(cfg)


def evaluate(cfg):
    train_net.evaluate(cfg, resume=False)


def train(cfg):
    Trainer(cfg).resume_or_load(resume=False)


@pytest.mark.parametrize("program", [predict, evaluate, train])
def test_every_program_heeds_the_options(strange_file, monkeypatch, program):
    monkeypatch.setattr(Trainer, "test", lambda cfg, model: {})
    register_config_datasets(strange_file)
    with pytest.raises(WeightsError, match="is refused"):
        program(strange_file)
    strange_file.MODEL.LOADING.TRUST_FILE = True
    program(strange_file)
    strange_file.MODEL.LOADING.VERIFY_HASH = True
    with pytest.raises(WeightsError, match="SHA-256 hash starts with 0123abcd"):
        program(strange_file)


def test_partial_weights_can_be_allowed(tmp_path, caplog):
    source, target = Model(), Model()
    state = {name: value for name, value in source.state_dict().items() if "backbone.0" in name}
    path = save_pth(tmp_path / "a.pth", state)
    with pytest.raises(WeightsError, match=r"MODEL\.LOADING\.ALLOW_PARTIAL True"):
        InstSegCheckpointer(Model()).load(path)
    checkpointer = InstSegCheckpointer(target, options=LoadOptions(allow_partial=True))
    checkpointer.load(path)
    assert same(source.backbone[0], target.backbone[0])
    assert not same(source.backbone[1], target.backbone[1])
    assert "of the 10 tensors of 'backbone', 2 were found" in caplog.text
    with pytest.raises(WeightsError, match="of the model's tensors are not in the file"):
        checkpointer.require_complete()


def test_trusted_file(tmp_path):
    source, target = Model(), Model()
    arguments = argparse.Namespace(epochs=3)
    path = save_pth(tmp_path / "a.pth", {"state_dict": source.state_dict(), "args": arguments})
    with pytest.raises(WeightsError, match=r"'argparse\.Namespace'.*TRUST_FILE True"):
        InstSegCheckpointer(target).load(path)
    assert not same(source, target)
    InstSegCheckpointer(target, options=LoadOptions(trust_file=True)).load(path)
    assert same(source, target)


def test_hash_in_the_name_is_verified_before_anything_is_loaded(tmp_path):
    source, target = Model(), Model()
    path = save_pth(tmp_path / "a-0123abcd.pth", source.state_dict())
    with pytest.raises(WeightsError, match="starts with 0123abcd, but"):
        InstSegCheckpointer(target).load(path)
    assert not same(source, target)
    InstSegCheckpointer(target, options=LoadOptions(verify_hash=False)).load(path)
    assert same(source, target)
