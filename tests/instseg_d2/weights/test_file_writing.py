import os

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import read_weights_file
from instseg_d2.weights.file_writing import write_weights_file


def awkward_state():
    """Tensors that share memory, have gaps, need gradients, or are of types that NumPy lacks."""
    base = torch.arange(12.0).reshape(3, 4)
    return {
        "a.whole": base,
        "a.same": base,
        "a.row": base[1],
        "a.turned": base.t(),
        "a.parameter": nn.Parameter(base[:, 1:2]),
        "a.images": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "a.short": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "a.half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "a.count": torch.tensor(7),
        "a.empty": torch.zeros(0, 2),
    }


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_what_is_written_is_read(tmp_path, suffix):
    state = awkward_state()
    path = tmp_path / "new" / f"a{suffix}"
    for _ in range(2):  # the second time in place of the first
        write_weights_file(str(path), state)
        model = read_weights_file(str(path))["model"]
        assert set(model) == set(state)
        for name, value in state.items():
            dtype = value.dtype
            if suffix == ".pkl" and dtype == torch.bfloat16:
                dtype = torch.float32
            assert model[name].dtype == dtype
            assert torch.equal(model[name].to(value.dtype), value.detach()), name
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert state["a.whole"].data_ptr() == state["a.same"].data_ptr()


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_detectron2_reads_what_is_written(tmp_path, suffix):
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    path = str(tmp_path / f"a{suffix}")
    write_weights_file(path, source.state_dict())
    DetectionCheckpointer(target).load(path)
    assert torch.equal(source.weight, target.weight)


def test_shared_memory_is_not_written_whole(tmp_path):
    large = torch.zeros(1_000_000)
    write_weights_file(str(tmp_path / "a.pth"), {"w": large[:2]})
    assert (tmp_path / "a.pth").stat().st_size < 10_000


@pytest.mark.parametrize("name", ["a.t7", "a", "a.PTH"])
def test_unknown_format_to_write(tmp_path, name):
    with pytest.raises(WeightsError, match=r"\.safetensors, \.pth, \.pkl"):
        write_weights_file(str(tmp_path / name), {"w": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_failing_write_leaves_the_file_as_it_was(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    write_weights_file(str(path), {"w": torch.ones(1)})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_weights_file(str(path), {"w": torch.zeros(9)})
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {path.name: before}


def test_plain_weights_are_written_without_an_entry_around_them(tmp_path):
    path = tmp_path / "a.pth"
    write_weights_file(str(path), {"w": torch.ones(2)}, {"iteration": 3}, is_plain=True)
    assert list(torch.load(path, weights_only=True)) == ["w"]
