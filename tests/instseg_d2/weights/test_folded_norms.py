"""Batch norms without statistics: folded ones are complete, others have lost something."""

import pickle

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d

from instseg_d2.checkpoint import InstSegCheckpointer, LoadOptions
from instseg_d2.config import load_config
from instseg_d2.errors import WeightsError
from instseg_d2.modeling import build_model
from instseg_d2.weights.file_writing import write_weights_file
from instseg_d2.weights.folded_norms import with_statistics
from tests.caffe2_blobs import caffe2_blobs
from tests.small_backbones import native_state, small_resnet
from tests.small_model import save_pth


def pickled(path, content):
    path.write_bytes(pickle.dumps(content, 2))
    return str(path)


def without_statistics(state):
    return {name: value for name, value in state.items() if "running_" not in name}


def load(path, model, **options):
    checkpointer = InstSegCheckpointer(model, options=LoadOptions(**options))
    checkpointer.load(path)
    return checkpointer


def scales_and_shifts(model):
    """What the batch norms of a model do."""
    result = {}
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            scale = module.weight / (module.running_var + module.eps).sqrt()
            result[name] = torch.stack([scale, module.bias - module.running_mean * scale])
    return result


@pytest.mark.parametrize("nested", [True, False])
def test_caffe2s_file_is_complete(tmp_path, tiny_overrides, nested):
    source = small_resnet(tiny_overrides)
    blobs = caffe2_blobs(native_state(source))
    path = pickled(tmp_path / "R-50.pkl", {"blobs": blobs} if nested else blobs)
    model = small_resnet(tiny_overrides)
    for name, value in model.named_buffers():  # as a new model has them
        value.fill_("running_var" in name)
    checkpointer = load(path, model)
    checkpointer.require_complete()
    report = checkpointer.report
    assert (report.missing, report.misshaped) == ([], [])
    assert sorted(report.unexpected) == ["fc1000.bias", "fc1000.weight", "stem.conv1.bias"]
    expected = scales_and_shifts(source)
    assert len(expected) == 53
    torch.testing.assert_close(scales_and_shifts(model), expected, rtol=1e-4, atol=1e-4)


def zoo_pickle(native):
    model = {name: value.numpy() for name, value in native.items()}
    return {"model": model, "__author__": "MSRA", "matching_heuristics": True}


def test_detectron2s_pickle_from_caffe2_is_complete(tmp_path, tiny_overrides):
    native = without_statistics(native_state(small_resnet(tiny_overrides)))
    path = pickled(tmp_path / "R-50.pkl", zoo_pickle(native))
    load(path, small_resnet(tiny_overrides)).require_complete()


def test_a_pickle_with_some_statistics_has_lost_the_others(tmp_path, tiny_overrides):
    state = native_state(small_resnet(tiny_overrides))
    native = without_statistics(state)
    native["stem.conv1.norm.running_var"] = state["stem.conv1.norm.running_var"]
    path = pickled(tmp_path / "R-50.pkl", zoo_pickle(native))
    with pytest.raises(WeightsError, match="of the 265 tensors of 'backbone', 160 were found"):
        load(path, small_resnet(tiny_overrides))


@pytest.mark.parametrize("query", ["", "?matching_heuristics=True"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_other_files_of_a_backbone_have_lost_them(tmp_path, tiny_overrides, suffix, query):
    native = without_statistics(native_state(small_resnet(tiny_overrides)))
    path = str(tmp_path / f"a{suffix}")
    write_weights_file(path, native)
    with pytest.raises(WeightsError, match="of the 265 tensors of 'backbone', 159 were found"):
        load(path + query, small_resnet(tiny_overrides))


def test_a_whole_model_without_statistics_is_not_complete(tmp_path, tiny_overrides):
    cfg = load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides)
    path = save_pth(tmp_path / "a.pth", without_statistics(build_model(cfg).state_dict()))
    with pytest.raises(WeightsError, match="of the 265 tensors of 'backbone', 159 were found"):
        load(path, build_model(cfg))
    checkpointer = load(path, build_model(cfg), allow_partial=True)
    assert len(checkpointer.report.missing) == 106
    with pytest.raises(WeightsError, match="106 of the model's tensors are not in the file"):
        checkpointer.require_complete()


def test_statistics_are_added_to_folded_batch_norms_alone():
    blobs = {
        "conv1_w": torch.ones(2, 3), "res_conv1_bn_s": torch.full((2,), 5.0),
        "res_conv1_bn_b": torch.ones(2), "res2_0_branch2a_gn_s": torch.ones(3),
        "res2_1_branch2a_bn_s": torch.ones(3), "res2_1_branch2a_bn_rm": torch.ones(3),
    }  # fmt: skip
    added = {n: v.tolist() for n, v in with_statistics(blobs).items() if n not in blobs}
    assert added == {
        "res_conv1_bn_running_mean": [0, 0],
        "res_conv1_bn_running_var": pytest.approx([1 - 1e-5] * 2, abs=1e-7),
    }
