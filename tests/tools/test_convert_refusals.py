"""What the converter refuses, and that it then leaves everything as it was."""

import hashlib
import pickle
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tools.conversion import (
    SUFFIXES,
    assert_same,
    model_in,
    names_and_shapes,
    refusal,
    save,
    small,
)
from tools.convert_checkpoint import main

DEFORMABLE = {f"layer{stage}.0.conv2_offset.bias": (18,) for stage in (3, 4)}
"""Names beside those of a ResNet-18."""


@pytest.fixture
def source(tmp_path):
    return save(tmp_path / "source.pth", small(names_and_shapes("resnet18")))


@pytest.mark.parametrize(
    ("dest", "said"),
    [
        ("b.txt", "the suffix says what to write"),
        ("b", "the suffix says what to write"),
        ("b.pth.tar", "the suffix says what to write"),
        ("nowhere/b.pth", "there is no folder"),
        ("folder.pth", "is a folder"),
        ("source.pth", "is the file to be read"),
        ("link.pth", "is the file to be read"),
        ("there.pkl", "there.pkl exists"),
        ("b-0123abcd.pth", "taken for the hash of the file"),
        ("b_0123ab.pkl", "taken for the hash of the file"),
    ],
)
def test_dests_that_are_refused(tmp_path, source, dest, said):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "there.pkl").write_text("precious")
    (tmp_path / "link.pth").symlink_to(source)
    before = sorted(tmp_path.iterdir()), Path(source).read_bytes()
    overwrite = [] if said.endswith("exists") else ["--overwrite"]
    assert said in refusal(source, tmp_path / dest, *overwrite)
    assert (sorted(tmp_path.iterdir()), Path(source).read_bytes()) == before
    assert (tmp_path / "there.pkl").read_text() == "precious"


def test_overwrite_replaces(tmp_path, source):
    dest = tmp_path / "there.pkl"
    dest.write_text("old")
    main([source, str(dest), "--overwrite"])
    assert "stem.conv1.weight" in model_in(dest)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        ("folder", "is a folder"),
        (b"", "empty"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (bytes(range(255, 0, -1)), "cannot be read as weights"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({}), "holds no tensors"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.safetensors"])
def test_sources_that_are_refused(tmp_path, name, content, said):
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name, tmp_path / "b.pth")
    assert said in message
    assert str(tmp_path / name) in message
    assert not list(tmp_path.glob("b.*"))


def test_addresses_are_refused(tmp_path):
    assert "local files" in refusal("detectron2://x/R-50.pkl", tmp_path / "b.pth")


def test_the_hash_in_the_name_of_the_source_is_verified(tmp_path, source):
    content = Path(source).read_bytes()
    digits = hashlib.sha256(content).hexdigest()[:8]
    wrong = tmp_path / "resnet18-0123abcd.pth"
    wrong.write_bytes(content)
    message = refusal(wrong, tmp_path / "b.pth")
    assert f"SHA-256 hash starts with 0123abcd, but it starts with {digits}" in message
    assert "--no-verify" in message
    assert "MODEL." not in message
    assert not list(tmp_path.glob("b.*"))
    main([str(wrong), str(tmp_path / "b.pth"), "--no-verify"])
    right = tmp_path / f"resnet18-{digits}.pth"
    right.write_bytes(content)
    main([str(right), str(tmp_path / "c.pth")])


class Custom:
    """Cannot be read without this file's code."""


def test_code_runs_only_when_trusted(tmp_path):
    state = {"p.weight": torch.ones(1)}
    source = save(tmp_path / "a.pth", {"model": state, "hooks": Custom()})
    message = refusal(source, tmp_path / "b.pth")
    assert "Custom" in message
    assert "--trust" in message
    assert "MODEL." not in message
    main([source, str(tmp_path / "b.pth"), "--trust"])
    assert_same(model_in(tmp_path / "b.pth"), state)


@pytest.mark.parametrize(
    ("state", "args", "said"),
    [
        ({"a.b": torch.ones(1)}, ["--to-names", "timm"], "backbone alone."),
        ({"backbone.b": torch.ones(1)}, ["--to-names", "timm"], "--part backbone"),
        ({"a.b": torch.ones(1)}, ["--part", "backbone"], "no name begins with 'backbone.'"),
        ("pvt_v2_b1", ["--to-names", "torchvision"], "torchvision has no PVTv2-B1"),
        ("resnet18d", ["--to-names", "torchvision"], "torchvision has no ResNet-18-vd"),
        (DEFORMABLE, ["--to-names", "timm"], "timm has no ResNet-18 with deformable convolutions"),
    ],
)
def test_names_that_cannot_be_given(tmp_path, state, args, said):
    if state is DEFORMABLE:
        state = small({**names_and_shapes("resnet18"), **DEFORMABLE})
    state = small(names_and_shapes(state)) if isinstance(state, str) else state
    message = refusal(save(tmp_path / "a.pth", state), tmp_path / "b.pth", *args)
    assert said in message
    assert not list(tmp_path.glob("b.*"))


@pytest.fixture
def no_room() -> Iterator[None]:
    """Files of more than 50 kB cannot be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, request, suffix):
    source = save(tmp_path / "source.pth", {"w": torch.rand(100_000)})
    dest = tmp_path / f"b{suffix}"
    dest.write_text("old")
    request.getfixturevalue("no_room")
    message = refusal(source, dest, "--overwrite")
    assert f"{dest} cannot be written: [Errno 27]" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == [dest.name, "source.pth"]
    assert dest.read_text() == "old"
