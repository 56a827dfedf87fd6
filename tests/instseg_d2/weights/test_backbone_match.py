"""Files of another backbone than the model's, told in both directions."""

import logging
import pickle
import re

import pytest
import timm
import torch
import torchvision

from instseg_d2.checkpoint import InstSegCheckpointer, LoadOptions
from instseg_d2.config import load_config
from instseg_d2.errors import WeightsError
from instseg_d2.weights.formats import TORCHVISION_RESNET, rename
from tests.small_backbones import native_state, only_backbone, small_resnet
from tests.small_model import save_pth

DEPTH_101 = ("DEPTH", "101")
UP_TO_RES4 = ("OUT_FEATURES", "('res2', 'res3', 'res4')")
DEFORMABLE = ("DEFORM_ON_PER_STAGE", "(False, True, True, True)")
MODULATED = ("DEFORM_MODULATED", "True")


def write_whole_model(folder, native):
    return save_pth(folder / "a.pth", {f"backbone.{n}": value for n, value in native.items()})


def write_torchvision(folder, native):
    state = rename(native, TORCHVISION_RESNET.from_native)
    state["fc.weight"] = torch.zeros(10, 4)
    return save_pth(folder / "a.pth", state)


def write_zoo_pickle(folder, native):
    model = {name: value.numpy() for name, value in native.items()}
    model["stem.fc.weight"] = torch.zeros(10, 4).numpy()
    content = {"model": model, "__author__": "torchvision", "matching_heuristics": True}
    (folder / "a.pkl").write_bytes(pickle.dumps(content))
    return str(folder / "a.pkl")


WRITERS = (write_whole_model, write_torchvision, write_zoo_pickle)


def load(path, model, **options):
    checkpointer = InstSegCheckpointer(model, options=LoadOptions(**options))
    checkpointer.load(path)
    return checkpointer


@pytest.fixture
def level(caplog):
    """The level at which the report of loading was logged."""
    caplog.set_level(logging.INFO, "fvcore.common.checkpoint")

    def find():
        logged = [e for e in caplog.records if e.getMessage().startswith("Loaded weights")]
        return logging.getLevelName(logged[-1].levelno)

    return find


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (DEPTH_101, (), "it has 255 tensors for 'backbone' that the model lacks, .* deeper"),
        ((), DEPTH_101, "of the 520 tensors of 'backbone', 265 were found in it"),
        (DEPTH_101, UP_TO_RES4, "it has 255 tensors for 'backbone' that the model lacks"),
        (UP_TO_RES4, (), "of the 265 tensors of 'backbone', 215 were found in it"),
    ],
)
def test_resnets_of_another_depth(tmp_path, tiny_overrides, write, theirs, ours, said):
    path = write(tmp_path, native_state(small_resnet(tiny_overrides, *theirs)))
    model = small_resnet(tiny_overrides, *ours)
    with pytest.raises(WeightsError, match=said):
        load(path, model)
    load(path, model, allow_partial=True)


@pytest.mark.parametrize("write", WRITERS)
def test_the_message_says_which_backbones_they_are(tmp_path, tiny_overrides, write):
    path = write(tmp_path, native_state(small_resnet(tiny_overrides, *DEPTH_101)))
    with pytest.raises(WeightsError) as error:
        load(path, small_resnet(tiny_overrides))
    assert "ResNet-50 in the model, ResNet-101 in the file" in str(error.value)
    assert re.search(r"in the file only:  .*res4\.(6|10)\.conv1\.", str(error.value))
    assert "fc.weight" not in str(error.value)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("ours", [(), UP_TO_RES4])
def test_a_model_may_leave_out_whole_stages(tmp_path, tiny_overrides, level, write, ours):
    path = write(tmp_path, native_state(small_resnet(tiny_overrides)))
    model = small_resnet(tiny_overrides, *ours)
    report = load(path, model).report
    assert set(report.matched) == set(model.state_dict())
    assert (report.missing, report.misshaped) == ([], [])
    assert level() == "INFO"


