"""The data sets of a config, loaded and checked against its model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    print_instances_class_histogram,
)
from detectron2.data.catalog import MetadataCatalog

from ..data.annotation_checks import Masks
from ..data.checks import load_checked_dataset, load_registered
from ..data.proposal_checks import check_precomputed_proposals
from ..errors import ConfigError, DataError
from ..evaluation import check_evaluator
from ..families import LoaderBuilder, classes_key_of, config_value, family_of


def training_dicts(cfg: CfgNode) -> list[dict[str, Any]]:
    """The checked dicts of all ``DATASETS.TRAIN``, without those that have nothing to learn from
    (if ``DATALOADER.FILTER_EMPTY_ANNOTATIONS``).

    Of data sets with different classes, for a class-agnostic model, the dicts have a key
    ``vocabulary``: the same number for the same classes.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise DataError("DATASETS.TRAIN is empty; name a data set to train on")
    parts = [load_dataset(cfg, name, for_training=True) for name in names]
    vocabularies = [MetadataCatalog.get(name).get("thing_classes") for name in names]
    distinct = [v for i, v in enumerate(vocabularies) if v not in vocabularies[:i]]
    if len(distinct) > 1:
        _check_class_agnostic(cfg, vocabularies)
    dicts = []
    for part, classes in zip(parts, vocabularies, strict=True):
        extra = {"vocabulary": distinct.index(classes)} if len(distinct) > 1 else {}
        dicts += [{"annotations": [], **dataset_dict, **extra} for dataset_dict in part]
    dicts = to_learn_from(cfg, dicts)
    if not dicts:
        raise DataError(
            f"no image of {', '.join(names)} has an instance to learn from (crowds do not count)"
        )
    for number, classes in enumerate(distinct):
        if classes:
            own = [record for record in dicts if record.get("vocabulary", 0) == number]
            print_instances_class_histogram(own, classes)
    return dicts


def to_learn_from(cfg: CfgNode, dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without images that have no object, unless these are wanted."""
    if not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return dicts
    return filter_images_with_only_crowd_annotations(dicts)


def _check_class_agnostic(cfg: CfgNode, vocabularies: list[list[str] | None]) -> None:
    """Raise ``DataError`` if different classes matter to the model."""
    family = family_of(cfg)
    if family is not None and family.classes_key is None:
        return
    names = cfg.DATASETS.TRAIN
    other = next(i for i, classes in enumerate(vocabularies) if classes != vocabularies[0])
    raise DataError(
        f"{names[0]!r} and {names[other]!r} have different classes, or another order "
        "of them; they cannot be trained on together"
    )


def check_test_datasets(cfg: CfgNode) -> None:
    """Raise ``UserError`` if one of ``DATASETS.TEST`` cannot be evaluated on."""
    family = family_of(cfg)
    for name in cfg.DATASETS.TEST:
        if family is not None and family.build_test_loader is not None:
            # Loads; workers start only when it is read from.
            checked_test_loader(cfg, name, family.build_test_loader)
        else:
            load_dataset(cfg, name, for_training=False)
        if family is None or family.build_evaluator is None:
            check_evaluator(name)
    check_proposal_files(cfg, "TEST")


def checked_test_loader(
    cfg: CfgNode, name: str, build: LoaderBuilder
) -> Iterable[list[dict[str, Any]]]:
    """What a family's own ``build`` makes of one of ``DATASETS.TEST``.

    Raises:
        DataError: see :func:`load_dataset`; or ``build`` cannot use the data.
    """
    dicts = load_dataset(cfg, name, for_training=False)
    with names_datasets([name]):
        return build(cfg, dicts)


def check_proposal_files(cfg: CfgNode, split: str) -> None:
    """See that the files of precomputed proposals, if the model reads any, fit their data sets.

    Args:
        split: "TRAIN" or "TEST".

    Raises:
        ConfigError: there is not one file for each data set.
        DataError: see :func:`instseg_d2.data.proposal_checks.check_precomputed_proposals`.
    """
    names, key = cfg.DATASETS[split], f"PROPOSAL_FILES_{split}"
    if not cfg.MODEL.LOAD_PROPOSALS or not names:
        return
    files = cfg.DATASETS[key]
    if len(names) != len(files):
        raise ConfigError(
            f"DATASETS.{split} names {len(names)} data sets, but DATASETS.{key} {len(files)} "
            "files: MODEL.LOAD_PROPOSALS needs one for each. tools/make_proposals.py makes them."
        )
    for name, path in zip(names, files, strict=True):
        check_precomputed_proposals(name, load_registered(name), path)


@contextmanager
def names_datasets(names: Sequence[str]) -> Iterator[None]:
    """Whatever ``DataError`` comes up says which data sets it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"data set {', '.join(map(repr, names))}: {error}") from error


def load_dataset(cfg: CfgNode, name: str, *, for_training: bool) -> list[dict[str, Any]]:
    """One data set's dicts, checked against what the model can take.

    Raises:
        DataError: see :func:`instseg_d2.data.checks.load_checked_dataset`.
    """
    family, classes_key = family_of(cfg), classes_key_of(cfg)
    if family is None:
        masks: Masks = "all" if cfg.MODEL.MASK_ON else "none"
    else:
        masks = "some" if classes_key is None else "all"
    instances_key = family.max_instances_key if family else None
    return load_checked_dataset(
        name,
        num_classes=config_value(cfg, classes_key) if classes_key else None,
        classes_key=classes_key or "",
        max_instances=config_value(cfg, instances_key) if instances_key else None,
        for_training=for_training,
        masks=masks,
        coco_evaluation=family is None or family.reads_annotation_file(cfg),
    )
