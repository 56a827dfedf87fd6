"""What a network costs: parameters, multiply-adds and activations, by part.

The counting is fvcore's, with its conventions: a network is traced once on example inputs, every
operator of the trace has a rule, and its count goes to the module that called it and to all modules
around that. One multiply-add counts as one FLOP; a bias, an activation function or an addition of
two maps counts nothing. The rules that fvcore lacks are here. An operator without a rule is
reported, never passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis
from fvcore.nn.jit_handles import elementwise_flop_counter, generic_activation_jit, get_shape
from torch import Tensor, nn

#: (inputs, outputs) of one operator in a trace -> counts by name.
Rule = Callable[[list[Any], list[Any]], Counter[str]]


@dataclass(frozen=True)
class Cost:
    """What one part of a network costs.

    Attributes:
        params: numbers in its parameters, whether they are trained or not. Buffers are not among
            them: the running statistics of a batch norm, and all values of a frozen one.
        flops: multiply-adds.
        activations: values that its convolutions and matrix products put out.
        by_operator: ``flops`` by kind of operator.
    """

    params: int
    flops: int
    activations: int
    by_operator: dict[str, int]


@dataclass(frozen=True)
class Analysis:
    """What a network costs for given inputs.

    Attributes:
        total: all of it.
        parts: its modules by dotted name, in their order. A part includes those within it.
        uncounted: operators that have no rule, and how often they were called.
    """

    total: Cost
    parts: dict[str, Cost]
    uncounted: dict[str, int]


class Chain(nn.Module):
    """Modules that run one after the other: ``Chain(body=a, head=b)`` computes b(a(x)).

    It turns the parts of a model into one network that takes tensors, under the parts' own names.
    """

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Any) -> Any:
        for part in self.children():
            x = part(x)
        return x


def analyze(network: nn.Module, *inputs: Tensor, depth: int = 1) -> Analysis:
    """Run a network once and count.

    Args:
        network: in the mode (training or not) that is to be counted.
        inputs: what it is called with; only shapes matter for the counts.
        depth: of the parts: 1 for the network's own modules, 2 also for theirs, and so on. Modules
            that neither cost anything nor have parameters are left out.
    """
    flops = FlopCountAnalysis(network, inputs).set_op_handle(**FLOP_RULES)
    flops.set_op_handle(**dict.fromkeys(FREE_OPERATORS))
    activations = ActivationCountAnalysis(network, inputs).set_op_handle(**ACTIVATION_RULES)
    for counter in (flops, activations):
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)

    def cost(name: str) -> Cost:
        by_operator = {key: int(count) for key, count in flops.by_operator(name).items()}
        return Cost(
            params=sum(p.numel() for p in network.get_submodule(name).parameters()),
            flops=sum(by_operator.values()),
            activations=int(activations.total(name)),
            by_operator=by_operator,
        )

    # Without gradients, a frozen batch norm is one operator and not several.
    with torch.no_grad():
        total = cost("")
    names = [name for name, _ in network.named_modules() if name and name.count(".") < depth]
    parts = {name: cost(name) for name in names}
    return Analysis(
        total=total,
        parts={name: part for name, part in parts.items() if part.params or part.flops},
        uncounted=dict(flops.unsupported_ops()),
    )


# ------------------------------------------------------------------------------------- the rules


def count_matmul(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """(..., n, k) @ (..., k, m), also where the leading sizes are stretched: n * m * k each."""
    return Counter(matmul=prod(get_shape(outputs[0])) * get_shape(inputs[0])[-1])


def count_baddbmm(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """The product in a + x @ y."""
    return count_matmul(inputs[1:], outputs)


def count_attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Query (B, heads, N, d), key (B, heads, M, d), value (B, heads, M, e): both products,
    B * heads * N * M * (d + e). The softmax counts nothing."""
    query, key, value = (get_shape(tensor) for tensor in inputs[:3])
    return Counter(attention=prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))


def count_deform_conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """The convolution as a regular one, and the sampling of its input apart.

    Every output position reads every input channel at kH * kW places between pixels: 4 multiply-
    adds each, as fvcore counts bilinear sampling elsewhere, and in version 2 one for the
    modulation. The convolution that gives the offsets is an operator of its own.
    """
    channels = get_shape(inputs[0])[1]
    weight = get_shape(inputs[1])  # (out, in / groups, kH, kW)
    batch, _, height, width = get_shape(outputs[0])
    positions = batch * height * width
    modulated = inputs[-1].toIValue()
    return Counter(
        deform_conv=positions * prod(weight),
        deform_sampling=positions * channels * prod(weight[2:]) * (5 if modulated else 4),
    )


#: Beside or in place of fvcore's own.
FLOP_RULES: dict[str, Rule] = {
    "aten::matmul": count_matmul,
    "aten::mm": count_matmul,
    "aten::bmm": count_matmul,
    "aten::baddbmm": count_baddbmm,
    "aten::scaled_dot_product_attention": count_attention,
    "torchvision::deform_conv2d": count_deform_conv,
    "aten::avg_pool2d": elementwise_flop_counter(1, 0),  # as fvcore counts the adaptive one
}

#: What else puts out the result of a convolution or a matrix product.
ACTIVATION_RULES: dict[str, Rule] = {
    name: generic_activation_jit()
    for name in (
        "aten::mm",
        "aten::baddbmm",
        "aten::scaled_dot_product_attention",
        "torchvision::deform_conv2d",
    )
}

#: Operators that count nothing, beside those of fvcore's own list (such as relu, cat and reshape).
FREE_OPERATORS = (
    # they move, make or compare values
    *("aten::linspace", "aten::unflatten", "aten::pixel_shuffle", "aten::max_pool2d"),
    *("aten::flip", "aten::pad"),
    # a few operations a value, none of them in a sum of products
    *("aten::add", "aten::add_", "aten::sub", "aten::rsub", "aten::mul", "aten::mul_"),
    *("aten::div", "aten::div_", "aten::reciprocal", "aten::rsqrt", "aten::sqrt", "aten::exp"),
    *("aten::sum", "aten::mean", "aten::softmax", "aten::sigmoid", "aten::sigmoid_", "aten::tanh"),
    *("aten::gelu", "aten::silu", "aten::silu_", "aten::leaky_relu", "aten::leaky_relu_"),
    *("aten::hardtanh", "aten::hardtanh_"),
)
