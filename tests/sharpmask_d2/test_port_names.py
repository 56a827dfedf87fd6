"""Which files are taken for the port's, and what is refused; values are in test_goldens.py."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from instseg_d2.errors import WeightsError
from sharpmask_d2.port_names import from_port, our_name, recognises
from tests.sharpmask_d2.small_networks import small_model


def small_port_state() -> dict[str, Tensor]:
    """Some layers of the port, with the aliases of a SharpMask."""
    state = {
        "trunk.0.0.1.weight": torch.randn(4, 3, 7, 7),
        "trunk.0.1.running_mean": torch.randn(4),
        "trunk.0.1.num_batches_tracked": torch.tensor(3),
        "trunk.1.2.weight": torch.randn(6, 5, 2, 2),
        "scoreBranch.4.weight": torch.randn(1, 8, 1, 1),
        "netvs.0.weight": torch.randn(6, 3, 2, 2),
        "netvs.0.bias": torch.randn(3),
        "neths.1.2.weight": torch.randn(4, 4, 3, 3),
    }
    aliases = {"refs.0.weight": "netvs.0.weight", "refs.2.layer1.2.weight": "neths.1.2.weight"}
    return {**state, **{alias: state[name] for alias, name in aliases.items()}}


@pytest.mark.parametrize(
    ("port", "ours"),
    [
        ("trunk.0.0.1.weight", "backbone.stem.conv1.weight"),
        ("trunk.0.1.running_var", "backbone.stem.conv1.norm.running_var"),
        ("trunk.0.4.0.conv1.weight", "backbone.res2.0.conv1.weight"),
        ("trunk.0.5.3.conv2.1.weight", "backbone.res3.3.conv2.weight"),
        ("trunk.0.6.5.bn3.bias", "backbone.res4.5.conv3.norm.bias"),
        ("trunk.0.6.0.downsample.0.weight", "backbone.res4.0.shortcut.weight"),
        ("trunk.0.6.0.downsample.1.weight", "backbone.res4.0.shortcut.norm.weight"),
        ("trunk.1.0.bias", "head.reduce.0.bias"),
        ("trunk.1.2.bias", "head.encode.bias"),
        ("maskBranch.0.0.weight", "head.mask.weight"),
        ("maskBranchDM.0.0.weight", "head.mask.weight"),
        ("scoreBranch.1.bias", "head.score.1.bias"),
        ("neths.0.7.weight", "refinement.steps.0.skip_out.weight"),
        ("neths.2.5.weight", "refinement.steps.2.skip.2.weight"),
        ("netvs.4.4.bias", "refinement.steps.3.vertical_out.bias"),
        ("refs.3.layer2.1.bias", "refinement.steps.2.vertical.0.bias"),
        ("refs.1.layer1.1.weight", "refinement.steps.0.skip.0.weight"),
        ("refs.4.layer1.8.bias", "refinement.steps.3.skip_out.bias"),
        ("refs.5.1.weight", "refinement.output.weight"),
        ("neths.1.1.weight", None),  # a crop of the context, not a convolution
        ("neths.0.2.weight", None),
        ("trunk.0.7.0.conv1.weight", None),
        ("trunk.0.4.0.conv1.1.weight", None),
        ("backbone.stem.conv1.weight", None),
    ],
)
def test_names_by_hand(port: str, ours: str | None) -> None:
    assert our_name(port) == ours


def test_other_files_are_not_taken_for_the_ports() -> None:
    state = small_port_state()
    assert recognises(state)
    assert not recognises(small_model("SharpMask").state_dict())
    assert not recognises(["conv1.weight", "layer1.0.conv1.weight", "fc.weight"])
    assert not recognises([*state, "optimizer.lr"])
    assert not recognises([])
    for name in ("trunk.0.0.1.weight", "trunk.1.2.weight", "scoreBranch.4.weight"):
        assert not recognises(set(state) - {name})


def test_counters_are_dropped_and_the_argument_stays() -> None:
    state = small_port_state()
    names = list(state)
    mapped = from_port(state)
    assert list(state) == names
    assert not any("num_batches" in name for name in mapped)
    assert len(mapped) == len(names) - 1 - 2


def test_the_transposed_convolution_becomes_linear() -> None:
    state = small_port_state()
    mapped = from_port(state)
    encodings = torch.randn(5, 6)
    expected = F.conv_transpose2d(
        encodings[:, :, None, None], state["netvs.0.weight"], state["netvs.0.bias"]
    )
    weight, bias = (mapped[f"refinement.project.{kind}"] for kind in ("weight", "bias"))
    actual = F.linear(encodings, weight, bias).view(5, 3, 2, 2)
    torch.testing.assert_close(actual, expected)


def test_one_name_of_an_alias_is_enough() -> None:
    state = small_port_state()
    full = from_port(state)
    for name in ("neths.1.2.weight", "refs.2.layer1.2.weight"):
        rest = {key: value for key, value in state.items() if key != name}
        assert torch.equal(
            from_port(rest)["refinement.steps.1.skip.0.weight"],
            full["refinement.steps.1.skip.0.weight"],
        )


def test_what_does_not_fit_is_refused() -> None:
    state = small_port_state()
    with pytest.raises(WeightsError, match=r"2 of 12 tensors.*trunk\.0\.9\.weight, fc\.bias"):
        from_port({**state, "trunk.0.9.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})
    other = state["neths.1.2.weight"] + 1
    with pytest.raises(WeightsError, match=r"neths\.1\.2\.weight and refs\.2\.layer1.*differ"):
        from_port({**state, "refs.2.layer1.2.weight": other})
    del state["netvs.0.bias"]
    with pytest.raises(WeightsError, match=r"\(512, 32, 10, 10\) and \(32,\).*and None"):
        from_port(state)
    state["netvs.0.bias"] = torch.zeros(4)
    with pytest.raises(WeightsError, match=r"\(6, 3, 2, 2\) and \(4,\)"):
        from_port(state)
