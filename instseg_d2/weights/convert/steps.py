"""From a checkpoint to the checkpoint that was asked for, all in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from instseg_d2.errors import WeightsError
from instseg_d2.weights.convert.namings import CAFFE2, naming_of
from instseg_d2.weights.describe import describe_weights
from instseg_d2.weights.file import Checkpoint, StateDict
from instseg_d2.weights.file_writing import NUMPY_FLOATS
from instseg_d2.weights.folded_norms import with_statistics
from instseg_d2.weights.formats import (
    UNUSED_STEM_BIAS,
    NameFormat,
    is_classifier,
    names_in_box_head,
    recognise_native,
    rename,
)
from instseg_d2.weights.matching import WRAPPER, without_wrapper
from instseg_d2.weights.values import is_finite

NATIVE = "native"
LIBRARIES = ("torchvision", "timm")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

_ABOUT_THE_FILE = ("model", "__author__", "matching_heuristics", "advice")
"""Entries of a checkpoint that are no training state."""


@dataclass(frozen=True)
class Options:
    """What to make of a checkpoint.

    Attributes:
        to_names: "native" (those here and in Detectron2) or one of ``LIBRARIES``.
        part: only the tensors below this name, without it, such as "backbone"; "" for all.
        dtype: the type that floating-point tensors become; None leaves each its own.
        keep_classifier: keep an ImageNet classifier also under native names.
        keep_training_state: keep optimizer, iteration and so on.
    """

    to_names: str = NATIVE
    part: str = ""
    dtype: torch.dtype | None = None
    keep_classifier: bool = False
    keep_training_state: bool = False


@dataclass
class Conversion:
    """A checkpoint on its way, and what has been done to it.

    Attributes:
        checkpoint: as :func:`~instseg_d2.weights.file.read_weights_file` describes it.
        said: (topic, text) for the user, in order.
        is_plain: to be written, where the format allows it, as nothing but a dict of weights.
    """

    checkpoint: Checkpoint
    said: list[tuple[str, str]] = field(default_factory=list)
    is_plain: bool = False

    @property
    def state(self) -> StateDict:
        """The weights."""
        state: StateDict = self.checkpoint["model"]
        return state

    @state.setter
    def state(self, state: StateDict) -> None:
        self.checkpoint["model"] = state

    def say(self, topic: str, text: str) -> None:
        """Add a line for the user."""
        self.said.append((topic, text))


def convert(checkpoint: Checkpoint, suffix: str, options: Options) -> Conversion:
    """Make of a checkpoint what the options ask for.

    Args:
        checkpoint: as read from a file; changed.
        suffix: of the file to be written, one of ``SUFFIXES``.
        options: what to do.

    Raises:
        WeightsError: the options do not fit what the file holds, or each other.
    """
    work = Conversion(checkpoint)
    if not work.state:
        raise WeightsError("the file holds no tensors.")
    _drop_training_state(work, suffix, options)
    _drop_wrapper(work)
    _take_part(work, options.part)
    _add_statistics(work)
    _change_names(work, options)
    _change_dtypes(work, suffix, options.dtype)
    _note_non_finite(work)
    return work


def _drop_training_state(work: Conversion, suffix: str, options: Options) -> None:
    keys = [key for key in work.checkpoint if key not in _ABOUT_THE_FILE]
    if options.keep_training_state:
        if suffix != ".pth":
            raise WeightsError(f"--keep-training-state: only a .pth can hold it, not a {suffix}.")
        if options.part or options.to_names != NATIVE:
            raise WeightsError(
                "--keep-training-state is for whole models under the names here; leave out --part "
                "and --to-names."
            )
        kept = ", ".join(map(str, keys))
        work.say("training state", f"kept: {kept}" if keys else "the file has none")
        return
    for key in keys:
        del work.checkpoint[key]
    if keys:
        work.say("dropped", f"training state: {', '.join(map(str, keys))}")


def _drop_wrapper(work: Conversion) -> None:
    state = without_wrapper(work.state)
    if state is not work.state:
        work.state = state
        work.say("renamed", f"the prefix '{WRAPPER}' removed from all names")


def _take_part(work: Conversion, part: str) -> None:
    if not part:
        return
    prefix = f"{part.rstrip('.')}."
    taken = {
        name.removeprefix(prefix): value
        for name, value in work.state.items()
        if name.startswith(prefix)
    }
    if not taken:
        parts = sorted({name.split(".")[0] for name in work.state})
        raise WeightsError(f"--part {part}: no name begins with '{prefix}'. The parts are {parts}.")
    work.say("dropped", f"{len(work.state) - len(taken)} tensors outside '{prefix}'")
    work.state = taken


def _add_statistics(work: Conversion) -> None:
    if naming_of(work.state) is not CAFFE2:
        return
    complete = with_statistics(work.state)
    if added := len(complete) - len(work.state):
        work.state = complete
        work.say("added", f"{added} statistics, 0 and 1: Caffe2 folds them into scale and shift")


def _change_names(work: Conversion, options: Options) -> None:
    before = work.state
    naming = naming_of(before)
    native = naming.to_native(before)
    work.say("names", naming.title)
    work.say("model", describe_weights(native))
    for advice in (naming.advice, work.checkpoint.pop("advice", "")):
        if advice:
            work.say("note", advice)
    if options.to_names == NATIVE:
        work.state = native
        if naming.by_ends or options.part:
            work.checkpoint["matching_heuristics"] = True
    else:
        form = _format_of(native, options.to_names)
        work.state = rename(native, form.from_native)
        work.is_plain = True
        work.checkpoint.pop("matching_heuristics", None)
    if len(work.state) != len(before):  # some tensors stood in the file twice
        work.say("renamed", f"{len(before)} tensors of the file to {len(work.state)} here")
        return
    pairs = list(zip(before.items(), work.state.items(), strict=True))
    renamed = [(old, new) for (old, _), (new, _) in pairs if old != new]
    if renamed:
        old, new = next((pair for pair in renamed if "conv1" in pair[1]), renamed[0])
        work.say("renamed", f"{len(renamed)} tensors to {options.to_names} names: {old} -> {new}")
    cut = [new for (_, old_value), (new, value) in pairs if old_value.shape != value.shape]
    if cut:
        # Detectron2 does so to every detector from Caffe2; in cls_score it becomes the last class.
        work.say("converted", f"the class 'background' removed from {_examples(cut)}")
    if naming.by_ends and options.to_names == NATIVE and not options.keep_classifier:
        _drop_classifier(work)
    if options.to_names != NATIVE and UNUSED_STEM_BIAS in native:
        work.state = {name: value for name, value in work.state.items() if name != "conv1.bias"}
        work.say("dropped", f"{UNUSED_STEM_BIAS}, which {options.to_names} does not have")


def _format_of(native: StateDict, library: str) -> NameFormat:
    """The format of a library for these native names."""
    formats = recognise_native(native)
    if formats and any(".conv2_offset." in name for name in native):
        raise WeightsError(
            f"--to-names {library}: {library} has no {describe_weights(native)}, only regular ones."
        )
    for form in formats:
        if library in form.libraries:
            return form
    if formats:
        libraries = {name for form in formats for name in form.libraries if name in LIBRARIES}
        raise WeightsError(
            f"--to-names {library}: {library} has no {describe_weights(native)}. Possible: "
            f"{', '.join(sorted(libraries))}."
        )
    advice = "."
    if any(name.startswith("backbone.") for name in native):
        advice = "; --part backbone takes it out of a whole model."
    raise WeightsError(
        f"--to-names {library}: that is for a ResNet, Darknet or PVTv2 backbone alone{advice}"
    )


def _drop_classifier(work: Conversion) -> None:
    if names_in_box_head(work.state):
        work.say(
            "note", "Fast R-CNN's box head starts from the classifier; --keep-classifier keeps it"
        )
    dropped = [name for name in work.state if is_classifier(name)]
    if dropped:
        work.state = {name: value for name, value in work.state.items() if name not in dropped}
        work.say("dropped", f"the classifier: {_examples(dropped)} (--keep-classifier keeps it)")


def _change_dtypes(work: Conversion, suffix: str, dtype: torch.dtype | None) -> None:
    """Convert in place, because the dict may carry PyTorch's version notes."""
    counts: Counter[str] = Counter()
    for name, value in work.state.items():
        if not value.is_floating_point():
            continue
        target = dtype or value.dtype
        if suffix == ".pkl" and target not in NUMPY_FLOATS:
            target = torch.float32
        if target == value.dtype:
            continue
        converted = value.to(target)
        if is_finite(value) and not is_finite(converted):
            advice = " --dtype bfloat16 has room for them." if target == torch.float16 else ""
            largest = f"{value.abs().max():.3g}"
            raise WeightsError(
                f"{name} has values up to {largest}, too large for {_word(target)}.{advice}"
            )
        work.state[name] = converted
        counts[f"{_word(value.dtype)} to {_word(target)}"] += 1
    for change, count in counts.items():
        work.say("converted", f"{count} tensors from {change}")
    if suffix == ".pkl" and dtype == torch.bfloat16:
        work.say("note", "the arrays of a .pkl have no bfloat16: float32 is written")


def _note_non_finite(work: Conversion) -> None:
    broken = [name for name, value in work.state.items() if not is_finite(value)]
    if broken:
        work.say("warning", f"NaN or infinite values in {_examples(broken)}: training had diverged")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _examples(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
