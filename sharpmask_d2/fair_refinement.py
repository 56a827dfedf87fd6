"""The refinement of FAIR's SharpMask.

The model has each layer twice, shared: ``neths[i]`` (on the skip feature) and ``netvs[i]`` (on the
state) alone, and ``refs[i]``, which is both side by side, their sum, a ReLU and the upsampling.
``netvs[0]``, which is also ``refs[0]``, makes the first state of the encoding. The last of ``refs``
also has the convolution to the mask.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from instseg_d2.errors import WeightsError

from .fair_cursor import Converted, Cursor
from .fair_layers import Layer, dissolve, in_words
from .fair_trunk import Trunk

NODE = "MODEL.SHARP_MASK.REFINEMENT"

_SKIP = ("skip.0", "skip.2", "skip_out")
_VERTICAL = ("vertical.0", "vertical_out")


def read_refinement(
    fields: Mapping[Any, Any], trunk: Trunk, converted: Converted
) -> dict[str, Any]:
    """Read the refinement.

    Args:
        fields: of the model.
        trunk: of the same model.
        converted: gets ``refinement.*``.

    Returns:
        keys of the config, with their values.

    Raises:
        WeightsError: it is another network, or a part is absent.
    """
    return _RefinementReader(fields, trunk, converted).read()


class _RefinementReader:
    def __init__(self, fields: Mapping[Any, Any], trunk: Trunk, converted: Converted) -> None:
        self.trunk = trunk
        self.converted = converted
        self.features = list(reversed(trunk.channels))
        self.positions = fields.get("skpos")
        self.refs = _table(fields, "refs")
        self.neths = _table(fields, "neths", {})
        self.netvs = _table(fields, "netvs", {})

    def read(self) -> dict[str, Any]:
        self.check_positions()
        states, hidden = [self.projection()], []
        rest: Sequence[Layer] = ()
        for number in range(1, 1 + len(self.features)):
            widths, out_channels, rest = self.step(number, states[-1])
            hidden.append(widths)
            states.append(out_channels)
        self.output(rest, states[-1])
        return {
            f"{NODE}.CHANNELS": states[0],
            f"{NODE}.SCHEDULE": _schedule(states),
            f"{NODE}.HORIZONTAL_CHANNELS": hidden,
        }

    def check_positions(self) -> None:
        """See that the skip features are taken where the network here takes them."""
        if self.positions is None:
            return
        table = self.positions if isinstance(self.positions, dict) else {}
        places = [table.get(number) for number in range(1, 1 + len(table))]
        found = [self.trunk.feature_after.get(p) for p in places if isinstance(p, float)]
        if found != self.features:
            raise WeightsError(
                "the model's skpos must name the modules of the trunk that end with "
                f"{', '.join(self.features)}, but names {', '.join(map(in_words, places[:9]))}"
            )

    def projection(self) -> int:
        """Of an encoding the first state; its channels."""
        modules = {"refs[0]": self.refs.get(0), "netvs[0]": self.netvs.get(0)}
        present = {where: module for where, module in modules.items() if module is not None}
        if not present:
            raise WeightsError(
                "the model has no netvs[0], which makes the refinement's first state"
            )
        for where, module in present.items():
            cursor = Cursor(dissolve(module, where), where)
            weight, bias = cursor.full(self.trunk.encoding_dim)
            cursor.end()
            channels, left = divmod(len(weight), self.trunk.cells**2)
            if left:
                raise WeightsError(
                    f"{where} gives {len(weight)} numbers, which are no channels of "
                    f"{self.trunk.cells} x {self.trunk.cells} cells"
                )
            self.add("refinement.project", weight, bias, where)
        return channels

    def step(self, number: int, channels: int) -> tuple[int, int, Sequence[Layer]]:
        """A step, from a state of ``channels``.

        Returns:
            channels after the first convolution on the skip feature, those of the next state, and
            the layers after the step.
        """
        where = f"refs[{number}]"
        cursor = Cursor(dissolve(self.refs.get(number), where), where)
        horizontal, vertical = _two_branches(cursor.take("branches"))
        cursor.take("sum")
        cursor.relu()
        upsampling = cursor.take("nearest")
        if upsampling.number("scale_factor") != 2:
            upsampling.refuse("it must double the size")
        widths = self.skip(number, horizontal, where)
        after = self.vertical(number, vertical, where, channels)
        if widths[1:] != after:
            raise WeightsError(
                f"{where} makes {widths} channels of its skip feature and {after} of a state of "
                f"{channels}: the last two must be the same"
            )
        if number in self.neths:
            where = f"neths[{number}]"
            self.skip(number, dissolve(self.neths[number], where), where)
        if number in self.netvs:
            where = f"netvs[{number}]"
            self.vertical(number, dissolve(self.netvs[number], where), where, channels)
        return widths[0], after[1], cursor.layers[cursor.position :]

    def skip(self, number: int, layers: Sequence[Layer], where: str) -> list[int]:
        """The convolutions on a skip feature, which may crop it first; the channels after each."""
        cursor = Cursor(layers, where)
        crop, context = cursor.crop(), self.trunk.crop * 2 ** (number - 1)
        if crop not in (0, context):
            raise WeightsError(f"{where} crops {crop} cells of its skip feature, not {context}")
        channels = self.trunk.channels[self.features[number - 1]]
        return self.convolutions(number, _SKIP, cursor, channels)

    def vertical(
        self, number: int, layers: Sequence[Layer], where: str, channels: int
    ) -> list[int]:
        """The convolutions on a state; the channels after each."""
        widths = self.convolutions(number, _VERTICAL, Cursor(layers, where), channels)
        if widths[0] != channels:
            raise WeightsError(f"{where} makes {widths} channels of a state of {channels}")
        return widths

    def convolutions(
        self, number: int, names: Sequence[str], cursor: Cursor, channels: int
    ) -> list[int]:
        widths: list[int] = []
        for layer in names:
            if widths:
                cursor.relu()
            conv = cursor.conv(3, widths[-1] if widths else channels)
            name = f"refinement.steps.{number - 1}.{layer}"
            bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
            self.add(name, conv.weight, bias, cursor.where)
            self.converted.paddings[name] = conv.padding
            widths.append(conv.out_channels)
        cursor.end()
        return widths

    def output(self, rest: Sequence[Layer], channels: int) -> None:
        """The convolution to the mask, at the end of the last step or a module of its own."""
        number = len(self.features)
        where = f"refs[{number}]"
        if number + 1 in self.refs:
            where = f"refs[{number + 1}]"
            rest = [*rest, *dissolve(self.refs[number + 1], where)]
        cursor = Cursor(rest, where)
        conv = cursor.conv(3, channels)
        cursor.end()
        if conv.out_channels != 1:
            raise WeightsError(f"{where} must end with a convolution to 1 channel")
        self.converted.add_conv("refinement.output", conv)

    def add(self, name: str, weight: Tensor, bias: Tensor, where: str) -> None:
        """Add a layer, or see that it is the one that was added before."""
        state = self.converted.state
        if f"{name}.weight" not in state:
            self.converted.add(name, weight, bias)
        elif not (
            torch.equal(state[f"{name}.weight"], weight)
            and torch.equal(state[f"{name}.bias"], bias)
        ):
            raise WeightsError(
                f"{where} and refs must have the same weights, but they differ ({name}): the file "
                "is damaged"
            )


def _table(
    fields: Mapping[Any, Any], name: str, default: dict[Any, Any] | None = None
) -> dict[Any, Any]:
    table = fields.get(name, default)
    if not isinstance(table, dict):
        raise WeightsError(
            f"the model's {name} must be a table of modules, but is {in_words(table)}"
        )
    return table


def _two_branches(table: Layer) -> tuple[Sequence[Layer], Sequence[Layer]]:
    """The layers on the skip feature, with three convolutions, and those on the state, with two."""
    by_count = {sum(x.kind == "convolution" for x in branch): branch for branch in table.branches}
    if len(table.branches) != 2 or set(by_count) != {len(_SKIP), len(_VERTICAL)}:
        table.refuse("it must have a branch of three convolutions and one of two")
    return by_count[len(_SKIP)], by_count[len(_VERTICAL)]


def _schedule(states: Sequence[int]) -> str:
    """How the channels change from step to step."""
    pairs = list(itertools.pairwise(states))
    if all(after == before for before, after in pairs):
        return "constant"
    if all(2 * after == before for before, after in pairs):
        return "halving"
    raise WeightsError(
        f"the states of the refinement have {states} channels; here they are halved from step to "
        "step, or constant"
    )
