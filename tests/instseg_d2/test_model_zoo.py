import os
from pathlib import Path

import pytest

from instseg_d2.errors import ConfigError
from instseg_d2.model_zoo import config_names, find_config_file, get_config, get_config_file


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
