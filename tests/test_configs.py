"""Every YAML in ``configs/`` loads and builds."""

import pytest

from instseg_d2.data.embedded import register_embedded_data
from instseg_d2.families import config_value, family_of
from instseg_d2.model_zoo import config_names, get_config
from instseg_d2.modeling import build_model
from instseg_d2.solver import build_optimizer


@pytest.mark.parametrize("name", config_names())
def test_config_builds(name: str) -> None:
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    register_embedded_data(cfg)
    model = build_model(cfg)
    assert any(parameter.requires_grad for parameter in model.parameters())
    build_optimizer(cfg, model)
    family = family_of(cfg)
    assert family is not None
    family.build_mapper(cfg, True)
    if family.classes_key and "shapes_train" in cfg.DATASETS.TRAIN:
        assert config_value(cfg, family.classes_key) == 6
