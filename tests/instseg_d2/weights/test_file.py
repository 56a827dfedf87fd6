import argparse
import collections
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import read_weights_file

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


class Harmful:
    """Runs a command when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Custom:
    pass


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read(tmp_path, name, content, **options):
    path = tmp_path / name
    path.write_bytes(content)
    return read_weights_file(str(path), **options)


# -------------------------------------------------------------------------------------- .pth


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a"])
def test_pth_with_training_state(tmp_path, zipped, name):
    content = {"model": {"w": torch.ones(2)}, "iteration": 7}
    checkpoint = read(tmp_path, name, saved(content, _use_new_zipfile_serialization=zipped))
    assert checkpoint["iteration"] == 7
    assert checkpoint["model"]["w"].tolist() == [1, 1]
    assert "matching_heuristics" not in checkpoint


@pytest.mark.parametrize("key", [None, "state_dict"])
def test_pth_with_nothing_but_weights(tmp_path, key):
    weights = {"w": torch.ones(2)}
    checkpoint = read(tmp_path, "a.pth", saved({key: weights, "epoch": 3} if key else weights))
    assert list(checkpoint) == ["model"]
    assert checkpoint["model"]["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "other", [{"state_dict": {"w": torch.ones(2)}, "model": "resnet50"}, {"model_ema": 0.5}]
)
def test_pth_with_an_entry_model_that_is_a_name(tmp_path, other):
    content = {"state_dict": {"w": torch.ones(2)}, "epoch": 3, **other}
    assert read(tmp_path, "a.pth", saved(content))["model"]["w"].tolist() == [1, 1]


def test_version_notes_of_a_state_dict_survive(tmp_path):
    model = torch.nn.BatchNorm2d(2)
    checkpoint = read(tmp_path, "a.pth", saved({"model": model.state_dict()}))
    assert checkpoint["model"]._metadata == model.state_dict()._metadata


# -------------------------------------------------------------------------------------- .pkl


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pkl_of_the_detectron2_zoo(tmp_path, protocol):
    model = collections.OrderedDict(w=ARRAY, count=np.array(3), order=np.asfortranarray(ARRAY))
    content = {"model": model, "__author__": "torchvision", "matching_heuristics": True}
    checkpoint = read(tmp_path, "a.pkl", pickle.dumps(content, protocol))
    assert checkpoint["matching_heuristics"] is True
    assert checkpoint["__author__"] == "torchvision"
    torch.testing.assert_close(checkpoint["model"]["w"], torch.from_numpy(ARRAY))
    torch.testing.assert_close(checkpoint["model"]["order"], torch.from_numpy(ARRAY))
    assert checkpoint["model"]["count"].shape == ()


@pytest.mark.parametrize("nested", [True, False])
def test_pkl_of_caffe2_drops_momentum_and_asks_for_name_conversion(tmp_path, nested):
    blobs = {"conv1_w": ARRAY, "conv1_w_momentum": ARRAY}
    content = {"blobs": blobs, "cfg": "text"} if nested else blobs
    checkpoint = read(tmp_path, "a.pkl", pickle.dumps(content, 2))
    assert list(checkpoint["model"]) == ["conv1_w"]
    assert checkpoint["__author__"] == "Caffe2"
    assert checkpoint["matching_heuristics"] is True


def test_pkl_written_by_python_2(tmp_path):
    # What Python 2 and an old NumPy wrote: str for bytes, and the module names of then.
    content = (
        b"(dp0\nS'w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\n"
        b"tp4\nS'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\n"
        b"Rp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\n"
        b"S'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\np15\ntp16\nbs."
    )
    assert read(tmp_path, "a.pkl", content)["model"]["w"].tolist() == [1, -2]


def test_pkl_with_dotted_names_is_not_of_caffe2(tmp_path):
    content = {"stem.conv_1.weight": ARRAY}
    checkpoint = read(tmp_path, "a.pkl", pickle.dumps(content))
    assert list(checkpoint["model"]) == ["stem.conv_1.weight"]
    assert "__author__" not in checkpoint
    checkpoint = read(tmp_path, "b.pkl", pickle.dumps({"model": content, "iteration": 3}))
    assert list(checkpoint["model"]) == ["stem.conv_1.weight"]
    assert checkpoint["iteration"] == 3


def test_pkl_with_the_other_byte_order(tmp_path):
    content = {"a.w": ARRAY.astype(">f4")}
    assert read(tmp_path, "a.pkl", pickle.dumps(content))["model"]["a.w"].tolist() == ARRAY.tolist()


# ------------------------------------------------------------------------------ .safetensors


def test_safetensors_with_a_note(tmp_path):
    raw = safetensors.torch.save({"w": torch.ones(2), "n": torch.tensor(3)}, {"made by": "us"})
    checkpoint = read(tmp_path, "a.safetensors", raw)
    assert list(checkpoint) == ["model"]
    assert checkpoint["model"]["w"].tolist() == [1, 1]
    assert checkpoint["model"]["n"].item() == 3


# ------------------------------------------------------------------------- suffixes that lie


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors", "a.bin", "a.ckpt", "a"])
@pytest.mark.parametrize(
    "raw",
    [
        saved({"model": {"w": torch.tensor([1.0, 2.0])}}),
        saved({"model": {"w": torch.tensor([1.0, 2.0])}}, _use_new_zipfile_serialization=False),
        safetensors.torch.save({"w": torch.tensor([1.0, 2.0])}),
        pickle.dumps({"model": {"w": np.array([1.0, 2.0])}, "__author__": "x"}),
        pickle.dumps({"model": {"w": np.array([1.0, 2.0])}, "__author__": "x"}, 2),
    ],
    ids=["zip", "legacy", "safetensors", "pickle", "pickle 2"],
)
def test_the_content_says_what_a_file_is(tmp_path, name, raw):
    assert read(tmp_path, name, raw)["model"]["w"].tolist() == [1, 2]


# ------------------------------------------------------------------------------------- .pyth


def test_pyth_of_pycls(tmp_path):
    state = {"w": torch.ones(1), "bn.num_batches_tracked": torch.tensor(1)}
    checkpoint = read(tmp_path, "a.pyth", saved({"model_state": state, "epoch": 1}))
    assert list(checkpoint["model"]) == ["w"]
    assert checkpoint["matching_heuristics"] is True
    with pytest.raises(WeightsError, match="no entry 'model_state'"):
        read(tmp_path, "b.pyth", saved({"model": state}))
    assert read(tmp_path, "c.pth", saved({"model_state": state}))["__author__"] == "pycls"


# ----------------------------------------------------------------------------------- refusals


def pickled(content):
    return pickle.dumps(content, 2)


def saved_as_of_old(content):
    return saved(content, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["a.pth", "a.pyth", "a.pkl", "a.safetensors", "a"])
@pytest.mark.parametrize("dump", [saved, saved_as_of_old, pickled])
def test_code_in_a_file_is_named_and_does_not_run(tmp_path, name, dump):
    trap = tmp_path / "trap"
    raw = dump({"model": {"w": Harmful(trap)}, "model_state": {}})
    with pytest.raises(WeightsError, match=r"is refused.*'(posix|nt)\.mkdir'") as error:
        read(tmp_path, name, raw)
    assert str(tmp_path / name) in str(error.value)
    assert "MODEL.LOADING.TRUST_FILE True" in str(error.value)
    assert "only do so if you trust" in str(error.value)
    assert not trap.exists()
    # The trap is real: where the file is trusted, it snaps.
    with pytest.raises(WeightsError, match="entry 'w' is a NoneType"):
        read(tmp_path, name, raw, trust_file=True)
    assert trap.is_dir()


@pytest.mark.parametrize("dump", [saved, saved_as_of_old, pickled])
def test_trusted_files_may_hold_what_they_like(tmp_path, caplog, dump):
    content = {"state_dict": {"a.w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}
    raw = dump(content)
    with pytest.raises(WeightsError, match=r"is refused.*'(argparse|torch)\."):
        read(tmp_path, "a.pth", raw)
    checkpoint = read(tmp_path, "a.pth", raw, trust_file=True)
    assert checkpoint["model"]["a.w"].tolist() == [1, 1]
    assert "read with its code" in caplog.text


def test_nothing_is_said_of_trust_where_none_is_needed(tmp_path, caplog):
    read(tmp_path, "a.pth", saved({"w": torch.ones(1)}), trust_file=True)
    read(tmp_path, "a.pkl", pickle.dumps({"w": ARRAY}), trust_file=True)
    assert not caplog.records


def test_whole_models_need_trust(tmp_path):
    model = nn.Linear(2, 3)
    with pytest.raises(WeightsError, match=r"is refused.*'torch\.nn\.modules\.linear\.Linear'"):
        read(tmp_path, "a.pth", saved(model))
    for content in (model, {"model": model}):
        checkpoint = read(tmp_path, "a.pth", saved(content), trust_file=True)
        assert torch.equal(checkpoint["model"]["weight"], model.weight)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_needs_trust(tmp_path):
    model = nn.Linear(2, 3)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, torch.ones(1, 2)), buffer)
    with pytest.raises(WeightsError, match="is refused: it holds a TorchScript program"):
        read(tmp_path, "a.pt", buffer.getvalue())
    checkpoint = read(tmp_path, "a.pt", buffer.getvalue(), trust_file=True)
    assert torch.equal(checkpoint["model"]["weight"], model.weight)


@pytest.mark.parametrize("name", ["a.pth", "a.tar"])
def test_tar_archives_need_trust(tmp_path, name):
    """How PyTorch's first versions saved; it still reads that, with its code."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(WeightsError, match=r"is refused: it is a \.tar archive.*TRUST_FILE True"):
        read(tmp_path, name, buffer.getvalue())
    with pytest.raises(WeightsError, match="cannot be read as weights"):  # an empty one
        read(tmp_path, name, buffer.getvalue(), trust_file=True)


