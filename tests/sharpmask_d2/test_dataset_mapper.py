import copy
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng
from pycocotools import mask as mask_util

from instseg_d2.data.shapes import ShapesSpec
from instseg_d2.data.shapes_dataset import register_shapes
from instseg_d2.errors import ConfigError, DataError
from sharpmask_d2.config import add_sharpmask_config
from sharpmask_d2.dataset_mapper import (
    PatchMapper,
    build_mapper,
    build_test_loader,
    build_train_loader,
)
from sharpmask_d2.patch_sampling import SamplingOptions
from tests.two_processes import spawn_two

OPTIONS = SamplingOptions()
RED = (200, 20, 10)


def config(**changes: Any) -> CfgNode:
    cfg = get_cfg()
    add_sharpmask_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "SharpMask"
    cfg.INPUT.FORMAT = "RGB"
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.SHARP_MASK.SAMPLING.TEST_PATCHES = 30
    cfg.merge_from_list([part for pair in changes.items() for part in pair])
    return cfg


@pytest.fixture(scope="module")
def records() -> list[dict]:
    train, _ = register_shapes(ShapesSpec(num_train=40, num_val=1, image_size=96))
    return DatasetCatalog.get(train)


def entry_of(tmp_path: Path, draw: str, seed: int = 0, **changes: Any) -> dict:
    """A black image of 120 x 80 pixels with a red square of 30 in it, the object."""
    file = tmp_path / "image.png"
    image = np.zeros((80, 120, 3), np.uint8)
    image[20:50, 60:90] = RED
    cv2.imwrite(str(file), image[:, :, ::-1])
    square = [60, 20, 90, 20, 90, 50, 60, 50]
    annotation = {
        "segmentation": [square], "bbox": [60, 20, 30, 30], "bbox_mode": 1, "category_id": 2,
        **changes,
    }  # fmt: skip
    record = {
        "file_name": str(file), "image_id": 1, "height": 80, "width": 120,
        "annotations": [annotation],
    }  # fmt: skip
    return {"record": record, "annotation": 0, "draw": draw, "seed": seed}


def mapper(**changes: Any) -> PatchMapper:
    return PatchMapper(**{"options": OPTIONS, "mask_size": OPTIONS.window_size, **changes})


def run_length_codes() -> list[dict]:
    """The object of :func:`entry_of` in other codes."""
    mask = np.zeros((80, 120), np.uint8, order="F")
    mask[20:50, 60:90] = 1
    compressed = mask_util.encode(mask)
    text = {"size": [80, 120], "counts": compressed["counts"].decode()}
    flat = mask.ravel(order="F")
    counts = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    return [compressed, text, {"size": [80, 120], "counts": counts}]


# ------------------------------------------------------------------------------------- one patch


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_patch_shows_its_object_under_the_mask(tmp_path: Path, seed: int) -> None:
    sample = mapper()(entry_of(tmp_path, "mask", seed))
    image, mask = sample["image"], sample["gt_mask"]
    assert (image.shape, image.dtype) == ((3, 192, 192), torch.uint8)
    assert (mask.shape, mask.dtype) == ((160, 160), torch.bool)
    assert (sample["kind"], sample["label"]) == ("mask", 1)
    assert (sample["image_id"], sample["category_id"]) == (1, 2)
    # Green is the same in both, at the borders the grey is brighter: the object is the red part.
    window = image[:, 16:-16, 16:-16].int()
    red = window[0] - window[2] > (RED[0] - RED[2]) / 2
    assert (red == mask).float().mean() > 0.99
    rows, columns = mask.any(1).sum(), mask.any(0).sum()
    assert 92 * 2**-0.26 < min(rows, columns) <= max(rows, columns) < 92 * 2**0.26


@pytest.mark.parametrize("segmentation", run_length_codes())
def test_run_length_codes_give_the_mask_of_the_polygon(tmp_path: Path, segmentation: Any) -> None:
    sample = mapper()(entry_of(tmp_path, "mask", segmentation=segmentation))
    expected = mapper()(entry_of(tmp_path, "mask"))
    assert (sample["gt_mask"] == expected["gt_mask"]).float().mean() > 0.99
    assert torch.equal(sample["image"], expected["image"])


def test_a_smaller_mask_covers_the_same_window(tmp_path: Path) -> None:
    whole = mapper()(entry_of(tmp_path, "mask"))
    small = mapper(mask_size=80)(entry_of(tmp_path, "mask"))
    assert torch.equal(small["image"], whole["image"])
    halved = whole["gt_mask"].view(80, 2, 80, 2).float().mean((1, 3)) > 0.5
    assert (small["gt_mask"] == halved).float().mean() > 0.98


def test_a_positive_patch_is_centred(tmp_path: Path) -> None:
    sample = mapper()(entry_of(tmp_path, "positive"))
    assert (sample["kind"], sample["label"]) == ("score", 1)
    assert "gt_mask" not in sample
    red = (sample["image"][0].int() - sample["image"][2] > 100).nonzero().float()
    assert red.mean(0).tolist() == pytest.approx([95.5, 95.5], abs=0.6)


