"""What ImageNet files call the parameters of a backbone, and what they are called here.

A :class:`NameFormat` is a table of pairs (public name, native name). Native names are those of the
modules here, seen from within the backbone: without the prefix ``backbone.``. One pair stands for
many names: ``{block}`` is the number of a block, the other fields are listed at ``_FIELDS``. Since
both directions and the recognition come from the same table, they cannot drift apart.

Everything here is about names; tensors are passed on as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from instseg_d2.errors import WeightsError
from instseg_d2.weights.file import StateDict

Pair = tuple[str, str]

CLASSIFIER = ("fc.", "head.", "classifier.")
"""What names of an ImageNet classifier start with. They have no native names and keep their own."""

_NATIVE_CLASSIFIER = {"stem.fc.": "fc.", "linear.": "fc.", "fc1000.": "fc."}
"""Detectron2's names of a ResNet's classifier, in its converted files and in its modules."""

_BATCH_NORM = "weight|bias|running_mean|running_var|num_batches_tracked"
_FIELDS = {
    "block": r"\d+",
    "number": "[1-3]",
    "affine": "weight|bias",
    "norm": _BATCH_NORM,
    "conv_norm": rf"conv\.weight|bn\.(?:{_BATCH_NORM})",
    "transformer": r"(?:norm[12]|attn\.(?:q|kv|proj|sr|norm)|mlp\.fc[12])\.(?:weight|bias)",
    "embedding": r"(?:proj|norm)\.(?:weight|bias)",
}


@dataclass(frozen=True)
class NameFormat:
    """The names of one kind of backbone in one kind of file.

    Attributes:
        name: for people, such as "torchvision ResNet".
        libraries: whose names they are, for example ("torchvision", "timm").
        pairs: (public, native), both with the fields of ``_FIELDS`` in braces.
        required: public names without which a file is of another kind.
        box_head: (name in the classifier, name in a whole model), for the layers of the classifier
            that the box head of Detectron2's detectors starts from.
    """

    name: str
    libraries: tuple[str, ...]
    pairs: tuple[Pair, ...]
    required: tuple[str, ...]
    box_head: tuple[Pair, ...] = ()

    def recognises(self, names: Iterable[str]) -> bool:
        """Whether these are the public names of such a backbone and, perhaps, its classifier."""
        names = set(names)
        return names.issuperset(self.required) and all(
            self._public.translate(name) is not None or name.startswith(CLASSIFIER)
            for name in names
        )

    def recognises_native(self, names: Iterable[str]) -> bool:
        """Whether these are the native names of such a backbone and, perhaps, its classifier."""
        names = set(names)
        required = {self.to_native(name) for name in self.required}
        return names.issuperset(required) and all(
            self._native.translate(name) is not None or is_classifier(name) for name in names
        )

    def to_native(self, name: str) -> str:
        """The native name; that of a classifier's tensor is its public one.

        Raises:
            WeightsError: no backbone of this kind has such a name.
        """
        translated = name if name.startswith(CLASSIFIER) else self._public.translate(name)
        if translated is None:
            raise WeightsError(f"'{name}' is no name in a {self.name}.")
        return translated

    def from_native(self, name: str) -> str:
        """The public name; the inverse of :meth:`to_native`.

        Raises:
            WeightsError: no backbone of this kind has such a name.
        """
        for native, public in _NATIVE_CLASSIFIER.items():
            if name.startswith(native):
                return public + name[len(native) :]
        translated = name if name.startswith(CLASSIFIER) else self._native.translate(name)
        if translated is None:
            raise WeightsError(f"'{name}' is no native name of a {self.name}.")
        return translated

    def in_box_head(self, name: str) -> str | None:
        """What a tensor of the classifier is called in a detector; None if it is in none."""
        return self._box_head.translate(name)

    @cached_property
    def _box_head(self) -> _Translator:
        return _Translator(self.box_head)

    @cached_property
    def _public(self) -> _Translator:
        return _Translator(self.pairs)

    @cached_property
    def _native(self) -> _Translator:
        return _Translator([(native, public) for public, native in self.pairs])


class _Translator:
    """Names that fit the first template of a pair -> names of the second."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._rules = [(_compiled(source), target) for source, target in pairs]

    def translate(self, name: str) -> str | None:
        """The other name; None if the name fits no pair."""
        for source, target in self._rules:
            found = source.fullmatch(name)
            if found:
                return target.format(**found.groupdict())
        return None


def _compiled(template: str) -> re.Pattern[str]:
    def field(found: re.Match[str]) -> str:
        return f"(?P<{found[1]}>{_FIELDS[found[1]]})"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", field, re.escape(template)))


