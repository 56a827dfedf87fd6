"""Which files are taken for FAIR's, what their users are told, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instseg_d2.errors import WeightsError
from instseg_d2.weights.torch7 import TorchObject, read_torch7
from sharpmask_d2.fair_names import from_torch7
from tests.sharpmask_d2.fair_trees import Sizes, Style, deepmask, sharpmask
from tests.torch7_writer import mutated, torch7_bytes

#: Random changes to a valid model.
MUTATIONS = int(os.environ.get("INSTSEG_D2_MUTATIONS", "3000")) // 20
PLAIN = Style()
TINY = Sizes(stem=2, width=1, out=4, reduced=2, encoding=4, score=3, mask=3, hidden=(2, 2, 2, 2))

Content = dict[str, Any]
Read = Callable[..., Content]


@cache
def file_bytes(architecture: str, style: Style) -> bytes:
    return torch7_bytes({"DeepMask": deepmask, "SharpMask": sharpmask}[architecture](style, TINY))


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(architecture: str, style: Style = PLAIN) -> Content:
        (tmp_path / "model.t7").write_bytes(file_bytes(architecture, style))
        return read_torch7(str(tmp_path / "model.t7"))

    return read


def find(content: Content, place: str) -> Any:
    """A module by its place, such as "trunk[5][1]"."""
    name, *numbers = re.findall(r"\w+", place)
    value = content["model"].fields[name]
    for number in map(int, numbers):
        value = value[number] if isinstance(value, dict) else value.fields["modules"][number]
    return value


# -------------------------------------------------------------------------------------- recognised


@pytest.mark.parametrize("architecture", ["DeepMask", "SharpMask"])
def test_models_without_config_and_as_plain_tables(read: Read, architecture: str) -> None:
    content = read(architecture)
    expected, _ = from_torch7(content)
    for other in (content["model"], {"model": content["model"].fields}, content["model"].fields):
        state, advice = from_torch7(other)
        assert advice.startswith(f"FAIR's {architecture}, ")
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "content",
    [
        None,
        3.0,
        "nn.DeepMask",
        {},
        {"model": None},
        {"model": {}},
        {"model": TorchObject("nn.Sequential", {"modules": {}})},
        {"model": {"trunk": TorchObject("nn.Sequential")}},
        TorchObject("nn.Linear", {"weight": np.zeros((2, 3), np.float32)}),
        np.zeros(3),
    ],
)
def test_other_files_are_left_to_others(content: object) -> None:
    assert from_torch7(content) is None


def test_the_convolution_to_the_mask_may_be_a_module_of_its_own(read: Read) -> None:
    content = read("SharpMask")
    expected, _ = from_torch7(content)
    modules = find(content, "refs[4]").fields["modules"]
    own = {number: modules.pop(number + 4) for number in (1, 2, 3)}
    find(content, "refs")[5] = TorchObject("nn.Sequential", {"modules": own})
    state, _ = from_torch7(content)
    assert torch.equal(state["refinement.output.weight"], expected["refinement.output.weight"])


def test_refs_are_enough(read: Read) -> None:
    content = read("SharpMask")
    expected, _ = from_torch7(content)
    del content["model"].fields["neths"], content["model"].fields["netvs"]
    state, _ = from_torch7(content)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_tensors_are_copies(read: Read) -> None:
    content = read("DeepMask")
    state, _ = from_torch7(content)
    for value in state.values():
        value.fill_(7)
    again, _ = from_torch7(content)
    assert not any(torch.equal(again[name], state[name]) for name in state)


# ------------------------------------------------------------------------------------------ advice


def test_what_differs_from_the_config_is_told(read: Read) -> None:
    style = Style(padding="nn.SpatialReflectionPadding", stride_in_1x1=True, reduced=False)
    _, advice = from_torch7(read("SharpMask", style))
    assert advice.startswith("FAIR's SharpMask, of the config sharpmask/sharpmask_r50 with MODEL.")
    told = dict(re.findall(r"(\S+\.[A-Z_\d]+) (\S+)", advice.split(". Its")[0]))
    node = "MODEL.SHARP_MASK"
    assert told == {
        "MODEL.RESNETS.STRIDE_IN_1X1": "True",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "2",
        "MODEL.RESNETS.WIDTH_PER_GROUP": "1",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "4",
        f"{node}.WINDOW_SIZE": "64",
        f"{node}.TRUNK.CHANNELS": "0",
        f"{node}.HEAD.ENCODING_DIM": "4",
        f"{node}.HEAD.SCORE_DIM": "3",
        f"{node}.HEAD.MASK_SIZE": "3",
        f"{node}.REFINEMENT.HORIZONTAL_CHANNELS": "'[2,2,2,2]'",
        f"{node}.PADDING": "reflect",
    }
    assert "stride in the first 1x1 convolution (MODEL.RESNETS.STRIDE_IN_1X1 True)" in advice


def test_the_stem_may_pad_in_another_way(read: Read) -> None:
    content = read("DeepMask")
    find(content, "trunk[1][1]").class_name = "nn.SpatialReflectionPadding"
    _, advice = from_torch7(content)
    assert "MODEL.SHARP_MASK.STEM_PADDING reflect" in advice


def test_the_size_of_training_masks_is_told(read: Read) -> None:
    content = read("DeepMask")
    assert "MODEL.SHARP_MASK.LOSS.MASK_SIZE 6" in from_torch7(content)[1]
    content["config"]["gSz"] = 112.0
    assert "MASK_SIZE 112" not in from_torch7(content)[1]


# ----------------------------------------------------------------------------------------- refused


def change(place: str, **fields: Any) -> Callable[[Content], None]:
    """Sets fields of a module; None: away with it."""

    def make(content: Content) -> None:
        for name, value in fields.items():
            find(content, place).fields[name] = value

    return make


def reclass(place: str, name: str) -> Callable[[Content], None]:
    def make(content: Content) -> None:
        find(content, place).class_name = name

    return make


def drop(*names: str) -> Callable[[Content], None]:
    def make(content: Content) -> None:
        for name in names:
            del content["model"].fields[name]

    return make


def replace_in(place: str, number: int, value: Any) -> Callable[[Content], None]:
    def make(content: Content) -> None:
        container = find(content, place)
        table = container if isinstance(container, dict) else container.fields["modules"]
        table[number] = value

    return make


def both(*changes: Callable[[Content], None]) -> Callable[[Content], None]:
    def make(content: Content) -> None:
        for one in changes:
            one(content)

    return make


def numbers(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


CONV = "trunk[5][1][1][1][1]"  # the first of the first bottleneck
LOST = np.ndarray((10**6, 10**6), np.float32, numbers(1), 0, (0, 0))

REFUSED = {
    "unknown class": (reclass("trunk[6][2][3]", "nn.Tanh"), r"trunk\[6\]\[2\]\[3\].*'nn\.Tanh'"),
    "own class": (reclass(CONV, "my.SpatialConvolution"), r"'my\.SpatialConvolution'"),
    "no module": (replace_in("trunk", 3, 5.0), r"trunk\[3\] must be a module, but is 5\.0"),
    "gap": (replace_in("trunk", 99, None), "trunk must be a container of modules"),
    "no trunk": (drop("trunk"), "no trunk, only 'fSz', 'maskBranch', 'scoreBranch'"),
    "no mask branch": (drop("maskBranch"), "no maskBranch, only 'fSz', 'scoreBranch', 'trunk'"),
    "no score branch": (drop("scoreBranch"), "the model has no scoreBranch"),
    "no weight": (change(CONV, weight=None), "it has no tensor weight"),
    "no tensor": (change(CONV, weight="w"), "weight must be a tensor of floats, but is the text"),
    "whole numbers": (change(CONV, weight=np.ones((1, 2), int)), "tensor of floats"),
    "other kernel": (change(CONV, weight=numbers(1, 2, 3, 3)), r"1 x 2 x 1 x 1 or 1 x 2, but has"),
    "other channels": (change(CONV, weight=numbers(1, 3, 1, 1)), "but has 1 x 3 x 1 x 1"),
    "three dimensions": (change(CONV, weight=numbers(1, 3, 1)), "but has 1 x 3 x 1"),
    "other field": (change(CONV, nInputPlane=3.0), "nInputPlane is 3, its weight says 2"),
    "groups": (change(CONV, groups=2.0), "several groups"),
    "strides": (change(CONV, dW=2.0), "dW, dH differ"),
    "stride 3": (change(CONV, dW=3.0, dH=3.0), "its stride must be 1 or 2, but is 3"),
    "padded": (change(CONV, padW=1.0, padH=1.0), "padded by 0, .* by 0 before it and 1 in it"),
    "text": (change(CONV, dW="1"), "dW must be a number, but is the text '1'"),
    "not a number": (change(CONV, dW=float("nan")), "must be a whole number, but is nan"),
    "bias": (change(CONV, bias=numbers(3)), "bias must have the size 1, but has 3"),
    "repeated": (change(CONV, weight=LOST), "shows more numbers than it has"),
    "affine": (change("trunk[2]", a=numbers(3)), r"a must have the size 2 or 1 x 2 x 1 x 1"),
    "unpadded": (change("trunk[1][1]", pad_l=0.0, pad_r=0.0, pad_t=0.0, pad_b=0.0), "padded by 3"),
    "lopsided": (change("trunk[1][1]", pad_l=2.0), "pad_l, pad_r, pad_t, pad_b differ"),
    "mixed": (reclass("trunk[5][1][1][1][4][1]", "nn.SpatialZeroPadding"), "in several"),
    "pooling": (change("trunk[4]", kW=2.0, kH=2.0), "kW must be 3, but is 2"),
    "rounding": (change("trunk[4]", ceil_mode=True), "rounded up"),
    "threshold": (
        change("scoreBranch[3]", threshold=0.5),
        r"scoreBranch\[3\].*threshold must be 0",
    ),
    "dropout": (change("scoreBranch[1]", v2=False), "first Dropout"),
    "two scores": (
        change("scoreBranch[5]", weight=numbers(2, 3), bias=numbers(2)),
        "gives 2 numbers, not one score",
    ),
    "mask": (
        change("maskBranch[1][1]", weight=numbers(8, 4), bias=numbers(8)),
        "gives 8 numbers, which are no square mask",
    ),
    "more": (replace_in("scoreBranch", 6, TorchObject("nn.ReLU")), "nothing more is expected"),
    "less": (
        replace_in("scoreBranch", 5, TorchObject("nn.Identity")),
        "scoreBranch ends too early",
    ),
    "one branch": (
        replace_in("trunk[5][2][1]", 3, TorchObject("nn.Identity")),
        "two branches, not 3",
    ),
    "no shortcut": (
        replace_in("trunk[6][1][1]", 2, TorchObject("nn.Identity")),
        "no convolution in the shortcut of a bottleneck from 4 to 8 channels with stride 2",
    ),
    "blocks": (
        replace_in("trunk[7]", 6, TorchObject("nn.Identity")),
        r"has \(3, 4, 5\) bottlenecks",
    ),
    "stages": (
        both(*(replace_in("trunk", n, TorchObject("nn.Identity")) for n in (6, 7))),
        "has 1 stages",
    ),
    "window": (change("trunk[12]", weight=numbers(4, 24)), "24 numbers, which is no square of 2"),
    "fSz": (lambda content: content["model"].fields.update(fSz=5.0), "model has fSz 5.* say 4"),
    "iSz": (lambda content: content["config"].update(iSz=160.0), r"\(iSz\) of 160 .* for 64"),
    "oSz": (lambda content: content["config"].update(oSz=56.0), "config has oSz 56.* say 3"),
    "itself": (
        lambda content: replace_in("trunk", 3, find(content, "trunk"))(content),
        "more than 10000 modules, or more than 50 within each other",
    ),
}

REFUSED_REFINEMENTS = {
    "no mask branch": (drop("maskBranchDM"), "the model has no maskBranchDM"),
    "no refs": (drop("refs"), "the model's refs must be a table of modules, but is absent"),
    "no third": (replace_in("refs", 3, None), r"refs\[3\] must be a module, but is absent"),
    "no first": (
        both(replace_in("refs", 0, None), replace_in("netvs", 0, None)),
        r"no netvs\[0\]",
    ),
    "no output": (
        lambda content: [find(content, "refs[4]").fields["modules"].pop(n) for n in (5, 6, 7)],
        r"refs\[4\] ends too early",
    ),
    "first state": (
        change("netvs[0][1]", weight=numbers(24, 4), bias=numbers(24)),
        "24 numbers, which are no channels of 4 x 4 cells",
    ),
    "skips": (
        lambda content: content["model"].fields.update(skpos={1: 8.0, 2: 6.0, 3: 5.0, 4: 2.0}),
        r"end with res4, res3, res2, stem, but names 8\.0, 6\.0, 5\.0, 2\.0",
    ),
    "no skips": (lambda content: content["model"].fields.update(skpos="x"), "but names $"),
    "km": (lambda content: content["model"].fields.update(km=64.0), "model has km 64.* say 32"),
    "crop": (
        change("neths[3][1]", pad_l=-1.0, pad_r=-1.0, pad_t=-1.0, pad_b=-1.0),
        r"refs\[3\] crops 1 cells of its skip feature, not 4",
    ),
    "upsampling": (change("refs[2][4]", scale_factor=4.0), "it must double the size"),
    "bilinear": (
        reclass("refs[2][4]", "nn.SpatialUpSamplingBilinear"),
        r"refs\[2\]\[4\] \(nn.SpatialUpSamplingBilinear\): expected here: nearest",
    ),
    "branches": (
        lambda content: replace_in("refs[2][1]", 2, find(content, "neths[2]"))(content),
        "a branch of three convolutions and one of two",
    ),
    "channels": (
        change("netvs[4][5]", weight=numbers(3, 4, 3, 3), bias=numbers(3), nOutputPlane=3.0),
        r"makes \[2, 4, 2\] channels of its skip feature and \[4, 3\] of a state of 4",
    ),
    "damaged": (
        lambda content: replace_in(
            "neths", 2, read_twice(find(content, "neths[2]"), "weight", numbers(2, 8, 3, 3))
        )(content),
        r"neths\[2\] and refs must have the same weights.*steps\.1\.skip\.0",
    ),
}


def read_twice(horizontal: TorchObject, name: str, value: np.ndarray) -> TorchObject:
    """A copy whose first convolution has another tensor."""
    modules = dict(horizontal.fields["modules"])
    assert modules[1].class_name == "nn.SpatialZeroPadding"
    modules[3] = TorchObject(modules[3].class_name, {**modules[3].fields, name: value})
    return TorchObject("nn.Sequential", {"modules": modules})


@pytest.mark.parametrize("case", REFUSED)
def test_deepmasks_that_are_refused(read: Read, case: str) -> None:
    content = read("DeepMask")
    make, message = REFUSED[case]
    make(content)
    with pytest.raises(WeightsError, match=message):
        from_torch7(content)


@pytest.mark.parametrize("case", REFUSED_REFINEMENTS)
def test_sharpmasks_that_are_refused(read: Read, case: str) -> None:
    content = read("SharpMask")
    make, message = REFUSED_REFINEMENTS[case]
    make(content)
    with pytest.raises(WeightsError, match=message):
        from_torch7(content)


def test_a_few_modules_that_are_meant_to_be_many(read: Read) -> None:
    """Each contains the next twice: 2^40 in all."""
    content = read("DeepMask")
    module = TorchObject("nn.Identity")
    for _ in range(40):
        module = TorchObject("nn.Sequential", {"modules": {1: module, 2: module}})
    replace_in("trunk", 3, module)(content)
    with pytest.raises(WeightsError, match="more than 10000 modules"):
        from_torch7(content)


def test_random_changes_of_bytes_never_crash(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(MUTATIONS):
        (tmp_path / "a.t7").write_bytes(mutated(file_bytes("SharpMask", PLAIN), generator))
        try:
            from_torch7(read_torch7(str(tmp_path / "a.t7")))
        except WeightsError:
            refused += 1
    assert 0.2 < refused / MUTATIONS < 0.99


def test_random_changes_of_values_never_crash(read: Read) -> None:
    generator = np.random.default_rng(0)
    content = read("SharpMask")
    tables = [table for table in tables_in(content) if table]
    values = [None, 0.0, -1.0, 2.0, float("nan"), float("inf"), 1e300, "text", True, {}]
    values += [numbers(0), numbers(1), numbers(2, 2), numbers(4, 2, 1, 1), LOST]
    values += [TorchObject("nn.ReLU"), TorchObject("nn.Linear"), TorchObject("nn.Own"), *tables]
    values += [value for table in tables for value in table.values()]
    refused = 0
    for _ in range(MUTATIONS):
        table = tables[generator.integers(len(tables))]
        key = list(table)[generator.integers(len(table))]
        before = table[key]
        table[key] = values[generator.integers(len(values))]
        try:
            from_torch7(content)
        except WeightsError as error:
            refused += 1
            assert len(str(error)) < 1000  # noqa: PT017
        table[key] = before
    assert 0.1 < refused / MUTATIONS < 0.95


def tables_in(content: Content) -> list[dict[Any, Any]]:
    """All tables and fields of objects."""
    found: dict[int, dict[Any, Any]] = {}
    waiting: list[Any] = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, TorchObject):
            value = value.fields
        if isinstance(value, dict) and id(value) not in found:
            found[id(value)] = value
            waiting += value.values()
    return list(found.values())
