"""Loading and saving weights so that nothing goes wrong in silence.

Three parts: :mod:`instseg_d2.weights_file` reads a file; :func:`match_names` and
:func:`make_report` say what of it fits the model; :class:`InstSegCheckpointer` decides what is an
error, and saves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils.file_io import Detectron2Handler
from tabulate import tabulate
from torch import nn

from instseg_d2.errors import WeightsError
from instseg_d2.weights_file import Checkpoint, read_weights_file

MIN_BACKBONE_SHARE = 0.9
"""Of the backbone's tensors so many must be in the file. The slack is for layers that a variant
adds to a backbone, such as the offsets of deformable convolutions."""

MAX_EXAMPLES = 3
"""Tensors of each kind that an error message shows."""

Shape = tuple[int, ...]
StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a model and of a file.

    Tensors that a module fills in by itself (such as the running mean of a frozen normalisation,
    which old files lack) are in none of the lists.

    Args:
        matched: names in the model that were loaded.
        missing: names in the model that the file lacks.
        unexpected: names in the file that the model lacks.
        misshaped: (name in the model, shape in the file, shape in the model); not loaded.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[tuple[str, Shape, Shape]]

    def table(self) -> str:
        """The counts, for people."""
        rows = [
            ("matched", len(self.matched), "loaded"),
            ("missing", len(self.missing), "in the model only; keep their initial values"),
            ("unexpected", len(self.unexpected), "in the file only; not used"),
            ("mis-shaped", len(self.misshaped), "other shape in the file; keep initial values"),
        ]
        return tabulate(rows, headers=["tensors", "count", ""], tablefmt="simple")


# ---------------------------------------------------------------------------------- matching


def match_names(
    file_state: StateDict, model_state: StateDict, *, heuristics: bool, caffe2: bool, backbone: str
) -> StateDict:
    """Rename the tensors of a file to the names in the model.

    Args:
        file_state: the weights in the file.
        model_state: the model's ``state_dict()``.
        heuristics: match names by their ends, as Detectron2 does for files that ask for it. Without
            it names are taken as they are; only where none of them is in the model, they are taken
            for the names within the backbone.
        caffe2: the names are those of Caffe2.
        backbone: name of the backbone within the model.

    Returns:
        The tensors under their new names. Those without a partner keep their old ones.

    Raises:
        WeightsError: with heuristics, one tensor of the file fits several in the model.
    """
    if heuristics:
        try:
            renamed: StateDict = align_and_update_state_dicts(
                model_state, file_state, c2_conversion=caffe2
            )
        except ValueError as error:
            raise WeightsError(
                f"the names in the file are ambiguous for this model ({error}): the file is "
                "probably for another kind of model"
            ) from error
        return renamed
    if file_state and all(name.startswith("module.") for name in file_state):
        file_state = {name[len("module.") :]: value for name, value in file_state.items()}
    within_backbone = {f"{backbone}.{name}": value for name, value in file_state.items()}
    if model_state.keys().isdisjoint(file_state) and not model_state.keys().isdisjoint(
        within_backbone
    ):
        return within_backbone
    return file_state


def make_report(
    file_shapes: Mapping[str, Shape],
    model_shapes: Mapping[str, Shape],
    missing: Iterable[str],
    unexpected: Iterable[str],
) -> LoadReport:
    """Sort all names.

    Args:
        file_shapes: what the file has, under the names that :func:`match_names` gave.
        model_shapes: what the model has.
        missing: what loading found missing, mis-shaped tensors included or not.
        unexpected: what loading found left over.
    """
    missing, unexpected = set(missing), set(unexpected)
    misshaped = {
        name: (name, shape, model_shapes[name])
        for name, shape in file_shapes.items()
        if name in model_shapes and shape != model_shapes[name]
    }
    # Heuristic matching leaves mis-shaped tensors under their old names, ends of the new ones.
    for name in sorted(missing - misshaped.keys()):
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in range(1, len(parts)))
        old = next((end for end in ends if end in unexpected), None)
        if old is not None and file_shapes[old] != model_shapes[name]:
            misshaped[name] = (name, file_shapes[old], model_shapes[name])
            unexpected.remove(old)
    return LoadReport(
        matched=[name for name in model_shapes if name in file_shapes and name not in misshaped],
        missing=[name for name in model_shapes if name in missing and name not in misshaped],
        unexpected=[name for name in file_shapes if name in unexpected],
        misshaped=list(misshaped.values()),
    )


def require_backbone(
    report: LoadReport,
    file_shapes: Mapping[str, Shape],
    model_shapes: Mapping[str, Shape],
    backbone: str,
) -> None:
    """Raise :class:`WeightsError` unless 90 % of the backbone's tensors were loaded.

    Without a submodule of the name ``backbone``, anything that was loaded will do.
    """
    matched = report.matched
    lost = [*report.missing, *(name for name, _, _ in report.misshaped)]
    part, needed = "the model", 1.0
    if any(name.startswith(f"{backbone}.") for name in model_shapes):
        matched, lost = _within(backbone, matched), _within(backbone, lost)
        part, needed = f"'{backbone}'", MIN_BACKBONE_SHARE * (len(matched) + len(lost))
    if len(matched) >= needed:
        return
    misshaped = [entry for entry in report.misshaped if entry[0] in lost]
    absent = [name for name in lost if name in report.missing]
    lines = [
        f"it does not fit this model: of the {len(matched) + len(lost)} tensors of {part}, "
        f"{len(matched)} were found in it.",
        f"  in the model only: {_examples(absent, model_shapes)}",
        f"  in the file only:  {_examples(report.unexpected, file_shapes)}",
        *(
            f"  other shape:       {n} {ours} in the model, {theirs} in the file"
            for n, theirs, ours in misshaped[:MAX_EXAMPLES]
        ),
        "Give weights of the same kind of model, or MODEL.WEIGHTS '' to train from scratch.",
    ]
    raise WeightsError("\n".join(lines))


def _within(module: str, names: Iterable[str]) -> list[str]:
    # Files from before PyTorch 0.4.1 have no batch counters; nothing depends on them.
    return [
        name
        for name in names
        if name.startswith(f"{module}.") and not name.endswith(".num_batches_tracked")
    ]


def _examples(names: list[str], shapes: Mapping[str, Shape]) -> str:
    shown = [f"{name} {shapes[name]}" for name in names[:MAX_EXAMPLES]]
    return ", ".join(shown + ["..."] * (len(names) > MAX_EXAMPLES)) or "none"


# ------------------------------------------------------------------------------------ policy


class InstSegCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with clear errors, a report of what was loaded, and atomic saving.

    Args:
        model: may be wrapped in ``DistributedDataParallel``.
        save_dir: local folder of the run, where checkpoints are saved and resumed from.
        backbone: name of the submodule without whose weights a file is of no use.
        save_to_disk: False: :meth:`save` does nothing. Default: True in the main process.
        checkpointables: objects with ``state_dict`` and ``load_state_dict`` that are saved along.

    Attributes:
        report (LoadReport | None): of the last :meth:`load`.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        backbone: str = "backbone",
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.backbone = backbone
        self.report: LoadReport | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> Checkpoint:
        """Load weights and, as far as the file has it, training state.

        Args:
            path: local file or URL; ``?matching_heuristics=True`` at its end matches names by their
                ends. Empty: keep the model as it is.
            checkpointables: which of the objects to load; None: all.

        Returns:
            What else the file has.

        Raises:
            WeightsError: absent, damaged, of another model, or training state of another run.
        """
        self.report = None
        wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        try:
            if path:
                self._require_file(path)
            rest: Checkpoint = super().load(path, checkpointables=[])
            for key in wanted:
                if key in rest:
                    self._load_training_state(key, rest.pop(key))
        except WeightsError as error:
            raise WeightsError(self._in_context(path, str(error))) from error
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it set after an error
        return rest

    def require_complete(self) -> None:
        """See that the last :meth:`load` set the whole model, as prediction and evaluation need.

        Raises:
            WeightsError: nothing was loaded, or tensors of the model were not in the file or had
                another shape there.
        """
        if self.report is None:
            raise WeightsError(
                "MODEL.WEIGHTS is empty, so the model is untrained: name a checkpoint, for example "
                "MODEL.WEIGHTS output/model_final.pth."
            )
        lost = [name for name in self.report.missing if not name.endswith("num_batches_tracked")]
        lost += [name for name, *_ in self.report.misshaped]
        if lost:
            raise WeightsError(
                f"MODEL.WEIGHTS: {len(lost)} of the model's tensors are not in the file or have "
                f"another shape there, for example {', '.join(lost[:3])}. Give the config that the "
                "weights were trained with."
            )

    def save(self, name: str, **kwargs: Any) -> None:
        """Save weights and training state to ``{name}.pth``, whole or not at all.

        Args:
            name: file name without suffix.
            kwargs: what else to save; to be loadable, numbers, strings, tensors and containers of
                them (no NumPy values).
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with _written_whole(path) as file:
            torch.save(data, file)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which file :meth:`resume_or_load` is to resume from."""
        with _written_whole(self._last_checkpoint) as file:
            file.write(last_filename_basename.encode())

    @property
    def _last_checkpoint(self) -> str:
        return os.path.join(self.save_dir, "last_checkpoint")

    def _in_context(self, path: str, message: str) -> str:
        """Add who asked for the file, and its name unless the message has it."""
        subject = "" if path in message else f" {path}"
        if self.save_dir and self.has_checkpoint() and path == self.get_checkpoint_file():
            return (
                f"The checkpoint to resume from{subject}: {message}\n{self._last_checkpoint} names "
                "it. Write the name of another checkpoint into that file to resume from that one, "
                "or start without --resume."
            )
        return f"MODEL.WEIGHTS{subject}: {message}"

    def _require_file(self, path: str) -> None:
        url = urlparse(path)._replace(query="").geturl()
        try:
            local = self.path_manager.get_local_path(url)
        except Exception as error:  # from the network, the file system or Detectron2's catalogue
            address = url.replace(
                Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX, 1
            )
            raise WeightsError(
                f"fetching {address} failed ({type(error).__name__}: {error}). Without network, "
                "fetch it elsewhere and give the path of the file."
            ) from error
        if os.path.isfile(local):
            return
        if os.path.isdir(local):
            raise WeightsError("it is a folder, not a file.")
        advice = "Correct the path, or give MODEL.WEIGHTS '' to train from scratch."
        if "pretrained_models/" in path:
            advice = (
                "Put the backbone's weights there. For a plain ResNet you can give "
                "detectron2://ImageNetPretrained/torchvision/R-50.pkl (or R-101.pkl) instead, or "
                "MODEL.WEIGHTS '' to train from scratch."
            )
        raise WeightsError(f"there is no such file. {advice}")

    def _load_file(self, filename: str) -> Checkpoint:
        checkpoint = read_weights_file(filename)
        assert self._parsed_url_during_load is not None, "only to be called by load()"
        queries = parse_qs(self._parsed_url_during_load.query)
        if queries.pop("matching_heuristics", None) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if queries:
            raise WeightsError(f"{sorted(queries)} after the '?' means nothing here.")
        return checkpoint

    def _load_model(self, checkpoint: Checkpoint) -> Any:
        model_state = self.model.state_dict()
        file_state = match_names(
            checkpoint["model"],
            model_state,
            heuristics=checkpoint.pop("matching_heuristics", False),
            caffe2=checkpoint.get("__author__") == "Caffe2",
            backbone=self.backbone,
        )
        checkpoint["model"] = file_state
        file_shapes = {name: tuple(value.shape) for name, value in file_state.items()}
        model_shapes = {name: tuple(value.shape) for name, value in model_state.items()}
        incompatible = super()._load_model(checkpoint)
        self.report = make_report(
            file_shapes, model_shapes, incompatible.missing_keys, incompatible.unexpected_keys
        )
        require_backbone(self.report, file_shapes, model_shapes, self.backbone)
        return incompatible._replace(
            missing_keys=self.report.missing,
            unexpected_keys=self.report.unexpected,
            incorrect_shapes=self.report.misshaped,
        )

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        assert self.report is not None
        self.logger.info("Loaded weights:\n%s", self.report.table())
        super()._log_incompatible_keys(incompatible)

    def _load_training_state(self, key: str, state: Any) -> None:
        self.logger.info("Loading %s ...", key)
        try:
            self.checkpointables[key].load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"its training state '{key}' does not fit this run ({type(error).__name__}: "
                f"{error}). Resuming needs the same model and solver as before. To start a new run "
                "from its weights, give it as MODEL.WEIGHTS and a new OUTPUT_DIR."
            ) from error


@contextmanager
def _written_whole(path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the name ``path`` only once it is complete."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name without content
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
