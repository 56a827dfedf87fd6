"""DeepMask and SharpMask as FAIR's Torch7 code builds them, with random weights, to be written to
files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from instseg_d2.weights.torch7 import TorchObject
from tests.torch7_writer import Storage, Tensor


@dataclass(frozen=True)
class Style:
    """In what such files differ.

    Attributes:
        package: of convolutions and ReLUs.
        affine: class of the fixed norms, or a batch norm.
        padding: class of what pads.
        cuda, dtype: of the weights.
        flat: weights of convolutions have two dimensions.
        strided: weights are pieces of larger storages, of every second number there.
        nested: a padded convolution is a Sequential, as are the stages; otherwise the trunk has all
            layers in a row.
        convolutional: prepared for whole images: no crops, convolutions in place of linear layers.
        stride_in_1x1: bottlenecks have their stride there.
        reduced: the trunk ends with a reduction of the channels.
        bare: single layers stand without a Sequential around them.
    """

    package: str = "cudnn"
    affine: str = "inn.ConstAffine"
    padding: str = "nn.SpatialSymmetricPadding"
    cuda: bool = False
    dtype: str = "<f4"
    flat: bool = False
    strided: bool = False
    nested: bool = True
    convolutional: bool = False
    stride_in_1x1: bool = False
    reduced: bool = True
    bare: bool = False


@dataclass(frozen=True)
class Sizes:
    """Few channels; :data:`RELEASED` has FAIR's."""

    blocks: tuple[int, ...] = (3, 4, 6)
    stem: int = 8
    width: int = 4
    out: int = 16
    reduced: int = 8
    cells: int = 4
    encoding: int = 16
    score: int = 12
    mask: int = 14
    first: int = 32
    hidden: tuple[int, ...] = (8, 4, 4, 6)

    @property
    def stride(self) -> int:
        return 2 ** (1 + len(self.blocks))

    @property
    def window(self) -> int:
        return self.cells * self.stride

    @property
    def crop(self) -> int:
        """Cells of a context of 16 pixels."""
        return 16 // self.stride


RELEASED = Sizes(
    stem=64,
    width=64,
    out=256,
    reduced=128,
    cells=10,
    encoding=512,
    score=1024,
    mask=56,
    first=32,
    hidden=(64, 64, 64, 32),
)


def deepmask(style: Style = Style(), sizes: Sizes = Sizes()) -> dict[str, Any]:
    """The content of a DeepMask's file."""
    builder = Builder(style, sizes)
    fields = {
        "trunk": builder.trunk(),
        "maskBranch": builder.mask_branch(),
        "scoreBranch": builder.score_branch(),
        "fSz": sizes.cells,
    }
    return {"model": TorchObject("nn.DeepMask", fields), "config": builder.config(2 * sizes.mask)}


def sharpmask(style: Style = Style(), sizes: Sizes = Sizes()) -> dict[str, Any]:
    """The content of a SharpMask's file."""
    builder = Builder(style, sizes)
    fields = {
        "trunk": builder.trunk(),
        "maskBranchDM": builder.mask_branch(),
        "scoreBranch": builder.score_branch(),
        "fSz": sizes.cells,
        "km": sizes.first,
        "ks": sizes.first,
        "skpos": builder.skip_positions(),
        **builder.refinement(),
    }
    return {"model": TorchObject("nn.SharpMask", fields), "config": builder.config(sizes.window)}


