import pytest
import torch
from torch import nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from sharpmask_d2.heads import DESIGNS, Head, PooledWindow, resize_masks
from tests.sharpmask_d2.small_networks import count

every_design = pytest.mark.parametrize("design", DESIGNS)


def small_head(design: str, cells: int = 4, **kwargs: int) -> Head:
    channels = 0 if design == "original" else 5
    options = {"encoding_dim": 7, "score_dim": 6, "mask_size": 9, "channels": channels}
    return Head(in_channels=3, cells=cells, design=design, **{**options, **kwargs}).eval()


@every_design
@pytest.mark.parametrize("cells", [4, 5])
def test_a_whole_map_is_read_as_its_windows(design: str, cells: int) -> None:
    head = small_head(design, cells).double()
    feature = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    dense = head(feature)
    assert dense.encoding.shape == (2, 7, 10 - cells, 8 - cells)
    assert dense.score_logits.shape == (2, 1, 10 - cells, 8 - cells)
    for y in range(10 - cells):
        for x in range(8 - cells):
            window = head(feature[..., y : y + cells, x : x + cells])
            for of_window, of_map in zip(window, dense, strict=True):
                torch.testing.assert_close(of_window[..., 0, 0], of_map[..., y, x])


def linear(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A convolution over a whole window as a fully connected layer."""
    return F.linear(x.flatten(1), layer.weight.flatten(1), layer.bias)


@pytest.mark.parametrize("cells", [4, 5])
def test_fully_connected_layers_equal_their_convolutions(cells: int) -> None:
    feature = torch.randn(2, 3, cells, cells, dtype=torch.float64)

    head = small_head("C", cells).double()
    encoding = linear(head.encode, head.reduce(feature))
    torch.testing.assert_close(head(feature).encoding.flatten(1), encoding)
    score = linear(head.score[4], F.relu(linear(head.score[1], encoding)))
    torch.testing.assert_close(head(feature).score_logits.flatten(1), score)
    masks = linear(head.mask, encoding).view(2, 9, 9)
    torch.testing.assert_close(head.masks(encoding), masks)

    pooled = PooledWindow(3, 8, cells).double()
    expected = linear(pooled.fc, F.max_pool2d(feature, 2))
    torch.testing.assert_close(pooled(feature).flatten(1), expected)


def reached(output: torch.Tensor, head: Head) -> set[str]:
    """The parts of the head whose weights an output depends on."""
    head.zero_grad()
    output.sum().backward()
    return {
        name.split(".")[0]
        for name, parameter in head.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


@pytest.mark.parametrize(
    ("design", "of_mask", "of_score"),
    [
        ("original", {"encode", "mask"}, {"encode_score", "score"}),
        ("A", {"reduce", "encode", "mask"}, {"reduce", "encode_score", "score"}),
        ("B", {"reduce", "encode", "mask"}, {"reduce", "encode_score", "score"}),
        ("C", {"reduce", "encode", "mask"}, {"reduce", "encode", "score"}),
    ],
)
def test_designs_share_what_they_say(design: str, of_mask: set[str], of_score: set[str]) -> None:
    head = small_head(design)
    feature = torch.randn(2, 3, 4, 4)
    assert reached(head.masks(head(feature).encoding.flatten(1)), head) == of_mask
    assert reached(head(feature).score_logits, head) == of_score


@every_design
def test_no_nonlinearity_follows_the_encoding(design: str) -> None:
    encoding = small_head(design)(torch.randn(50, 3, 4, 4)).encoding
    assert (encoding < 0).any()
    assert (encoding > 0).any()


@pytest.mark.parametrize("design", ["A", "B", "C"])
def test_without_a_reduction_the_feature_is_read_itself(design: str) -> None:
    head = small_head(design, channels=0)
    feature = torch.randn(1, 3, 4, 4)
    assert head.reduce(feature) is feature
    assert head(feature).encoding.shape == (1, 7, 1, 1)


def number_of_weights(head: Head) -> int:
    return sum(value.numel() for name, value in head.named_parameters() if "weight" in name)


@pytest.mark.parametrize(
    ("design", "channels", "weights"),
    [
        ("C", 128, 1024 * 128 + 12800 * 512 + 512 * 3136 + 512 * 1024 + 1024),
        ("C", 0, 102400 * 512 + 512 * 3136 + 512 * 1024 + 1024),
        ("B", 128, 1024 * 128 + 2 * 12800 * 512 + 512 * 3136 + 512 * 1024 + 1024),
        (
            "A", 128,
            1024 * 128 + 128 * 512 + 51200 * 512 + 3200 * 512
            + 512 * 3136 + 512 * 1024 + 1024,
        ),
        (
            "original", 0,
            1024 * 512 + 51200 * 512 + 25600 * 512 + 512 * 3136 + 512 * 1024 + 1024,
        ),
    ],
)  # fmt: skip
def test_full_size_by_hand(design: str, channels: int, weights: int) -> None:
    with torch.device("meta"):
        head = Head(in_channels=1024, cells=10, design=design, channels=channels)
    assert number_of_weights(head) == weights
    assert count(head) - weights < 6000  # biases


def test_dropout_is_for_training_and_the_score_alone() -> None:
    head = small_head("C")
    feature = torch.randn(4, 3, 4, 4)
    torch.testing.assert_close(head(feature), head(feature))
    head.train()
    first, second = head(feature), head(feature)
    torch.testing.assert_close(first.encoding, second.encoding)
    assert not torch.equal(first.score_logits, second.score_logits)


def test_no_window_gives_no_mask() -> None:
    assert small_head("C").masks(torch.zeros(0, 7)).shape == (0, 9, 9)


def test_masks_are_resized_corner_to_corner() -> None:
    masks = torch.randn(2, 5, 5)
    resized = resize_masks(masks, 9)
    torch.testing.assert_close(resized[:, ::2, ::2], masks)
    torch.testing.assert_close(resized[:, 0, 1], masks[:, 0, :2].mean(1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"design": "D"}, r"HEAD\.NAME is 'D'.*original, A, B, C"),
        ({"design": "original"}, r"original has no reduction.*TRUNK\.CHANNELS 0 \(it is 128\)"),
        ({"design": "A", "cells": 1}, r"WINDOW_SIZE\) has only one"),
        ({"channels": -8}, r"TRUNK\.CHANNELS is -8"),
        ({"dropout": float("nan")}, r"DROPOUT is nan"),
    ],
)
def test_impossible_settings_name_the_key(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Head(**{"in_channels": 3, "cells": 4, **options})