def test_a_negative_patch_has_no_object_in_the_middle(tmp_path: Path) -> None:
    for seed in range(20):
        sample = mapper()(entry_of(tmp_path, "negative", seed))
        assert (sample["kind"], sample["label"]) == ("score", -1)
        assert "gt_mask" not in sample
        window = sample["window"]
        distance = max(abs(window.x - 75), abs(window.y - 35)) * window.scale
        assert distance >= 48 or abs(np.log2(window.scale / (92 / 30))) > 2.5


def test_an_image_without_room_for_a_negative_gives_an_object(tmp_path: Path) -> None:
    crowded = SamplingOptions(negative_shift=1000.0, negative_octaves=20.0)
    sample = mapper(options=crowded)(entry_of(tmp_path, "negative"))
    assert (sample["kind"], sample["label"]) == ("score", 1)
    assert (sample["window"].x, sample["window"].y) == (75, 35)


def test_the_entry_stays_as_it_was(tmp_path: Path) -> None:
    for draw in ("mask", "negative"):
        entry = entry_of(tmp_path, draw)
        del entry["record"]["height"], entry["record"]["width"]
        before = copy.deepcopy(entry)
        sample = mapper()(entry)
        assert entry == before
        assert sample["image"].shape == (3, 192, 192)


def test_an_object_beyond_the_borders_is_what_is_seen_of_it(tmp_path: Path) -> None:
    """Huge figures for what covers all of the image: the patch shows it, the grey is no target."""
    far = 1e9
    polygon = [-far, -far, far, -far, far, far, -far, far]
    entry = entry_of(tmp_path, "mask", segmentation=[polygon], bbox=[-far, -far, 2 * far, 2 * far])
    options = SamplingOptions(shift=0, scale=0, flip=0)
    for known in (True, False):
        if not known:
            del entry["record"]["height"], entry["record"]["width"]
        sample = mapper(options=options)(entry)
        window = sample["window"]
        assert (window.x, window.y) == (60, 40)
        assert window.scale == pytest.approx(92 / 120)
        mask = sample["gt_mask"]
        assert mask.sum().item() == pytest.approx(92 * 80 * 92 / 120, rel=0.02)
        grey = (sample["image"][:, 16:-16, 16:-16] == 128).all(0)
        assert not (grey & mask).any()


def test_an_object_outside_of_an_image_of_unknown_size_is_named(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, "positive", bbox=[130, 20, 30, 30])
    del entry["record"]["height"], entry["record"]["width"]
    with pytest.raises(DataError, match=r"image\.png \(image id 1\).*outside the image"):
        mapper()(entry)


def test_channels_are_in_the_order_of_the_format(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, "positive")
    rgb = mapper()(entry)["image"]
    assert rgb[:, 96, 96].tolist() == list(RED)
    assert torch.equal(mapper(image_format="BGR")(entry)["image"].flip(0), rgb)
    with pytest.raises(ConfigError, match=r"INPUT\.FORMAT is 'L'"):
        mapper(image_format="L")


def test_unreadable_images_and_masks_are_named(tmp_path: Path) -> None:
    wrong = {"size": [40, 60], "counts": [1000, 400, 1000]}
    with pytest.raises(DataError, match=r"image\.png \(image id 1\).*\(40, 60\).*\(80, 120\)"):
        mapper()(entry_of(tmp_path, "mask", segmentation=wrong))
    entry = entry_of(tmp_path, "mask")
    Path(entry["record"]["file_name"]).write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"image\.png.*image id 1"):
        mapper()(entry)


@pytest.mark.parametrize("side", [1, 7, 30])
def test_images_smaller_than_a_patch(tmp_path: Path, side: int) -> None:
    square = [0, 0, side, 0, side, side, 0, side]
    for draw in ("mask", "positive", "negative"):
        entry = entry_of(tmp_path, draw, segmentation=[square], bbox=[0, 0, side, side])
        cv2.imwrite(entry["record"]["file_name"], np.zeros((side, side, 3), np.uint8))
        entry["record"] |= {"height": side, "width": side}
        sample = mapper()(entry)
        assert sample["image"].shape == (3, 192, 192)
        assert sample["image"].max() == 128
        if draw != "negative":
            assert sample["image"].min() <= 2
        if draw == "mask":
            assert 92 * 2**-0.26 < sample["gt_mask"].sum().sqrt() < 92 * 2**0.26


def test_kinds_have_their_shares(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, "mask")
    del entry["draw"], entry["seed"]
    options = SamplingOptions(window_size=16, context=0, mask_share=0.2, positive_share=0.75)
    make = mapper(options=options, mask_size=16)
    drawn = Counter((s["kind"], s["label"]) for s in (make(entry) for _ in range(600)))
    shares = {key: count / 600 for key, count in drawn.items()}
    assert shares == pytest.approx(
        {("mask", 1): 0.2, ("score", 1): 0.6, ("score", -1): 0.2}, abs=0.07
    )