class Builder:
    """Makes modules of one style."""

    def __init__(self, style: Style, sizes: Sizes) -> None:
        self.style = style
        self.sizes = sizes
        self.generator = np.random.default_rng(0)

    # ---- modules ---------------------------------------------------------------------------------

    def tensor(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        values = self.generator.normal(mean, scale, shape).astype(self.style.dtype)
        gap = 2 if self.style.strided else 1
        offset = 3 if self.style.strided else 0
        numbers = np.full(offset + gap * values.size, np.nan, values.dtype)
        numbers[offset::gap] = values.reshape(-1)
        strides = [gap * step // values.itemsize for step in values.strides]
        return Tensor(Storage(numbers), shape, tuple(strides), offset, self.style.cuda)

    def module(self, name: str, **fields: Any) -> TorchObject:
        """With what every module has beside its own fields."""
        empty = Tensor(Storage(np.zeros(0, np.float32)), (), ())
        common = {"_type": "torch.FloatTensor", "train": False, "output": empty, "gradInput": empty}
        return TorchObject(name, common | fields)

    def sequential(self, *modules: TorchObject) -> TorchObject:
        return self.module("nn.Sequential", modules=list(modules))

    def relu(self) -> TorchObject:
        return self.module(f"{self.style.package}.ReLU", threshold=0, val=0, inplace=True)

    def linear(self, inputs: int, outputs: int, cells: int = 1) -> TorchObject:
        scale = (inputs * cells**2) ** -0.5
        if self.style.convolutional:
            return self.convolution(inputs, outputs, cells, scale=scale)
        return self.module(
            "nn.Linear",
            weight=self.tensor(outputs, inputs * cells**2, scale=scale),
            bias=self.tensor(outputs, scale=0.1),
        )

    def convolution(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        bias: bool = True,
        scale: float | None = None,
    ) -> TorchObject:
        scale = scale or (2 / (inputs * kernel**2)) ** 0.5
        shape = (outputs, inputs, kernel, kernel)
        if self.style.flat:
            shape = (outputs, inputs * kernel**2)
        fields = {"weight": self.tensor(*shape, scale=scale), "groups": 1}
        if bias:
            fields["bias"] = self.tensor(outputs, scale=0.1, mean=0.2)
        fields |= {"nInputPlane": inputs, "nOutputPlane": outputs, "kW": kernel, "kH": kernel}
        fields |= {"dW": stride, "dH": stride, "padW": 0, "padH": 0}
        return self.module(f"{self.style.package}.SpatialConvolution", **fields)

    def padding(self, name: str, amount: int) -> TorchObject:
        sides = {f"pad_{side}": amount for side in "lrtb"}
        return self.module(name, **sides)

    def padded(self, inputs: int, outputs: int, kernel: int, **options: Any) -> list[TorchObject]:
        """A convolution and what pads for it."""
        convolution = self.convolution(inputs, outputs, kernel, **options)
        if kernel == 1:
            return [convolution]
        if self.style.padding == "":
            convolution.fields |= {"padW": kernel // 2, "padH": kernel // 2}
            return [convolution]
        return [self.padding(self.style.padding, kernel // 2), convolution]

    def normed(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[TorchObject]:
        """A convolution with its norm; those with a batch norm have a bias."""
        batch_norm = "BatchNorm" in self.style.affine
        layers = self.padded(inputs, outputs, kernel, stride=stride, bias=batch_norm)
        if self.style.nested and len(layers) > 1:
            layers = [self.sequential(*layers)]
        if batch_norm:
            variance = self.tensor(outputs)
            variance.storage.numbers[:] = np.square(variance.storage.numbers) + 0.5
            fields = {
                "running_mean": self.tensor(outputs, scale=0.1),
                "running_var": variance,
                "weight": self.tensor(outputs, scale=0.1, mean=0.7),
                "bias": self.tensor(outputs, scale=0.1),
                "eps": 1e-3,
            }
            return [*layers, self.module(self.style.affine, **fields)]
        shape = (1, outputs, 1, 1) if "Diagonal" in self.style.affine else (outputs,)
        fields = {
            "a": self.tensor(*shape, scale=0.1, mean=0.7),
            "b": self.tensor(*shape, scale=0.1),
        }
        return [*layers, self.module(self.style.affine, **fields)]

    # ---- the trunk -------------------------------------------------------------------------------

    def trunk(self) -> TorchObject:
        sizes = self.sizes
        stem = self.normed(3, sizes.stem, 7, 2)
        pooling = {"kW": 3, "kH": 3, "dW": 2, "dH": 2, "padW": 1, "padH": 1, "ceil_mode": False}
        modules = [*stem, self.relu(), self.module("nn.SpatialMaxPooling", **pooling)]
        channels = sizes.stem
        for number, count in enumerate(sizes.blocks):
            stage = []
            for block in range(count):
                stride = 2 if number and not block else 1
                width, outputs = sizes.width * 2**number, sizes.out * 2**number
                stage += self.block(channels, width, outputs, stride)
                channels = outputs
            modules += [self.sequential(*stage)] if self.style.nested else stage
        return self.sequential(*modules, *self.end(channels))

    def end(self, channels: int) -> list[TorchObject]:
        sizes, style = self.sizes, self.style
        crop = self.module("nn.Identity")
        if not style.convolutional:
            crop = self.padding("nn.SpatialZeroPadding", -sizes.crop)
        modules = [crop]
        if style.reduced:
            modules += [self.convolution(channels, sizes.reduced, 1), self.relu()]
            channels = sizes.reduced
        if not style.convolutional:
            modules.append(self.view(channels * sizes.cells**2))
        return [*modules, self.linear(channels, sizes.encoding, sizes.cells)]

    def block(self, inputs: int, width: int, outputs: int, stride: int) -> list[TorchObject]:
        strides = (stride, 1) if self.style.stride_in_1x1 else (1, stride)
        main = self.sequential(
            *self.normed(inputs, width, 1, strides[0]),
            self.relu(),
            *self.normed(width, width, 3, strides[1]),
            self.relu(),
            *self.normed(width, outputs, 1),
        )
        shortcut = self.module("nn.Identity")
        if inputs != outputs:
            shortcut = self.sequential(*self.normed(inputs, outputs, 1, stride))
        layers = [
            self.module("nn.ConcatTable", modules=[main, shortcut]),
            self.module("nn.CAddTable", inplace=True),
            self.relu(),
        ]
        return [self.sequential(*layers)] if self.style.nested else layers

    def view(self, *shape: int) -> TorchObject:
        sizes = np.array([32, *shape])  # of the batch that it was trained with
        return self.module("nn.View", size=Storage(sizes), numElements=int(sizes.prod()))

    # ---- the branches ----------------------------------------------------------------------------

    def mask_branch(self) -> TorchObject:
        side = self.sizes.mask
        layer = self.linear(self.sizes.encoding, side**2)
        if self.style.bare:
            return layer
        if self.style.convolutional:
            return self.sequential(self.sequential(layer))
        upsampling = self.sequential(
            self.module("nn.Copy", intype="torch.CudaTensor", outtype="torch.FloatTensor"),
            self.view(side, side),
            self.module("nn.SpatialReSamplingEx", owidth=2 * side, oheight=2 * side),
            self.view((2 * side) ** 2),
            self.module("nn.Copy", intype="torch.FloatTensor", outtype="torch.CudaTensor"),
        )
        return self.sequential(self.sequential(layer), upsampling)

    def score_branch(self) -> TorchObject:
        return self.sequential(
            self.module("nn.Dropout", p=0.5, v2=True),
            self.linear(self.sizes.encoding, self.sizes.score),
            self.module("nn.Threshold", threshold=0, val=1e-6, inplace=False),
            self.module("nn.Dropout", p=0.5, v2=True),
            self.linear(self.sizes.score, 1),
        )

    # ---- the refinement --------------------------------------------------------------------------

    def skip_positions(self) -> list[int]:
        """Numbers of modules of the trunk: the crop, the ends of the stages, the first ReLU."""
        padded = not self.style.nested and bool(self.style.padding)
        relu = 4 if padded else 3
        # A stage is one module, or each of its blocks is three.
        lengths = [1 if self.style.nested else 3 * blocks for blocks in self.sizes.blocks]
        res2, *ends = (relu + 1 + int(length) for length in np.cumsum(lengths))
        return [ends[-1] + 1, *reversed(ends[:-1]), res2, relu]

    def refinement(self) -> dict[str, Any]:
        sizes = self.sizes
        features = [sizes.out * 2**n for n in reversed(range(len(sizes.blocks)))] + [sizes.stem]
        first = self.linear(sizes.encoding, sizes.first * sizes.cells**2)
        if not self.style.bare:
            first = self.sequential(first, self.view(sizes.first, sizes.cells, sizes.cells))
        neths: dict[int, TorchObject] = {}
        netvs: dict[int, TorchObject] = {0: first}
        refs: dict[int, TorchObject] = {0: first}
        state = sizes.first
        for number, feature in enumerate(features, start=1):
            neths[number] = self.horizontal(number, feature, sizes.hidden[number - 1], state)
            netvs[number] = self.sequential(
                *self.padded(state, state, 3), self.relu(), *self.padded(state, state // 2, 3)
            )
            refs[number] = self.sequential(
                self.module("nn.ParallelTable", modules=[neths[number], netvs[number]]),
                self.module("nn.CAddTable", inplace=False),
                self.relu(),
                self.module("nn.SpatialUpSamplingNearest", scale_factor=2),
            )
            state //= 2
        refs[len(features)].fields["modules"] += [
            *self.padded(state, 1, 3),
            self.view(sizes.window**2),
        ]
        return {"neths": neths, "netvs": netvs, "refs": refs}

    def horizontal(self, number: int, feature: int, hidden: int, state: int) -> TorchObject:
        crop = []
        if number > 1 and not self.style.convolutional:
            crop = [self.padding("nn.SpatialZeroPadding", -self.sizes.crop * 2 ** (number - 1))]
        return self.sequential(
            *crop,
            *self.padded(feature, hidden, 3),
            self.relu(),
            *self.padded(hidden, state, 3),
            self.relu(),
            *self.padded(state, state // 2, 3),
        )

    def config(self, mask_size: int) -> dict[str, Any]:
        sizes = self.sizes
        return {
            "iSz": sizes.window,
            "oSz": sizes.mask,
            "gSz": mask_size,
            "batch": 32,
            "km": sizes.first,
            "ks": sizes.first,
            "rundir": "/tmp/run",
            "hook": None,
        }