# ----------------------------------------------------------------------------------- tables

UNUSED_STEM_BIAS = "stem.conv1.bias"
"""In files of Caffe2's ResNets; no model has it, since a normalisation follows."""


def _resnet_pairs() -> Iterable[Pair]:
    """Names of torchvision and timm -> Detectron2's, which count the stem as the first stage."""
    yield "conv1.weight", "stem.conv1.weight"
    yield "conv1.bias", UNUSED_STEM_BIAS  # neither side's modules have it
    yield "bn1.{norm}", "stem.conv1.norm.{norm}"
    for stage in range(1, 5):
        public, native = f"layer{stage}.{{block}}", f"res{stage + 1}.{{block}}"
        yield f"{public}.conv{{number}}.weight", f"{native}.conv{{number}}.weight"
        yield f"{public}.bn{{number}}.{{norm}}", f"{native}.conv{{number}}.norm.{{norm}}"
        yield f"{public}.downsample.0.weight", f"{native}.shortcut.weight"
        yield f"{public}.downsample.1.{{norm}}", f"{native}.shortcut.norm.{{norm}}"
        # No ImageNet file has it, but a fine-tuned backbone on its way back may.
        yield f"{public}.conv2_offset.{{affine}}", f"{native}.conv2_offset.{{affine}}"


def _resnet_d_names() -> Iterable[str]:
    """ResNet with three convolutions in the stem and pooling in the shortcut."""
    for index in (0, 3, 6):
        yield f"conv1.{index}.weight"
    for index in (1, 4):
        yield f"conv1.{index}.{{norm}}"
    yield "bn1.{norm}"
    for stage in range(1, 5):
        block = f"layer{stage}.{{block}}"
        yield f"{block}.conv{{number}}.weight"
        yield f"{block}.bn{{number}}.{{norm}}"
        yield f"{block}.downsample.1.weight"
        yield f"{block}.downsample.2.{{norm}}"
        yield f"{block}.conv2_offset.{{affine}}"


def _darknet_names() -> Iterable[str]:
    yield "stem.conv1.{conv_norm}"
    for stage in range(5):
        yield f"stages.{stage}.conv_down.{{conv_norm}}"
        for number in (1, 2):
            yield f"stages.{stage}.blocks.{{block}}.conv{number}.{{conv_norm}}"


def _csp_darknet_names() -> Iterable[str]:
    yield from _darknet_names()
    for stage in range(5):
        for layer in ("conv_exp", "conv_transition_b", "conv_transition"):
            yield f"stages.{stage}.{layer}.{{conv_norm}}"


def _pvt_v2_pairs() -> Iterable[Pair]:
    """timm's names -> those of PVT's authors, who number stages from 1 and keep them apart."""
    for stage in range(4):
        public, native = f"stages.{stage}", str(stage + 1)
        embedding = f"{public}.downsample" if stage else "patch_embed"
        yield f"{embedding}.{{embedding}}", f"patch_embed{native}.{{embedding}}"
        block, native_block = f"{public}.blocks.{{block}}", f"block{native}.{{block}}"
        yield f"{block}.mlp.dwconv.{{affine}}", f"{native_block}.mlp.dwconv.dwconv.{{affine}}"
        yield f"{block}.{{transformer}}", f"{native_block}.{{transformer}}"
        yield f"{public}.norm.{{affine}}", f"norm{native}.{{affine}}"


def _vgg_pairs(convolutions: tuple[int, ...]) -> Iterable[Pair]:
    """torchvision numbers all layers; native names count the convolutions of each block."""
    layer = 0
    for block, count in enumerate(convolutions, start=1):
        for number in range(1, count + 1):
            yield f"features.{layer}.{{affine}}", f"block{block}.conv{number}.{{affine}}"
            layer += 2  # a ReLU follows
        layer += 1  # the pooling


def _vgg(name: str, convolutions: tuple[int, ...]) -> NameFormat:
    pairs = tuple(_vgg_pairs(convolutions))
    # All of them: the names of the shallow one mean other layers in the deep one.
    required = tuple(public.format(affine="weight") for public, _ in pairs)
    # The classifier's last layer, 6, tells ImageNet's classes apart.
    box_head = tuple(
        (f"classifier.{layer}.{{affine}}", f"roi_heads.box_head.fc{number}.{{affine}}")
        for number, layer in enumerate((0, 3), start=1)
    )
    return NameFormat(name, ("torchvision",), pairs, required, box_head)


