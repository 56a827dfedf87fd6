"""Weights of one SparseInst in another that differs in classes, masks or groups."""

import pytest
import torch

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.errors import WeightsError
from instseg_d2.modeling import build_model
from instseg_d2.weights.file_writing import write_weights_file

DECODER = "MODEL.SPARSE_INST.DECODER"
BRANCH = "decoder.inst_branch"


def build(tiny_overrides, *overrides):
    return build_model(
        load_config("sparseinst/sparse_inst_r50_giam", [*tiny_overrides, *overrides])
    )


@pytest.mark.parametrize(
    ("changes", "dropped"),
    [
        (
            {"NUM_CLASSES": 3},
            {"cls_score.weight": ((6, 64), (3, 64)), "cls_score.bias": ((6,), (3,))},
        ),
        (
            {"NUM_MASKS": 7},
            {
                "iam_conv.weight": ((40, 4, 3, 3), (28, 4, 3, 3)),
                "iam_conv.bias": ((40,), (28,)),
            },
        ),
        (
            {"GROUPS": 2},
            {
                "iam_conv.weight": ((40, 4, 3, 3), (20, 8, 3, 3)),
                "iam_conv.bias": ((40,), (20,)),
                "fc.weight": ((64, 64), (32, 32)),
                "fc.bias": ((64,), (32,)),
                "cls_score.weight": ((6, 64), (6, 32)),
                "mask_kernel.weight": ((8, 64), (8, 32)),
                "objectness.weight": ((1, 64), (1, 32)),
            },
        ),
    ],
    ids=["classes", "masks", "groups"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_only_the_heads_that_depend_on_it_are_dropped(
    tmp_path, caplog, tiny_overrides, changes, dropped, suffix
):
    source = build(tiny_overrides)
    path = str(tmp_path / f"weights{suffix}")
    write_weights_file(path, source.state_dict())
    overrides = [str(part) for key, n in changes.items() for part in (f"{DECODER}.{key}", n)]
    target = build(tiny_overrides, *overrides)
    initial = {name: value.clone() for name, value in target.state_dict().items()}

    checkpointer = InstSegCheckpointer(target)
    checkpointer.load(path)

    report = checkpointer.report
    assert report is not None
    expected = {f"{BRANCH}.{name}": shapes for name, shapes in dropped.items()}
    assert {name: (theirs, ours) for name, theirs, ours in report.misshaped} == expected
    assert (report.missing, report.unexpected) == ([], [])
    for name, value in target.state_dict().items():
        kept = initial if name in expected else source.state_dict()
        assert torch.equal(value, kept[name]), name
    for name, (theirs, ours) in expected.items():
        assert f"{name}: {theirs} -> {ours}" in caplog.text
    with pytest.raises(WeightsError, match=f"{len(expected)} of the model's tensors"):
        checkpointer.require_complete()


def test_same_settings_drop_nothing(tmp_path, tiny_overrides):
    path = str(tmp_path / "weights.pth")
    write_weights_file(path, build(tiny_overrides).state_dict())
    checkpointer = InstSegCheckpointer(build(tiny_overrides))
    checkpointer.load(path)
    checkpointer.require_complete()