def test_trusted_file_whose_code_is_not_here(tmp_path):
    raw = b"\x80\x02}X\x01\x00\x00\x00wcnowhere.models\nThing\n)\x81s."
    with pytest.raises(WeightsError, match=r"is refused: it holds 'nowhere\.models\.Thing'"):
        read(tmp_path, "a.pkl", raw)
    with pytest.raises(WeightsError, match=r"a\.pkl needs something that is not installed"):
        read(tmp_path, "a.pkl", raw, trust_file=True)


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
def test_classes_of_other_packages_are_named(tmp_path, name):
    content = {"model": {"w": 1.0}, "optimizer": Custom()}
    raw = pickle.dumps(content) if name == "a.pkl" else saved(content)
    with pytest.raises(WeightsError, match=r"is refused.*\.Custom'"):
        read(tmp_path, name, raw)


def test_tensors_in_a_pickle_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"is refused.*torch\."):
        read(tmp_path, "a.pkl", pickle.dumps({"w": torch.ones(1)}))


# ------------------------------------------------------------------------------ damaged files


def other_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("read.me", "text")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.pth", "a.pyth", "a.pkl", "a.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"\xef\xbb\xbf<html></html>", "web page"),
        (bytes(2000), "it begins with zeros"),
        (bytes(2000) + saved({"w": torch.rand(10)}), "it begins with zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (saved({"w": torch.rand(1000)})[:2000], "damaged, incomplete"),
        (saved({"w": torch.rand(999)}, _use_new_zipfile_serialization=False)[:2000], "damaged"),
        (pickle.dumps({"w": np.ones(1000)})[:2000], "damaged, incomplete"),
        (safetensors.torch.save({"w": torch.rand(1000)})[:2000], "damaged, incomplete"),
        (safetensors.torch.save({"w": torch.rand(1000)})[:20], "damaged, incomplete"),
        (other_zip(), "damaged, incomplete or of another kind"),
        (bytes(range(255, 0, -1)), "damaged, incomplete or of another kind"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, said):
    with pytest.raises(WeightsError, match=said) as error:
        read(tmp_path, name, content)
    assert str(tmp_path / name) in str(error.value)
    assert "weights_only" not in str(error.value)
    assert "TRUST_FILE" not in str(error.value)
    with pytest.raises(WeightsError, match=said):
        read(tmp_path, name, content, trust_file=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.ones(2), "holds a Tensor"),
        ([torch.ones(2)], "holds a list"),
        ({"model": [1, 2]}, "holds a list"),
        ({"w": torch.ones(1), "arch": "resnet"}, "entry 'arch' is a str.*'w', 'arch'"),
        ({"model": {"w": torch.ones(1), "layer": {"w": 1}}}, "entry 'layer' is a dict"),
        ({3: torch.ones(1)}, "entry 3 is a Tensor"),
    ],
)
def test_other_content_is_named(tmp_path, content, said):
    with pytest.raises(WeightsError, match=said) as error:
        read(tmp_path, "a.pth", saved(content))
    assert str(tmp_path / "a.pth") in str(error.value)


@pytest.mark.parametrize(
    "value", [np.array(["a"]), np.ones(1, np.longdouble), np.array([b"a"]), "text", [1.0]]
)
def test_pkl_entries_that_are_no_numbers(tmp_path, value):
    with pytest.raises(WeightsError, match="entry 'odd'"):
        read(tmp_path, "a.pkl", pickle.dumps({"w": ARRAY, "odd": value}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda ones: ones.to_sparse(), "'b' is sparse"),
        (lambda ones: ones.to_sparse_csr(), "'b' is sparse"),
        (lambda ones: ones.to("meta"), "'b' has a shape, but no values"),
        (lambda ones: torch.quantize_per_tensor(ones, 0.1, 0, torch.qint8), "'b' is quantized"),
        (lambda ones: torch.nested.nested_tensor([ones, ones]), "'b' is nested"),
    ],
)
def test_tensors_that_are_no_arrays_of_numbers(tmp_path, make, said):
    value = make(torch.ones(2, 2))
    with pytest.raises(WeightsError, match=rf"a\.pth: its tensor {said}"):
        read(tmp_path, "a.pth", saved({"model": {"a": torch.ones(1), "b": value}}))
