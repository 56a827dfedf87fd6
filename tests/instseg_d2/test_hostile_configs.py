"""Configs of a few bytes that stand for billions of values, or lead elsewhere."""

import contextlib

import pytest
import torch

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError, WeightsError
from instseg_d2.yaml_guard import MAX_BYTES, MAX_DEPTH

LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 12)
)
LIST_LAUGHS = "a0: &a0 [1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGED_LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "has more than 100000 values"),
        (LIST_LAUGHS, "has more than 100000 values"),
        (MERGED_LAUGHS, "has more than 100000 values"),
        ("a: &a {b: *a}\n", r"'\*a' refers to what it is in itself"),
        ("a: &a [*a]\n", r"'\*a' refers to what it is in itself"),
        ("a: " + "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5), "nests them more than 50 deep"),
        ("a: " + "[" * 100_000, "nests them more than 50 deep"),
        ("- " * 1000 + "1", "nests them more than 50 deep"),
        ("#" * (MAX_BYTES + 1), f"has more than {MAX_BYTES} bytes"),
        ("OUTPUT_DIR: '" + "-" * 100_000 + "1'", None),
        ("SOLVER: {STEPS: '" + "(" * 5000 + "'}", None),
        ("OUTPUT_DIR: !!python/object/new:os.system [id]", "is refused"),
        ("OUTPUT_DIR: !!python/name:os.system", "is refused"),
        ("OUTPUT_DIR: !!python/module:os", "is refused"),
        ("_BASE_: {a: 1}\n", r"_BASE_ is \{'a': 1\}, expected a file's name"),
        ("_BASE_: https://example.com/a/../../../x.yaml\n", "is not fetched"),
        ("MODEL: [1]\n", r"a\.yaml: MODEL is a group of keys, not a value; give one of its keys$"),
        ("*a\n", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
    ],
)
def test_hostile_yaml_ends_in_one_error(tmp_path, text, said):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    if said is None:  # text that looks like a value that is nested too deeply to be read as one
        with contextlib.suppress(ConfigError):
            load_config(path)
        return
    with pytest.raises(ConfigError, match=said) as error:
        load_config(path)
    assert "a.yaml" in str(error.value) or "x.yaml" in str(error.value)


def test_base_files_that_are_each_others(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: ../" + tmp_path.name + "/a.yaml\n")
    with pytest.raises(ConfigError, match="_BASE_ files are each other's"):
        load_config(tmp_path / "a.yaml")


def test_base_files_that_multiply(tmp_path):
    for number in range(30):
        bases = [f"{number + 1}.yaml"] * 2
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: {bases}\n")
    (tmp_path / "30.yaml").write_text("SOLVER: {MAX_ITER: 7}\n")
    with pytest.raises(ConfigError, match="or more than 50"):
        load_config(tmp_path / "0.yaml")


def test_references_are_otherwise_welcome(tmp_path):
    (tmp_path / "b.yaml").write_text("SOLVER: {BASE_LR: 0.5}\n")
    (tmp_path / "a.yaml").write_text(
        "_BASE_: [b.yaml, b.yaml]\n"
        "SOLVER: {STEPS: &steps [3, 5], MAX_ITER: &most 7, CHECKPOINT_PERIOD: *most}\n"
        "TEST: {EVAL_PERIOD: *most}\n"
    )
    cfg = load_config(tmp_path / "a.yaml")
    assert (cfg.SOLVER.BASE_LR, cfg.TEST.EVAL_PERIOD, list(cfg.SOLVER.STEPS)) == (0.5, 7, [3, 5])


def test_weights_of_a_config_are_not_kept_elsewhere(tmp_path):
    checkpointer = InstSegCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(WeightsError, match=r"is not fetched: with '\.\.' in its address"):
        checkpointer.load("https://example.com/a/../../../../.ssh/authorized_keys")
