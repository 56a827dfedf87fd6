"""Whether the backbone in a file is the model's.

Names and shapes are compared in both directions, because of a deeper backbone every tensor of the
model may be in the file, and mean something else there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from instseg_d2.errors import WeightsError
from instseg_d2.weights.describe import describe_backbone
from instseg_d2.weights.file import StateDict
from instseg_d2.weights.formats import UNUSED_STEM_BIAS, is_classifier, to_native_names
from instseg_d2.weights.matching import FPN_TRUNK
from instseg_d2.weights.report import LoadReport, without_counters

MIN_SHARE = 0.9
"""Of the backbone's tensors so many must be in both, the file and the model. The slack is for
layers that a variant adds."""

MAX_EXAMPLES = 3
"""Tensors of each kind that an error message shows."""

_OFFSETS = ".conv2_offset."
"""Layers that make a convolution deformable. Published models start from backbones without them, so
that they count on neither side."""


@dataclass(frozen=True)
class BackboneMatch:
    """What became of the tensors of the backbone, without batch counters.

    Attributes:
        module: name of the backbone within the model.
        matched: names in the model that were loaded.
        missing: names in the model that the file lacks.
        misshaped: names in the model that have another shape in the file.
        surplus: names in the file that the model lacks, though it has the stage (the module right
            within the backbone) that they are of. A model may leave out whole stages of the
            backbone that a file is of; classifiers are left out, too.
    """

    module: str
    matched: list[str]
    missing: list[str]
    misshaped: list[str]
    surplus: list[str]

    def problems(self) -> list[str]:
        """Why the file's backbone is not the model's, in words; empty if it is."""
        matched, missing, misshaped, surplus = (
            len([name for name in names if _OFFSETS not in name])
            for names in (self.matched, self.missing, self.misshaped, self.surplus)
        )
        ours, theirs = matched + missing + misshaped, matched + misshaped + surplus
        problems = []
        if matched < MIN_SHARE * ours or misshaped:
            shapes = f" and {misshaped} in another shape" if misshaped else ""
            problems.append(
                f"of the {ours} tensors of '{self.module}', {matched} were found in it{shapes}"
            )
        if matched < MIN_SHARE * theirs and surplus:
            problems.append(
                f"it has {surplus} tensors for '{self.module}' that the model lacks, so that its "
                "backbone is deeper or of another kind"
            )
        return problems


def match_backbone(report: LoadReport, model_state: StateDict, module: str) -> BackboneMatch | None:
    """Pick the backbone's tensors out of a report; None if the model has no such submodule.

    Args:
        report: of all tensors.
        model_state: the model's ``state_dict()``.
        module: name of the backbone within it.
    """
    stages = _stages(model_state, module)
    if not stages:
        return None

    def within(names: Iterable[str]) -> list[str]:
        return [name for name in without_counters(names) if name.startswith(f"{module}.")]

    surplus = []
    for name in without_counters(report.unexpected):
        inner = _within_backbone(name, module)
        known = is_classifier(inner) or inner == UNUSED_STEM_BIAS
        if not known and _stage(inner) in stages:
            surplus.append(name)
    return BackboneMatch(
        module=module,
        matched=within(report.matched),
        missing=within(report.missing),
        misshaped=within(name for name, _, _ in report.misshaped),
        surplus=surplus,
    )


def require_backbone(
    report: LoadReport, match: BackboneMatch | None, file_state: StateDict, model_state: StateDict
) -> None:
    """Raise :class:`WeightsError` unless the file's backbone is the model's.

    Args:
        report: of all tensors.
        match: of those of the backbone; without one anything that was loaded will do.
        file_state: what the file has, by the names of the report.
        model_state: what the model has.
    """
    missing, unexpected, misshaped = report.missing, report.unexpected, report.misshaped
    kinds = []
    if match is not None:
        problems = match.problems()
        missing, unexpected = match.missing, match.surplus or unexpected
        misshaped = [entry for entry in misshaped if entry[0] in match.misshaped]
        kinds = _kinds(file_state, model_state, match.module) if problems else []
    elif not report.matched:
        total = len(report.missing) + len(report.misshaped)
        problems = [f"of the {total} tensors of the model, 0 were found in it"]
    else:
        return
    if not problems:
        return
    lines = [
        f"it does not fit this model: {'; '.join(problems)}.",
        *kinds,
        f"  in the model only: {_examples(missing, model_state)}",
        f"  in the file only:  {_examples(unexpected, file_state)}",
        *(
            f"  other shape:       {name} {in_model} in the model, {in_file} in the file"
            for name, in_file, in_model in misshaped[:MAX_EXAMPLES]
        ),
        "Give weights of the same kind of model, MODEL.WEIGHTS '' to train from scratch, or "
        "MODEL.LOADING.ALLOW_PARTIAL True to go on with what was found.",
    ]
    raise WeightsError("\n".join(lines))


def _kinds(file_state: StateDict, model_state: StateDict, module: str) -> list[str]:
    """A line on the two backbones in words, if they are known and not the same."""
    stages = _stages(model_state, module)
    kinds = []
    for state in (file_state, model_state):
        inner = {_within_backbone(name, module): value for name, value in state.items()}
        inner = {name: value for name, value in inner.items() if _stage(name) in stages}
        kinds.append(describe_backbone(to_native_names(inner)[0]))
    if None in kinds or kinds[0] == kinds[1]:
        return []
    return [f"  the backbone:      {kinds[1]} in the model, {kinds[0]} in the file"]


def _stages(model_state: StateDict, module: str) -> set[str]:
    """Names of the modules right within the backbone."""
    names = (name for name in model_state if name.startswith(f"{module}."))
    return {_stage(_within_backbone(name, module)) for name in names}


def _within_backbone(name: str, module: str) -> str:
    """What a tensor is called within the backbone.

    Files of backbones alone whose names are matched by their ends have no prefix in what was left.
    """
    return name.removeprefix(f"{module}.").removeprefix(f"{FPN_TRUNK}.")


def _stage(inner: str) -> str:
    return inner.split(".")[0]


def _examples(names: list[str], state: StateDict) -> str:
    shown = [f"{name} {tuple(state[name].shape)}" for name in names[:MAX_EXAMPLES]]
    return ", ".join(shown + ["..."] * (len(names) > MAX_EXAMPLES)) or "none"
