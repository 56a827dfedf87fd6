import re
from pathlib import Path

import pytest

from instseg_d2.config import get_cfg, known_keys, load_config
from instseg_d2.errors import ConfigError


def test_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\n")
    cfg = load_config(file, ["SOLVER.MAX_ITER", "9"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 9)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("SOLVER.BASELR", "SOLVER.BASE_LR"),
        ("MODEL.SPARSE_INST.DECODER.NUM_MASK", "MODEL.SPARSE_INST.DECODER.NUM_MASKS"),
        ("MODEL.SPARSEINST.DECODER.GROUPS", "MODEL.SPARSE_INST"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"did you mean {nearest}")):
        load_config("", [key, "1"])
    file = tmp_path / "a.yaml"
    parts = key.split(".")
    file.write_text("{" + ": {".join(parts) + ": 1" + "}" * len(parts))
    with pytest.raises(ConfigError, match=re.escape(f"did you mean {nearest}")) as info:
        load_config(file)
    assert str(file) in str(info.value)


def test_damaged_yaml_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("SOLVER: {BASE_LR: 0.5\n")
    with pytest.raises(ConfigError, match=re.escape(f"{file} is not valid YAML")):
        load_config(file)


def test_missing_base_names_it(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(file)


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "", "3"])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        load_config(file)


def test_wrong_type_and_odd_overrides() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR"):
        load_config("", ["SOLVER.BASE_LR", "'fast'"])
    with pytest.raises(ConfigError, match="pairs"):
        load_config("", ["SOLVER.BASE_LR"])


def test_every_own_key_is_read_somewhere(repo: Path) -> None:
    """A key that nothing reads is a promise that nothing keeps."""
    from detectron2.config import get_cfg as get_detectron2_cfg

    theirs = set(known_keys(get_detectron2_cfg()))
    sources = "".join(
        file.read_text()
        for package in ("instseg_d2", "sparseinst_d2")
        for file in (repo / package).rglob("*.py")
        if file.name != "config.py"
    )
    for key in set(known_keys(get_cfg())) - theirs:
        name = key.rsplit(".", 1)[-1]
        assert re.search(rf"\.{name}\b", sources), key