@pytest.mark.parametrize(
    ("architecture", "is_train", "size"),
    [("DeepMask", True, 112), ("DeepMask", False, 160), ("SharpMask", True, 160)],
)
def test_mask_size_is_that_of_the_loss(architecture: str, is_train: bool, size: int) -> None:
    cfg = config(**{"MODEL.META_ARCHITECTURE": architecture})
    assert build_mapper(cfg, is_train).mask_size == size


# --------------------------------------------------------------------------------------- loaders


def same(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x["image"], y["image"])
        and (x["kind"], x["label"], x["window"]) == (y["kind"], y["label"], y["window"])
        and torch.equal(x.get("gt_mask", torch.zeros(0)), y.get("gt_mask", torch.zeros(0)))
        for x, y in zip(a, b, strict=True)
    )


def training_samples(records: list[dict], seed: int, workers: int) -> list[dict]:
    seed_all_rng(seed)
    loader = build_train_loader(config(**{"DATALOADER.NUM_WORKERS": workers}), records)
    return [sample for batch in islice(loader, 4) for sample in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_reproducible_and_never_repeats(records: list[dict], workers: int) -> None:
    samples = training_samples(records, 1, workers)
    assert len(samples) == 32
    assert same(samples, training_samples(records, 1, workers))
    assert not same(samples, training_samples(records, 2, workers))
    assert len({sample["window"] for sample in samples}) == 32
    assert {(s["kind"], s["label"]) for s in samples} == {("mask", 1), ("score", 1), ("score", -1)}
    assert all(s["gt_mask"].any() for s in samples if s["kind"] == "mask")
    assert {sample["category_id"] for sample in samples} == set(range(6))


def test_held_out_patches_do_not_depend_on_workers_or_luck(records: list[dict]) -> None:
    runs = []
    for workers, batch in ((0, 8), (2, 5)):
        seed_all_rng(workers)
        changes = {"DATALOADER.NUM_WORKERS": workers, "SOLVER.IMS_PER_BATCH": batch}
        loader = build_test_loader(config(**changes), records)
        runs.append([sample for samples in loader for sample in samples])
    assert same(*runs)
    assert len(runs[0]) == 30
    kinds = Counter((sample["kind"], sample["label"]) for sample in runs[0])
    assert kinds[("mask", 1)] == 15
    assert kinds[("score", -1)] >= 5
    assert all(sample["gt_mask"].shape == (160, 160) for sample in runs[0][::2])


def test_held_out_patches_do_not_depend_on_the_training(records: list[dict]) -> None:
    def windows(**changes: Any) -> list:
        keys = {f"MODEL.SHARP_MASK.SAMPLING.{key}": value for key, value in changes.items()}
        loader = build_test_loader(config(**keys), records)
        return [sample["window"] for batch in loader for sample in batch]

    usual = windows()
    other = windows(
        SHIFT=1.0, SCALE=1.0, FLIP=0.0, MIN_AREA=0.0, MIN_SIDE=1.0, MASK_SHARE=0.9,
        POSITIVE_SHARE=0.9, NEGATIVE_SCALES=(0.0, 1.0), NEGATIVE_SHIFT=1.0, NEGATIVE_OCTAVES=1.0,
        NEGATIVE_TRIALS=3,
    )  # fmt: skip
    assert other == usual
    assert not any(window.flip for window in windows(TEST_JITTER=0.0))


def test_a_frozen_sharpmask_needs_masks(records: list[dict]) -> None:
    no_masks = {"MODEL.SHARP_MASK.SAMPLING.MASK_SHARE": 0.0}
    with pytest.raises(ConfigError, match=r"SAMPLING\.MASK_SHARE is 0"):
        build_train_loader(config(**no_masks), records)
    build_train_loader(config(**no_masks, **{"MODEL.META_ARCHITECTURE": "DeepMask"}), records)
    build_train_loader(
        config(**no_masks, **{"MODEL.SHARP_MASK.FREEZE_FEEDFORWARD": False}), records
    )


def test_errors_come_out_of_the_workers(tmp_path: Path) -> None:
    record = entry_of(tmp_path, "mask")["record"]
    Path(record["file_name"]).unlink()
    loader = build_train_loader(config(**{"DATALOADER.NUM_WORKERS": 1}), [record])
    with pytest.raises(DataError, match=r"image\.png \(image id 1\) does not exist"):
        next(iter(loader))


def worker(rank: int, folder: Path, records: list[dict]) -> None:
    """One rank of two: it saves what it draws and what it is to evaluate on."""
    seed_all_rng(10 + rank)
    train = next(iter(build_train_loader(config(), records)))
    held_out = [sample for batch in build_test_loader(config(), records) for sample in batch]
    torch.save((train, held_out), f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_two_ranks_share_the_work(records: list[dict], tmp_path: Path) -> None:
    spawn_two(worker, tmp_path, records)
    ranks = [torch.load(tmp_path / f"{rank}.pth", weights_only=False) for rank in range(2)]
    assert [len(train) for train, _ in ranks] == [4, 4]
    assert len({sample["window"] for train, _ in ranks for sample in train}) == 8
    alone = [sample for batch in build_test_loader(config(), records) for sample in batch]
    assert same(ranks[0][1] + ranks[1][1], alone)
