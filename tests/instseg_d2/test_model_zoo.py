import os
from pathlib import Path

import pytest
import torch

from instseg_d2.errors import ConfigError, DeviceError, WeightsError
from instseg_d2.model_zoo import config_names, find_config_file, get, get_config, get_config_file

NAME = "sparseinst/sparse_inst_r50_giam"


def test_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sparseinst/sparse_inst_r50_giam", "sparseinst/sparse_inst_r50_giam.yaml"):
        assert os.path.isfile(get_config_file(name))
        assert get_config(name).MODEL.SPARSE_INST.DECODER.NAME == "GroupIAMDecoder"


def test_every_file_has_a_name(repo: Path) -> None:
    assert len(config_names()) == len(list((repo / "configs").rglob("*.yaml")))


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(ConfigError, match="sparseinst/sparse_inst_r101_giam"):
        get_config_file("sparseinst/sparse_inst_r102_giam")
    with pytest.raises(ConfigError, match="nor is it"):
        find_config_file("nowhere/at_all.yaml")


def test_a_path_in_the_checkout_works_from_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_config_file("configs/sparseinst/sparse_inst_r50_giam.yaml")
    assert str(found) == get_config_file("sparseinst/sparse_inst_r50_giam")


def test_a_file_of_the_same_name_in_the_folder_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "sparseinst" / "sparse_inst_r50_giam.yaml"
    mine.parent.mkdir()
    mine.write_text("VERSION: 2\n")
    monkeypatch.chdir(tmp_path)
    assert find_config_file("sparseinst/sparse_inst_r50_giam.yaml").resolve() == mine


@pytest.fixture
def weights(tmp_path: Path, tiny_overrides: list[str]) -> Path:
    """A checkpoint of a tiny model."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": get(NAME, overrides=tiny_overrides).state_dict()}, path)
    return path


def test_get_loads_the_whole_model(weights: Path, tiny_overrides: list[str]) -> None:
    expected = torch.load(weights)["model"]
    for path in (weights, str(weights)):
        model = get(NAME, path, overrides=tiny_overrides)
        assert not model.training
        assert model.state_dict().keys() == expected.keys()
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name]), name
    image = {"image": torch.zeros(3, 40, 50, dtype=torch.uint8)}
    assert model([image])[0]["instances"].image_size == (40, 50)


def test_get_without_weights_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_overrides: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    absent = "pretrained_models/nowhere.pth"
    models = [
        get(f"{NAME}.yaml", overrides=[*tiny_overrides, "MODEL.WEIGHTS", absent]) for _ in range(2)
    ]
    first, second = (model.encoder.fusion.weight for model in models)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("sparseinst/sparse_inst_r50_giam_soft", []),
        ("sparseinst/sparse_inst_r50_base", []),
        ("sparseinst/sparse_inst_r101_giam", []),
        (NAME, ["MODEL.SPARSE_INST.DECODER.NUM_CLASSES", "7"]),
    ],
)
def test_get_refuses_weights_of_another_model(
    weights: Path, tiny_overrides: list[str], name: str, overrides: list[str]
) -> None:
    with pytest.raises(WeightsError):
        get(name, weights, overrides=[*tiny_overrides, *overrides])


def test_get_refuses_weights_of_the_backbone_alone(
    weights: Path, tiny_overrides: list[str]
) -> None:
    state = torch.load(weights)["model"]
    torch.save({key: value for key, value in state.items() if "backbone" in key}, weights)
    with pytest.raises(WeightsError, match=r"encoder\.|decoder\."):
        get(NAME, weights, overrides=tiny_overrides)


@pytest.mark.parametrize("path", ["", "nowhere.pth"])
def test_get_names_absent_weights(path: str, tiny_overrides: list[str]) -> None:
    with pytest.raises(WeightsError, match=path or "empty"):
        get(NAME, path, overrides=tiny_overrides)


def test_get_names_the_nearest_config() -> None:
    with pytest.raises(ConfigError, match="sparseinst/sparse_inst_r50vd_giam"):
        get("sparseinst/sparse_inst_r50_vd_giam")


def test_get_chooses_the_device(monkeypatch: pytest.MonkeyPatch, tiny_overrides: list[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_gpu = [*tiny_overrides, "MODEL.DEVICE", "cuda"]
    assert get(NAME, overrides=on_gpu).device == torch.device("cpu")
    assert get(NAME, overrides=on_gpu, device=torch.device("cpu")).device == torch.device("cpu")
    with pytest.raises(DeviceError):
        get(NAME, overrides=tiny_overrides, device="cuda")