def _same(names: Iterable[str]) -> tuple[Pair, ...]:
    return tuple((name, name) for name in names)


TORCHVISION_RESNET = NameFormat(
    name="torchvision ResNet",
    libraries=("torchvision", "timm"),
    pairs=tuple(_resnet_pairs()),
    required=("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"),
)
TIMM_RESNET_D = NameFormat(
    name="timm ResNet-D",
    libraries=("timm",),
    pairs=_same(_resnet_d_names()),
    required=("conv1.0.weight", "bn1.weight", "layer1.0.conv1.weight"),
)
TIMM_DARKNET = NameFormat(
    name="timm Darknet",
    libraries=("timm",),
    pairs=_same(_darknet_names()),
    required=("stages.0.conv_down.conv.weight", "stages.0.blocks.0.conv1.conv.weight"),
)
TIMM_CSP_DARKNET = NameFormat(
    name="timm CSPDarknet",
    libraries=("timm",),
    pairs=_same(_csp_darknet_names()),
    required=("stages.0.conv_down.conv.weight", "stages.0.conv_transition_b.conv.weight"),
)
TIMM_PVT_V2 = NameFormat(
    name="timm PVTv2",
    libraries=("timm",),
    pairs=tuple(_pvt_v2_pairs()),
    required=("patch_embed.proj.weight", "stages.0.blocks.0.mlp.dwconv.weight"),
)
PVT_V2 = NameFormat(
    name="PVTv2 of its authors",
    libraries=("the PVT authors",),
    pairs=_same(native for _, native in TIMM_PVT_V2.pairs),
    required=("patch_embed1.proj.weight", "block1.0.mlp.dwconv.dwconv.weight"),
)
VGG_A = _vgg("torchvision VGG-11", (1, 1, 2, 2, 2))
VGG_D = _vgg("torchvision VGG-16", (2, 2, 3, 3, 3))

FORMATS = (
    TORCHVISION_RESNET,
    TIMM_RESNET_D,
    TIMM_DARKNET,
    TIMM_CSP_DARKNET,
    TIMM_PVT_V2,
    PVT_V2,
    VGG_A,
    VGG_D,
)
"""All formats; no file is recognised by two of them."""


# ---------------------------------------------------------------------------------- whole files


def recognise(names: Iterable[str]) -> NameFormat | None:
    """The format whose public names these are; None for anything else.

    Strict: one name that is neither of the backbone nor of a classifier, and it is something else.
    """
    names = set(names)
    return next((form for form in FORMATS if form.recognises(names)), None)


def recognise_native(names: Iterable[str]) -> tuple[NameFormat, ...]:
    """The formats into which a backbone with these native names can be turned; perhaps none."""
    names = set(names)
    return tuple(form for form in FORMATS if form.recognises_native(names))


def names_in_box_head(names: Iterable[str]) -> dict[str, str]:
    """Which tensors of a backbone's file a detector's box head starts from.

    Args:
        names: native names of a backbone and, perhaps, its classifier; of others there are none.

    Returns:
        {name: name in the whole model}
    """
    names = set(names)
    found = ((name, form.in_box_head(name)) for form in recognise_native(names) for name in names)
    return {name: in_model for name, in_model in found if in_model is not None}


def is_classifier(name: str) -> bool:
    """Whether a tensor of a backbone's file, of public or native names, is of the classifier."""
    return name.startswith((*CLASSIFIER, *_NATIVE_CLASSIFIER))


def to_native_names(state: StateDict) -> tuple[StateDict, str | None]:
    """Give the tensors of an ImageNet backbone the names that they have here.

    Args:
        state: weights by name. Not changed.

    Returns:
        The weights under native names (without ``backbone.``) as a plain dict, and the name of the
        format that was recognised; or ``state`` itself and None.

    Raises:
        WeightsError: two tensors would get the same name.
    """
    form = recognise(state)
    if form is None:
        return state, None
    return rename(state, form.to_native), form.name


def rename(state: StateDict, new_name: Callable[[str], str]) -> StateDict:
    """Rename all tensors.

    The result is a plain dict: version notes that PyTorch keeps with a state dict
    (``_metadata``) are for the old names, and are left behind.

    Raises:
        WeightsError: two tensors would get the same name.
    """
    renamed: StateDict = {}
    sources: dict[str, str] = {}
    for name, value in state.items():
        target = new_name(name)
        if target in renamed:
            raise WeightsError(f"'{sources[target]}' and '{name}' would both be named '{target}'.")
        renamed[target], sources[target] = value, name
    return renamed
