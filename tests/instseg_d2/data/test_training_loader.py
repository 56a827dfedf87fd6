"""The stream of training images: from anywhere, with any number of workers and of processes."""

import random
from collections import Counter
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm

from instseg_d2.config import load_config
from instseg_d2.config_values import SAMPLERS
from instseg_d2.data.training_loader import TrainingLoader, build_training_loader
from instseg_d2.data.training_order import RepeatedImages, sampler_builder
from instseg_d2.engine.accumulation import SplitBatches
from instseg_d2.errors import ConfigError, DataError

NUM_IMAGES = 23


def records() -> list[dict[str, Any]]:
    """Every third image is wider than high; nine of ten categories are rare."""
    return [
        {
            "file_name": str(i), "image_id": i, "width": 4 + i % 3, "height": 5,
            "annotations": [{"category_id": min(i, 9), "iscrowd": 0}],
        }
        for i in range(NUM_IMAGES)
    ]  # fmt: skip


def config(**changes: Any) -> CfgNode:
    pairs = {
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.REPEAT_THRESHOLD": 0.2,
        "DATALOADER.RANDOM_SUBSET_RATIO": 0.5,
        "SOLVER.IMS_PER_BATCH": 4,
        "SEED": 3,
        **changes,
    }
    return load_config("", [str(part) for pair in pairs.items() for part in pair])


def augmented(record: dict[str, Any]) -> dict[str, Any]:
    """Draws as mappers do, from whichever generator they like."""
    numbers = random.random(), np.random.random(), torch.rand(()).item()
    return {"image_id": record["image_id"], "width": record["width"], "numbers": numbers}


def loader_of(**changes: Any) -> TrainingLoader:
    return build_training_loader(config(**changes), records(), augmented)


def ids(batches: Any) -> list[list[int]]:
    return [[image["image_id"] for image in batch] for batch in batches]


EVERY_SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)
GROUPED = pytest.mark.parametrize("grouping", [True, False], ids=["grouped", "not grouped"])


@EVERY_SAMPLER
@GROUPED
def test_the_stream_can_begin_anywhere(sampler: str, grouping: bool) -> None:
    keys = {"DATALOADER.SAMPLER_TRAIN": sampler, "DATALOADER.ASPECT_RATIO_GROUPING": grouping}
    whole = list(islice(loader_of(**keys), 40))  # many epochs
    assert len({image["numbers"] for batch in whole for image in batch}) == 160
    for start in (1, 7, 33):
        loader = loader_of(**keys, SEED=99)
        loader.start_at(seed=3, num_images=start * 4)
        assert list(islice(loader, 40 - start)) == whole[start:]


def test_it_depends_on_the_seed_and_not_on_the_generators() -> None:
    first = list(islice(loader_of(), 5))
    np.random.seed(8)
    torch.manual_seed(8)
    assert list(islice(loader_of(), 5)) == first
    assert ids(islice(loader_of(SEED=4), 5)) != ids(first)


def test_without_a_seed_there_is_a_new_stream_each_time() -> None:
    assert ids(islice(loader_of(SEED=-1), 5)) != ids(islice(loader_of(SEED=-1), 5))


def test_reading_leaves_the_generators_as_they_were() -> None:
    """They are those of the training, whose steps must not depend on who reads the images."""
    stream = iter(loader_of())
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    next(stream)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@GROUPED
def test_workers_change_nothing(grouping: bool) -> None:
    streams = [
        list(
            islice(
                loader_of(
                    **{
                        "DATALOADER.NUM_WORKERS": workers,
                        "DATALOADER.ASPECT_RATIO_GROUPING": grouping,
                    }
                ),
                15,
            )
        )
        for workers in (0, 3)
    ]
    assert streams[0] == streams[1]


def test_an_epoch_has_each_image_once() -> None:
    keys = {"DATALOADER.ASPECT_RATIO_GROUPING": False, "SOLVER.IMS_PER_BATCH": 1}
    images = list(chain(*ids(islice(loader_of(**keys), 3 * NUM_IMAGES))))
    epochs = [images[start : start + NUM_IMAGES] for start in range(0, len(images), NUM_IMAGES)]
    assert all(sorted(epoch) == list(range(NUM_IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_groups_of_like_shape_are_those_of_detectron2() -> None:
    sampler = sampler_builder(config(), records())(3)
    theirs = AspectRatioGroupedDataset((records()[index] for index in sampler), batch_size=4)
    ours = ids(islice(loader_of(), 30))
    assert ours == ids(islice(theirs, 30))
    assert all(len({image % 3 == 2 for image in batch}) == 1 for batch in ours)
    counts = Counter(chain(*ours))
    assert max(counts.values()) - min(counts.values()) <= 2


def test_images_of_unknown_size_are_grouped_as_wide_ones() -> None:
    unknown = [{"image_id": i} for i in range(5)]
    loader = build_training_loader(config(), unknown, dict)
    assert len(set(chain(*ids(islice(loader, 5))))) == 5


def test_repeated_images_are_those_of_detectron2() -> None:
    factors = 1 + 3 * torch.rand(50)
    ours, theirs = RepeatedImages(factors, seed=1), RepeatFactorTrainingSampler(factors, seed=1)
    assert list(islice(ours, 1000)) == list(islice(theirs, 1000))


def test_two_processes_share_the_images_that_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"DATALOADER.ASPECT_RATIO_GROUPING": False}
    alone = list(islice(loader_of(**keys), 10))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda data: [data, data])
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = loader_of(**keys)
        loader.start_at(3, 8)  # from the third batch on
        shares.append(list(islice(loader, 8)))
    for whole, first, second in zip(alone[2:], *shares, strict=True):
        assert whole == [first[0], second[0], first[1], second[1]]


def test_another_batch_size_goes_on_after_the_images_that_were_seen() -> None:
    keys = {"DATALOADER.ASPECT_RATIO_GROUPING": False}
    alone = list(chain(*islice(loader_of(**keys), 10)))
    for size, start, first in ((2, 12, 12), (8, 16, 16), (8, 20, 24)):
        loader = loader_of(**keys, **{"SOLVER.IMS_PER_BATCH": size})
        loader.start_at(3, start)
        assert next(iter(loader)) == alone[first : first + size]


def test_a_loader_whose_batches_are_split_can_begin_anywhere() -> None:
    parts = SplitBatches(loader_of(), 2)
    whole = list(islice(parts, 12))
    parts.start_at(3, 12)
    assert list(islice(parts, 6)) == whole[6:]


def test_an_image_that_the_mapper_passes_over_is_replaced() -> None:
    def but_the_first(record: dict[str, Any]) -> dict[str, Any] | None:
        return augmented(record) if record["image_id"] else None

    streams = [
        list(islice(build_training_loader(config(), records(), but_the_first), 30))
        for _ in range(2)
    ]
    assert streams[0] == streams[1]
    assert 0 not in chain(*ids(streams[0]))
    with pytest.raises(DataError, match="None for 100 images"):
        next(iter(build_training_loader(config(), records(), lambda record: None)))


def test_an_unknown_sampler_is_refused() -> None:
    cfg = config()
    cfg.DATALOADER.SAMPLER_TRAIN = "WeightedTrainingSampler"
    with pytest.raises(ConfigError, match="'WeightedTrainingSampler'; known are TrainingSampler, "):
        build_training_loader(cfg, records(), lambda record: record)
