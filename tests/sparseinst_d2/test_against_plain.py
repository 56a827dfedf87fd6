"""The network against the plain one: the same function, computed otherwise."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from sparseinst_d2 import (
    BaseIAMDecoder,
    GroupIAMDecoder,
    GroupIAMSoftDecoder,
    InstanceContextEncoder,
)
from sparseinst_d2.decoder import mask_logits
from sparseinst_d2.postprocess import PostprocessOptions, class_scores
from tests.plain.plain_network import plain_decoder, plain_encoder, plain_outputs
from tests.plain.plain_postprocess import plain_instances

PREDICTIONS = ("pred_logits", "pred_masks", "pred_scores")


@dataclass(frozen=True)
class Case:
    """A network and its input; sizes are those of the finest level."""

    decoder: type[BaseIAMDecoder] = GroupIAMDecoder
    groups: int | None = 4
    norm: str = ""
    batch: int = 2
    sizes: tuple[tuple[int, int], ...] = ((10, 14), (5, 7), (3, 4))
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> tuple[nn.Module, nn.Module]:
        channels = (8, 12, 16)[: len(self.sizes)]
        encoder = InstanceContextEncoder(
            in_channels=channels,
            in_features=list("abc"[: len(self.sizes)]),
            channels=8,
            norm=self.norm,
        )
        decoder = self.decoder(
            in_channels=8,
            num_masks=5,
            num_classes=3,
            kernel_dim=4,
            **{"inst_dim": 24, "inst_convs": 2, "mask_dim": 8, "mask_convs": 2, **self.options},
            groups=self.groups,
            norm=self.norm,
        )
        for network in (encoder, decoder):
            vary(network)
        return encoder, decoder

    def features(self, dtype: torch.dtype) -> dict[str, Tensor]:
        return {
            name: torch.randn(self.batch, channels, *size, dtype=dtype, requires_grad=True)
            for name, channels, size in zip("abc", (8, 12, 16), self.sizes, strict=False)
        }


def vary(network: nn.Module) -> None:
    """Biases and norms other than those of the start, and activation maps with a shape."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.5)
        if name.endswith("iam_conv.weight"):
            nn.init.normal_(parameter, std=0.3)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 1.5)


CASES = {
    "groups": Case(),
    "three groups": Case(groups=3, batch=1),
    "one group": Case(groups=1, batch=3, sizes=((4, 4), (2, 2), (1, 1))),
    "base": Case(BaseIAMDecoder, groups=None, sizes=((12, 8), (6, 4), (3, 2))),
    "softmax": Case(GroupIAMSoftDecoder, groups=2),
    "batch norm": Case(norm="BN"),
    "layer norm": Case(BaseIAMDecoder, groups=None, norm="LN"),
    "one pixel": Case(batch=1, sizes=((1, 1), (1, 1), (1, 1))),
    "a row": Case(sizes=((1, 9), (1, 5), (1, 3))),
    "a column": Case(GroupIAMSoftDecoder, sizes=((9, 1), (5, 1), (3, 1))),
    "levels that do not halve": Case(sizes=((11, 13), (4, 9), (3, 2))),
    "one level": Case(sizes=((6, 5),)),
    "another scale": Case(options={"scale_factor": 1.5, "inst_convs": 1, "mask_convs": 3}),
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("training", [False, True])
def test_outputs_are_equal(case: Case, training: bool) -> None:
    encoder, decoder = (part.train(training) for part in case.build())
    features = case.features(torch.float32)
    with torch.no_grad():
        expected = plain_decoder(decoder, plain_encoder(encoder, features))
        actual = decoder(encoder(features))
    assert set(actual) == set(PREDICTIONS)
    for name in PREDICTIONS:
        assert relative_error(actual[name], expected[name]) < 1e-5, name


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_gradients_are_equal(case: Case) -> None:
    """Of a random scalar, by the features and all parameters."""
    encoder, decoder = (part.double() for part in case.build())
    features = case.features(torch.float64)
    leaves = [*features.values(), *encoder.parameters(), *decoder.parameters()]
    gradients, weights = [], None
    for outputs in (
        decoder(encoder(features)),
        plain_decoder(decoder, plain_encoder(encoder, features)),
    ):
        weights = weights or {name: torch.randn_like(outputs[name]) for name in PREDICTIONS}
        total = sum((outputs[name] * weights[name]).sum() for name in PREDICTIONS)
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for actual, expected in zip(*gradients, strict=True):
        # A softmax ignores its bias, so that only rounding is left of the gradient.
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [CASES["groups"], CASES["base"], CASES["softmax"]])
def test_what_inference_asks_for_is_what_training_sees(case: Case) -> None:
    encoder, decoder = case.build()
    feature = encoder(case.features(torch.float32))
    outputs, instances = decoder(feature), decoder.instances(feature)
    torch.testing.assert_close(instances.pred_logits, outputs["pred_logits"])
    torch.testing.assert_close(instances.pred_scores, outputs["pred_scores"])
    some = torch.tensor([3, 0])
    masks = mask_logits(instances.kernels[1, some], instances.mask_features[1])
    masks = nn.functional.interpolate(masks[None], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(masks[0], outputs["pred_masks"][1, some])


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("name", ["sparse_inst_r50_base", "sparse_inst_r50_giam_soft"])
@pytest.mark.parametrize("kept", ["all", "some", "none"])
def test_a_whole_prediction_is_equal(
    tiny_overrides: list[str], name: str, norm: str, kept: str
) -> None:
    """Images of different sizes in one batch; some of the instances are below the threshold."""
    norms = ["MODEL.SPARSE_INST.ENCODER.NORM", norm, "MODEL.SPARSE_INST.DECODER.NORM", norm]
    model = build_model(load_config(f"sparseinst/{name}", [*tiny_overrides, *norms])).eval()
    # Untrained masks are flat and scores equal; these are not.
    nn.init.normal_(model.decoder.inst_branch.mask_kernel.bias)
    nn.init.normal_(model.decoder.inst_branch.cls_score.weight)
    sizes = [(64, 90), (50, 40), (33, 96)]
    batch = [{"image": 255 * torch.rand(3, *size), "height": 80, "width": 70} for size in sizes]
    with torch.no_grad():
        images = model.preprocess(batch)
        outputs = plain_outputs(model, images.tensor)
        scores = class_scores(outputs["pred_logits"], outputs["pred_scores"])[0].flatten()
        limit = {"all": 0.0, "some": widest_gap(scores), "none": 1.0}[kept]
        model.postprocess_options = PostprocessOptions(cls_threshold=limit)
        results = [result["instances"] for result in model(batch)]
    for index, (actual, size) in enumerate(zip(results, sizes, strict=True)):
        padded = tuple(images.tensor.shape[-2:])
        expected = plain_instances(
            outputs, index, padded, size, (80, 70), model.postprocess_options
        )
        torch.testing.assert_close(actual.pred_classes, expected.pred_classes)
        torch.testing.assert_close(actual.scores, expected.scores, rtol=1e-5, atol=1e-5)
        assert (actual.pred_masks != expected.pred_masks).float().mean().nan_to_num() < 1e-3
    found = sum(len(actual) for actual in results)
    assert {"all": found == len(scores), "some": 0 < found < len(scores), "none": not found}[kept]


def widest_gap(values: Tensor) -> float:
    """The middle of the widest gap between neighbours."""
    values = values.sort().values
    place = values.diff().argmax()
    return float(values[place : place + 2].mean())
