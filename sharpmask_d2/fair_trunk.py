"""The trunk of FAIR's networks: a ResNet, a reduction of its channels, the encoding of a window.

FAIR's trunk is one container: convolution, fixed norm, ReLU and max-pooling; three stages of
bottlenecks; a crop of the context; a 1x1 convolution and ReLU; and a fully connected layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from instseg_d2.errors import WeightsError

from .fair_cursor import Conv, Converted, Cursor
from .fair_layers import dissolve_children

DEPTHS = {(3, 4): 50, (3, 4, 6): 50, (3, 4, 23): 101, (3, 8): 152, (3, 8, 36): 152}
"""Blocks of the stages -> layers, as ResNets are called."""


@dataclass
class Trunk:
    """What the other parts of the model and the config depend on.

    Attributes:
        channels: of the features "stem", "res2" and so on, in this order.
        stride: of the last.
        cells: side of a window in that.
        crop: cells on each side of a patch that are cut off there.
        encoding_dim: length of an encoding.
        feature_after: number of a module directly in the trunk, from 1 -> the feature it ends with.
        keys: of the config, with their values.
    """

    channels: dict[str, int]
    stride: int
    cells: int
    crop: int
    encoding_dim: int
    feature_after: dict[float, str]
    keys: dict[str, Any]


@dataclass(frozen=True)
class _Block:
    """A bottleneck.

    Attributes:
        layers: name within the block, convolution and norm.
    """

    layers: Sequence[tuple[str, Conv, dict[str, Tensor]]]

    @property
    def width(self) -> int:
        return self.layers[0][1].out_channels

    @property
    def out_channels(self) -> int:
        return self.layers[2][1].out_channels

    @property
    def strides(self) -> tuple[int, int]:
        """Of the first 1x1 and the 3x3 convolution."""
        return self.layers[0][1].stride, self.layers[1][1].stride


@dataclass
class _Stages:
    """The blocks of each stage, from ``res2``."""

    blocks: list[list[_Block]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [f"res{number}" for number in range(2, 2 + len(self.blocks))]


def read_trunk(module: object, converted: Converted) -> Trunk:
    """Read the trunk.

    Args:
        module: from the file.
        converted: gets ``backbone.*``, ``head.reduce.*`` and ``head.encode.*``.

    Raises:
        WeightsError: it is another network.
    """
    parts = dissolve_children(module, "trunk")
    cursor = Cursor([layer for part in parts for layer in part], "trunk")
    stem = cursor.conv(7, 3, stride=2)
    converted.add_conv("backbone.stem.conv1", stem, cursor.norm(stem))
    cursor.relu()
    ends = {"stem": {cursor.position}}  # after how many layers a feature is there
    _read_pooling(cursor)
    stages = _read_stages(cursor, converted, stem.out_channels, ends)
    last = stages.names[-1]
    out_channels = [blocks[0].out_channels for blocks in stages.blocks]
    channels = {"stem": stem.out_channels, **dict(zip(stages.names, out_channels, strict=True))}
    crop = cursor.crop()
    ends[last].add(cursor.position)
    reduced = _read_reduction(cursor, converted, channels[last])
    weight, bias = cursor.window(reduced or channels[last])
    converted.add("head.encode", weight, bias)
    cursor.end()
    stride, cells = 2 ** (1 + len(stages.blocks)), weight.shape[-1]
    keys = {
        **_backbone_keys(stages, stem.out_channels),
        "MODEL.SHARP_MASK.WINDOW_SIZE": cells * stride,
        "MODEL.SHARP_MASK.TRUNK.FEATURE": last,
        "MODEL.SHARP_MASK.TRUNK.CHANNELS": reduced,
        "MODEL.SHARP_MASK.HEAD.ENCODING_DIM": len(weight),
    }
    if crop:  # networks prepared for whole images have lost it
        keys["MODEL.SHARP_MASK.CONTEXT"] = crop * stride
    return Trunk(
        channels=channels,
        stride=stride,
        cells=cells,
        crop=crop,
        encoding_dim=len(weight),
        feature_after=_features_after([len(part) for part in parts], ends),
        keys=keys,
    )


def _read_pooling(cursor: Cursor) -> None:
    layer = cursor.take("max-pooling")
    for names, value in ((("kW", "kH"), 3), (("dW", "dH"), 2), (("padW", "padH"), 1)):
        if layer.same(*names) != value:
            layer.refuse(f"its field {names[0]} must be {value}, but is {layer.same(*names)}")
    if layer.module.fields.get("ceil_mode"):
        layer.refuse("its size is rounded up, which the pooling here does not")


def _read_stages(
    cursor: Cursor, converted: Converted, channels: int, ends: dict[str, set[int]]
) -> _Stages:
    """The bottlenecks; one that halves the size begins a stage."""
    stages = _Stages()
    while cursor.next_kind() == "branches":
        block = _read_block(cursor, channels)
        if not stages.blocks or 2 in block.strides:
            stages.blocks.append([])
        name = stages.names[-1]
        for layer, conv, norm in block.layers:
            converted.add_conv(f"backbone.{name}.{len(stages.blocks[-1])}.{layer}", conv, norm)
        stages.blocks[-1].append(block)
        ends[name] = {cursor.position}
        channels = block.out_channels
    if len(stages.blocks) not in (2, 3):
        raise WeightsError(
            f"the trunk has {len(stages.blocks)} stages of bottlenecks; those of FAIR's networks "
            "have three (up to stride 16), or two"
        )
    return stages


def _read_block(cursor: Cursor, channels: int) -> _Block:
    table = cursor.take("branches")
    if len(table.branches) != 2:
        table.refuse(f"a bottleneck has two branches, not {len(table.branches)}")
    shortcut, main = sorted(table.branches, key=len)
    inner = Cursor(main, table.where)
    layers: list[tuple[str, Conv, dict[str, Tensor]]] = []
    for number, kernel in enumerate((1, 3, 1), start=1):
        if layers:
            inner.relu()
        conv = inner.conv(
            kernel, layers[-1][1].out_channels if layers else channels, 1 if number == 3 else None
        )
        layers.append((f"conv{number}", conv, inner.norm(conv)))
    inner.end()
    stride = layers[0][1].stride * layers[1][1].stride
    out_channels = layers[2][1].out_channels
    if shortcut:
        inner = Cursor(shortcut, table.where)
        conv = inner.conv(1, channels, stride)
        layers.append(("shortcut", conv, inner.norm(conv)))
        inner.end()
    # As in the ResNet here, a shortcut has a convolution where the channels change.
    if bool(shortcut) == (channels == out_channels) or (stride != 1 and not shortcut):
        table.refuse(
            f"{'no ' if not shortcut else ''}convolution in the shortcut of a bottleneck from "
            f"{channels} to {out_channels} channels with stride {stride}"
        )
    if layers[-1][1].out_channels != out_channels or stride > 2:
        table.refuse("the branches of a bottleneck give maps of different sizes")
    cursor.take("sum")
    cursor.relu()
    return _Block(layers)


def _read_reduction(cursor: Cursor, converted: Converted, channels: int) -> int:
    """The 1x1 convolution and ReLU; the channels after them, 0 where there is none."""
    if (cursor.next_kind(), cursor.next_kind(1)) != ("convolution", "ReLU"):
        return 0
    conv = cursor.conv(1, channels)
    converted.add_conv("head.reduce.0", conv)
    cursor.relu()
    return conv.out_channels


def _backbone_keys(stages: _Stages, stem_channels: int) -> dict[str, Any]:
    """Keys under ``MODEL.RESNETS``, by which a network here has these layers."""
    counts = tuple(len(blocks) for blocks in stages.blocks)
    if counts not in DEPTHS:
        raise WeightsError(f"the trunk has {counts} bottlenecks in its stages, as no ResNet here")
    first = stages.blocks[0][0]
    for number, blocks in enumerate(stages.blocks):
        expected = (first.width * 2**number, first.out_channels * 2**number)
        for block in blocks:
            inner = block.layers[1][1].out_channels
            if (block.width, block.out_channels) != expected or inner != block.width:
                raise WeightsError(
                    f"a bottleneck in stage {number + 1} of the trunk has {block.width}, {inner} "
                    f"and {block.out_channels} channels; a ResNet, which doubles them from stage "
                    f"to stage, has {expected[0]}, {expected[0]} and {expected[1]}"
                )
    strides = {block.strides for blocks in stages.blocks for block in blocks} - {(1, 1)}
    if len(strides) != 1 or 2 in first.strides:
        raise WeightsError("the stages of the trunk halve the size in different ways")
    return {
        "MODEL.RESNETS.DEPTH": DEPTHS[counts],
        "MODEL.RESNETS.STRIDE_IN_1X1": strides == {(2, 1)},
        "MODEL.RESNETS.STEM_OUT_CHANNELS": stem_channels,
        "MODEL.RESNETS.WIDTH_PER_GROUP": first.width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": first.out_channels,
    }


def _features_after(lengths: Sequence[int], ends: dict[str, set[int]]) -> dict[float, str]:
    """See :class:`Trunk`.

    Args:
        lengths: layers in each module directly in the trunk.
        ends: after how many layers a feature is there.
    """
    features: dict[float, str] = {}
    count = 0
    for number, length in enumerate(lengths, start=1):
        count += length
        for name, places in ends.items():
            if count in places:
                features[number] = name
    return features
