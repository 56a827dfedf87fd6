"""Loading and saving weights so that nothing goes wrong in silence.

:mod:`instseg_d2.weights.finding` sees that a file is there, :mod:`instseg_d2.weights.file` reads
it; :mod:`instseg_d2.weights.matching`, :mod:`instseg_d2.weights.report`,
:mod:`instseg_d2.weights.backbone_match` and :mod:`instseg_d2.weights.completeness` say what of it
fits the model; :class:`InstSegCheckpointer` here decides what is an error, and saves.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from instseg_d2.atomic_file import written_whole
from instseg_d2.class_order import CLASSES_KEY, names_in, order_problem
from instseg_d2.ema import WeightAverage
from instseg_d2.errors import SavingError, UnreadableWeightsError, WeightsError
from instseg_d2.older_checkpoints import damaged_record, older_checkpoints
from instseg_d2.weights.backbone_match import match_backbone, require_backbone
from instseg_d2.weights.completeness import incompleteness, other_model
from instseg_d2.weights.file import Checkpoint, StateDict, file_kind, read_weights_file
from instseg_d2.weights.finding import require_file
from instseg_d2.weights.folded_norms import folded_statistics, norms_are_folded
from instseg_d2.weights.matching import match_names
from instseg_d2.weights.name_hash import verify_hash_in_name
from instseg_d2.weights.report import LoadReport, Shape, make_report
from instseg_d2.weights.values import check_values

OF_THE_CONFIG = ("pixel_mean", "pixel_std")
"""Buffers that a file may lack: the config gives them."""

EMA_KEY = "ema"
"""Of a checkpoint: the weights that are being trained, where its ``model`` is their average."""


@dataclass(frozen=True)
class LoadOptions:
    """How strict loading is.

    Attributes:
        trust_file: read a file also if that runs code that it brings along.
        allow_partial: warn, in place of an error, of a file with another backbone or with less than
            90 % of it.
        verify_hash: check a file whose name ends in digits of its hash against them.
    """

    trust_file: bool = False
    allow_partial: bool = False
    verify_hash: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LoadOptions:
        """The options of ``MODEL.LOADING``."""
        return cls(
            trust_file=cfg.MODEL.LOADING.TRUST_FILE,
            allow_partial=cfg.MODEL.LOADING.ALLOW_PARTIAL,
            verify_hash=cfg.MODEL.LOADING.VERIFY_HASH,
        )


class InstSegCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with clear errors, a report of what was loaded, and atomic saving.

    Args:
        model: may be wrapped in ``DistributedDataParallel``.
        save_dir: local folder of the run, where checkpoints are saved and resumed from.
        backbone: name of the submodule without whose weights a file is of no use.
        options: how strict :meth:`load` is.
        save_to_disk: False: :meth:`save` does nothing. Default: True in the main process.
        ema: if given, checkpoints have the averaged weights as their ``model``, and the weights
            that are being trained in their ``ema``; resuming sets both.
        classes: names of the data's classes in the order that the model numbers them, if it tells
            classes apart. They are saved along; weights of the same classes in another order are
            neither resumed nor evaluated.
        checkpointables: objects with ``state_dict`` and ``load_state_dict`` that are saved along.

    Attributes:
        report (LoadReport | None): of the last :meth:`load`.
        resumed_from (str): path of the checkpoint that :meth:`resume_or_load` went on from; "" if
            it did not resume.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        backbone: str = "backbone",
        options: LoadOptions = LoadOptions(),
        save_to_disk: bool | None = None,
        ema: WeightAverage | None = None,
        classes: Sequence[str] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.backbone = backbone
        self.options = options
        self.ema = ema
        if ema is not None:
            self.add_checkpointable(EMA_KEY, ema)
        self.classes = None if classes is None else list(classes)
        self.report: LoadReport | None = None
        self.resumed_from = ""
        self._classes_of_file: list[str] | None = None

    def resume_or_load(self, path: str, *, resume: bool = True) -> Checkpoint:
        """Go on from the last checkpoint of ``save_dir``, or load the weights of another file.

        The last checkpoint is the one that ``last_checkpoint`` names or, if that one is absent or
        damaged, the newest before it that can be read; a warning then names both. Called in all
        processes at once, which go on from the same one.

        Args:
            path: as of :meth:`load`; only its weights are loaded.
            resume: False: also if there is a checkpoint.

        Returns:
            What else the file has.

        Raises:
            WeightsError: see :meth:`load`; or the checkpoint to go on from is of another model or
                has the classes in another order.
        """
        self.resumed_from = ""
        if not (resume and comm.all_gather(self.has_checkpoint())[0]):
            return self.load(path, checkpointables=[])
        named = self.get_checkpoint_file()
        paths = [named]
        if comm.is_main_process():
            paths += older_checkpoints(self.save_dir, os.path.basename(named))
        paths = comm.all_gather(paths)[0]
        problems: list[str] = []
        for path in paths:
            rest, problem = self._try_to_load(path)
            if not problem:
                self._require_same_model(path)
                self.resumed_from = path
                if problems:
                    reason = problems[0].partition("\n")[0]
                    self.logger.warning("%s\nGoing on from %s, saved before it.", reason, path)
                return rest
            problems.append(problem)
        more = f"\nNor can one before it: {', '.join(paths[1:])}" if paths[1:] else ""
        raise UnreadableWeightsError(problems[0] + more)

    def _try_to_load(self, path: str) -> tuple[Checkpoint, str]:
        """What :meth:`load` returns, and in words why one of the processes cannot read the file."""
        rest: Checkpoint = {}
        problem = ""
        try:
            if (record := damaged_record(path)) is not None:
                raise UnreadableWeightsError(
                    self._in_context(path, f"it is damaged: the checksum of {record} is wrong.")
                )
            rest = self.load(path)
        except (UnreadableWeightsError, OSError) as error:
            problem = str(error)
        return rest, next(filter(None, comm.all_gather(problem)), "")

    def get_checkpoint_file(self) -> str:
        """The path that ``last_checkpoint`` names, whatever it has in it; "" if it is absent."""
        try:
            with open(self._last_checkpoint, "rb") as file:
                name = file.read(4096).decode(errors="replace").strip()
        except OSError:
            return ""
        return os.path.join(self.save_dir, name)

    def load(self, path: str, checkpointables: list[str] | None = None) -> Checkpoint:
        """Load weights and, as far as the file has it, training state.

        Args:
            path: local file or URL; ``?matching_heuristics=True`` at its end matches names by their
                ends. Empty: keep the model as it is.
            checkpointables: which of the objects to load; None: all.

        Returns:
            What else the file has.

        Raises:
            UnreadableWeightsError: absent or damaged.
            WeightsError: of another model, or training state of another run.
        """
        self.report = self._classes_of_file = None
        self._is_read = False
        wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        try:
            if path:
                require_file(path, self.path_manager, getattr(self.model, self.backbone, None))
            rest: Checkpoint = super().load(path, checkpointables=[])
            if EMA_KEY in rest and self.ema is None and wanted:
                raise WeightsError(
                    "it was trained with MODEL.EMA.ENABLED, and cannot be resumed without. To "
                    "start a new run from its averaged weights, give it as MODEL.WEIGHTS and a new "
                    "OUTPUT_DIR."
                )
            if self.ema is not None:
                self.ema.reset()
            for key in wanted:
                if key in rest:
                    self._load_training_state(key, rest.pop(key))
        except WeightsError as error:
            kind = WeightsError if self._is_read else UnreadableWeightsError
            raise kind(self._in_context(path, str(error))) from error
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it set after an error
        return rest

    def _require_same_model(self, path: str) -> None:
        """What was resumed has set the whole model and has no tensor besides."""
        assert self.report is not None, "load() has made one"
        problem = other_model(self.report) or order_problem(self._classes_of_file, self.classes)
        if problem is not None:
            raise WeightsError(self._in_context(path, problem))

    def require_complete(self) -> None:
        """See that the last :meth:`load` set the whole model, as prediction and evaluation need.

        Raises:
            WeightsError: nothing was loaded; tensors of the model were not in the file or had
                another shape there; the file has more tensors for parts of the model, which means
                that it is of another one; or it has the classes in another order.
        """
        if self.report is None:
            raise WeightsError(
                "MODEL.WEIGHTS is empty, so the model is untrained: name a checkpoint, for example "
                "MODEL.WEIGHTS output/model_final.pth."
            )
        problem = incompleteness(self.report, [name for name, _ in self.model.named_children()])
        problem = problem or order_problem(self._classes_of_file, self.classes)
        if problem is not None:
            raise WeightsError(f"MODEL.WEIGHTS: {problem}")

    def save(self, name: str, **kwargs: Any) -> None:
        """Save weights and training state to ``{name}.pth``, whole or not at all.

        Args:
            name: file name without suffix.
            kwargs: what else to save; to be loadable, numbers, strings, tensors and containers of
                them (no NumPy values).

        Raises:
            SavingError: the file cannot be written, because the disk is full for example; the
                checkpoints before it are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self._weights()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        data.update({**self._own_classes(), **kwargs})
        self._write(name, data)
        self.tag_last_checkpoint(f"{name}.pth")

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Save weights alone to ``{name}.pth``, which is not what :meth:`resume_or_load` resumes.

        Args:
            name, kwargs: as of :meth:`save`.
        """
        if self.save_dir and self.save_to_disk:
            self._write(name, {"model": self._weights(), **self._own_classes(), **kwargs})

    def _own_classes(self) -> dict[str, list[str]]:
        return {} if self.classes is None else {CLASSES_KEY: self.classes}

    def _weights(self) -> StateDict:
        return self.model.state_dict() if self.ema is None else self.ema.average()

    def _write(self, name: str, data: dict[str, Any]) -> None:
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with _one_line_if_refused(path), written_whole(path) as file:
            torch.save(data, file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which file :meth:`resume_or_load` is to resume from."""
        path = self._last_checkpoint
        with _one_line_if_refused(path), written_whole(path) as file:
            file.write(last_filename_basename.encode())

    @property
    def _last_checkpoint(self) -> str:
        return os.path.join(self.save_dir, "last_checkpoint")

    def _in_context(self, path: str, message: str) -> str:
        """Add who asked for the file, and its name unless the message has it."""
        subject = "" if message.startswith((path, f"fetching {path}")) else f" {path}"
        if self.save_dir and self.has_checkpoint() and path == self.get_checkpoint_file():
            return (
                f"The checkpoint to resume from{subject}: {message}\n{self._last_checkpoint} names "
                "it. Write the name of another checkpoint into that file to resume from that one, "
                "or start without --resume."
            )
        return f"MODEL.WEIGHTS{subject}: {message}"

    def _load_file(self, filename: str) -> Checkpoint:
        if self.options.verify_hash:
            verify_hash_in_name(filename)
        checkpoint = read_weights_file(filename, trust_file=self.options.trust_file)
        self._is_read = True
        checkpoint["norms_are_folded"] = norms_are_folded(checkpoint, file_kind(filename))
        assert self._parsed_url_during_load is not None, "only to be called by load()"
        queries = parse_qs(self._parsed_url_during_load.query)
        if queries.pop("matching_heuristics", None) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if queries:
            raise WeightsError(f"{sorted(queries)} after the '?' means nothing here.")
        return checkpoint

    def _load_model(self, checkpoint: Checkpoint) -> Any:
        is_folded = checkpoint.pop("norms_are_folded", False)
        model_state = self.model.state_dict()
        file_state = match_names(
            checkpoint["model"],
            model_state,
            heuristics=checkpoint.pop("matching_heuristics", False),
            caffe2=checkpoint.get("__author__") == "Caffe2",
            backbone=self.backbone,
        )
        checkpoint["model"] = file_state
        self._classes_of_file = names_in(checkpoint.get(CLASSES_KEY))
        check_values(file_state, model_state)
        file_state = dict(file_state)  # loading takes the mis-shaped tensors out of the other
        incompatible = super()._load_model(checkpoint)
        # Not what loading found missing: some modules fill in what they miss, and tell no one.
        missing = [n for n in model_state if n not in file_state and n not in OF_THE_CONFIG]
        if is_folded:
            folded = set(folded_statistics(missing, file_state))
            missing = [name for name in missing if name not in folded]
        self.report = make_report(
            _shapes(file_state), _shapes(model_state), missing, incompatible.unexpected_keys
        )
        match = match_backbone(self.report, model_state, self.backbone)
        surplus = match is not None and match.surplus
        incomplete = self.report.missing or self.report.misshaped or surplus
        self.logger.log(
            logging.WARNING if incomplete else logging.INFO,
            "Loaded weights:\n%s",
            self.report.table(),
        )
        try:
            require_backbone(self.report, match, file_state, model_state)
        except WeightsError as error:
            if not self.options.allow_partial:
                raise
            self.logger.warning("Going on, as MODEL.LOADING.ALLOW_PARTIAL is set, though %s", error)
        return incompatible._replace(
            missing_keys=self.report.missing,
            unexpected_keys=self.report.unexpected,
            incorrect_shapes=self.report.misshaped,
        )

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """The report has told it all."""

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


@contextlib.contextmanager
def _one_line_if_refused(path: str) -> Iterator[None]:
    """Raise ``SavingError`` if the system refuses to write the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason: BaseException | None = error
        while reason is not None and not isinstance(reason, OSError):
            reason = reason.__context__  # torch.save raises another error while it cleans up
        if reason is None:
            raise
        raise SavingError(
            f"{path} cannot be written: {reason.strerror or reason}. What was saved before is as "
            "it was; make room, and go on with --resume."
        ) from error


def _shapes(state: StateDict) -> dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in state.items()}