@pytest.mark.parametrize(
    ("theirs", "ours", "report"),
    [
        (DEFORMABLE, (), (265, 0, 26, 0)),
        ((), DEFORMABLE, (265, 26, 0, 0)),
        (DEFORMABLE, DEFORMABLE, (291, 0, 0, 0)),
        (DEFORMABLE, DEFORMABLE + MODULATED, (265, 0, 0, 26)),
        (DEPTH_101, DEPTH_101 + DEFORMABLE, (520, 60, 0, 0)),
    ],
)
def test_offsets_of_deformable_convolutions_may_differ(
    tmp_path, tiny_overrides, level, theirs, ours, report
):
    path = write_whole_model(tmp_path, native_state(small_resnet(tiny_overrides, *theirs)))
    found = load(path, small_resnet(tiny_overrides, *ours)).report
    lists = (found.matched, found.missing, found.unexpected, found.misshaped)
    assert tuple(map(len, lists)) == report
    assert level() == ("INFO" if theirs == ours else "WARNING")


def test_a_few_other_layers_are_reported_and_no_error(tmp_path, tiny_overrides, level):
    native = native_state(small_resnet(tiny_overrides))
    native.update({f"res2.0.extra{index}.weight": torch.zeros(1) for index in range(29)})
    load(write_whole_model(tmp_path, native), small_resnet(tiny_overrides))
    assert level() == "WARNING"
    native["res2.0.extra29.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="it has 30 tensors for"):
        load(write_whole_model(tmp_path, native), small_resnet(tiny_overrides))


def test_one_tensor_of_another_shape_is_an_error(tmp_path, tiny_overrides):
    native = native_state(small_resnet(tiny_overrides))
    native["stem.conv1.weight"] = native["stem.conv1.weight"][:, :1]
    path = write_whole_model(tmp_path, native)
    model = small_resnet(tiny_overrides)
    with pytest.raises(
        WeightsError,
        match="264 were found in it and 1 in another shape",
    ):
        load(path, model)
    load(path, model, allow_partial=True)


@pytest.mark.parametrize("write", WRITERS)
def test_within_a_feature_pyramid(tmp_path, tiny_overrides, level, write):
    pyramid = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", "8",
               "MODEL.FPN.IN_FEATURES", "('res3', 'res4', 'res5')")  # fmt: skip
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*tiny_overrides, *pyramid])
    model = only_backbone(cfg)
    heuristics = "" if write is write_zoo_pickle else "?matching_heuristics=True"
    native = native_state(small_resnet(tiny_overrides, *DEPTH_101))
    if write is write_whole_model:
        native = {f"bottom_up.{name}": value for name, value in native.items()}
    with pytest.raises(
        WeightsError, match="it has 255 tensors for 'backbone' that the model lacks"
    ):
        load(write(tmp_path, native) + heuristics, model)


CONFIGS = "sparseinst/sparse_inst_"


@pytest.mark.parametrize(
    ("source", "config", "said"),
    [
        (
            "torchvision resnet50",
            f"{CONFIGS}r50vd_giam",
            "of the 275 tensors of 'backbone', 244 were found in it and 4 in another shape",
        ),
        (
            "timm resnet50c",
            f"{CONFIGS}r50vd_giam",
            "255 were found in it and 4 in another shape",
        ),
        (
            "timm pvt_v2_b2",
            f"{CONFIGS}pvt_b1_giam",
            "it has 156 tensors for 'backbone' that the model lacks",
        ),
        (
            "timm pvt_v2_b2",
            f"{CONFIGS}pvt_b2_li_giam",
            "319 were found in it and 13 in another shape",
        ),
    ],
    ids=["R50 to R50-vd", "R50-c to R50-vd", "B2 to B1", "B2 to B2-li"],
)
def test_similar_backbones(tmp_path, source, config, said):
    library, name = source.split()
    create = torchvision.models.get_model if library == "torchvision" else timm.create_model
    with torch.device("meta"):
        state = create(name).state_dict()
    # Of full shape, yet a number long.
    state = {key: torch.zeros((), dtype=v.dtype).expand(v.shape) for key, v in state.items()}
    path = save_pth(tmp_path / "a.pth", state)
    model = only_backbone(load_config(config, ["MODEL.DEVICE", "cpu"]))
    with pytest.raises(WeightsError, match=said):
        load(path, model)


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ("16", "11", "it has 10 tensors for 'backbone' that the model lacks"),
        ("11", "16", "of the 26 tensors of 'backbone', 16 were found in it"),
    ],
)
def test_vggs_of_another_depth(tmp_path, tiny_overrides, theirs, ours, said):
    models = [
        only_backbone(
            load_config("sharpmask/deepmask_vgg_a", [*tiny_overrides, "MODEL.VGG.DEPTH", depth])
        )
        for depth in (theirs, ours)
    ]
    path = write_whole_model(tmp_path, native_state(models[0]))
    with pytest.raises(WeightsError, match=said):
        load(path, models[1])
