"""ImageNet files of torchvision fill the trunks."""

from pathlib import Path

import pytest
import torch
import torchvision

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.modeling import build_model


@pytest.mark.parametrize(
    ("config", "network"),
    [
        ("sharpmask/deepmask_vgg_a", "vgg11"),
        ("sharpmask/deepmask_r50", "resnet50"),
        ("sharpmask/deepmask_r50_p3", "resnet50"),
        ("sharpmask/sharpmask_r50", "resnet50"),
    ],
)
def test_the_whole_trunk_is_found(config: str, network: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    # The classifiers are large and not wanted.
    state = getattr(torchvision.models, network)(weights=None, num_classes=2).state_dict()
    torch.save({key: value for key, value in state.items() if "classifier" not in key}, file)
    model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
    checkpointer = InstSegCheckpointer(model)
    checkpointer.load(str(file))
    assert not [name for name in checkpointer.report.missing if name.startswith("backbone.")]
    first = "features.0.weight" if network == "vgg11" else "conv1.weight"
    convolutions = [m for m in model.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    assert torch.equal(convolutions[0].weight, state[first])
