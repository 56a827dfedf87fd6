"""Whose names the tensors of a file have, told by the names, and how they become those here.

:data:`NAMINGS` lists what is known, in the order in which it is tried. A new source of weights is a
new entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

from instseg_d2.errors import WeightsError
from instseg_d2.families import model_families
from instseg_d2.weights.file import StateDict
from instseg_d2.weights.formats import FORMATS, NameFormat, recognise_native, rename


@dataclass(frozen=True)
class Naming:
    """Whose names the tensors of a file have.

    Attributes:
        title: for people.
        recognises: names -> whether they are of this kind.
        to_native: weights under these names -> the same under those here.
        by_ends: under native names they lack the name of the part that they are of, so that a
            model finds them only by the ends of its own names.
        advice: what else the user of the converted weights must know.
    """

    title: str
    recognises: Callable[[Collection[str]], bool]
    to_native: Callable[[StateDict], StateDict] = lambda state: state
    by_ends: bool = False
    advice: str = ""


def _public(form: NameFormat) -> Naming:
    return Naming(
        form.name, form.recognises, lambda state: rename(state, form.to_native), by_ends=True
    )


def _is_caffe2(names: Collection[str]) -> bool:
    """Caffe2's blobs are called like res2_0_branch2a_w and conv1_b."""
    endings = ("_w", "_b", "_s")
    return all("." not in name for name in names) and any(n.endswith(endings) for n in names)


def _from_caffe2(state: StateDict) -> StateDict:
    try:
        renamed, old_names = convert_c2_detectron_names(state)
    except (AssertionError, IndexError) as error:
        raise WeightsError(
            f"the names look like Caffe2's, but Detectron2 cannot convert them ({error!r}). The "
            f"first are {', '.join(list(state)[:3])}."
        ) from error
    new_names = {old: new for new, old in old_names.items()}
    return {new_names[name]: renamed[new_names[name]] for name in state}


def _has_parts(*parts: str) -> Callable[[Collection[str]], bool]:
    return lambda names: all(any(name.startswith(f"{p}.") for name in names) for p in parts)


CAFFE2 = Naming("Caffe2", _is_caffe2, _from_caffe2, by_ends=True)

NAMINGS = (
    *(_public(form) for form in FORMATS),
    Naming("a backbone here or in Detectron2", lambda n: bool(recognise_native(n)), by_ends=True),
    CAFFE2,
    Naming("a whole SparseInst", _has_parts("backbone", "encoder", "decoder.inst_branch")),
    Naming("a whole DeepMask or SharpMask", _has_parts("backbone", "head.encode", "head.mask")),
    Naming("a whole Detectron2 model", _has_parts("backbone", "proposal_generator")),
    Naming("a whole Detectron2 model", _has_parts("backbone", "roi_heads")),
    Naming("a model with a backbone", _has_parts("backbone")),
)
"""Tried in this order, after those of the model families; names that none of them recognises are
kept."""

UNKNOWN = Naming("not recognised, so they are kept", lambda names: True)


def naming_of(names: Collection[str]) -> Naming:
    """The first that recognises these names; :data:`UNKNOWN` if none does."""
    of_families = [naming for family in model_families() for naming in family.namings]
    known = (*of_families, *NAMINGS)
    return next((naming for naming in known if naming.recognises(names)), UNKNOWN)
