"""Every YAML in ``configs/`` loads and builds."""

import pytest

from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.families import config_value, family_of
from instseg_d2.model_zoo import config_names, get_config
from instseg_d2.modeling import build_model


@pytest.mark.parametrize("name", config_names())
def test_config_builds(name: str) -> None:
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    register_config_datasets(cfg)
    model = build_model(cfg)
    assert any(parameter.requires_grad for parameter in model.parameters())
    Trainer.build_optimizer(cfg, model)
    family = family_of(cfg)
    if family is None:  # detectors on proposals, and what they are compared with
        assert cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "ProposalNetwork")
        return
    family.build_mapper(cfg, True)
    if family.classes_key and "shapes_train" in cfg.DATASETS.TRAIN:
        assert config_value(cfg, family.classes_key) == 6
