"""The naive way that the product is compared with makes the same patches."""

import re

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from instseg_d2.data.shapes import ShapesSpec
from instseg_d2.data.shapes_dataset import register_shapes
from sharpmask_d2.config import add_sharpmask_config
from sharpmask_d2.dataset_mapper import PatchMapper
from sharpmask_d2.patch_entries import FixedPatches
from sharpmask_d2.patch_entries import testing_entries as held_out_entries
from tools.benchmark_patches import NaiveMapper, comparison

COUNT = 24


@pytest.fixture(scope="module")
def mappers() -> dict[str, PatchMapper]:
    cfg = get_cfg()
    add_sharpmask_config(cfg)
    cfg.MODEL.SHARP_MASK.SAMPLING.TEST_PATCHES = COUNT
    return {"sharpmask_d2": PatchMapper(cfg), "naive": NaiveMapper(cfg)}


@pytest.fixture(scope="module")
def patches(mappers: dict[str, PatchMapper]) -> FixedPatches:
    train, _ = register_shapes(ShapesSpec(num_train=12, num_val=1, image_size=96))
    return held_out_entries(DatasetCatalog.get(train), mappers["naive"].options)


def test_both_ways_make_the_same_patches(
    patches: FixedPatches, mappers: dict[str, PatchMapper]
) -> None:
    for index in range(COUNT):
        sample, naive = (mapper(patches[index]) for mapper in mappers.values())
        assert sample["window"] == naive["window"]
        # The naive way cuts at whole pixels of the image.
        blurred = [
            np.asarray(image[0].unfold(0, 24, 24).unfold(1, 24, 24).float().mean((2, 3)))
            for image in (sample["image"], naive["image"])
        ]
        assert np.abs(blurred[0] - blurred[1]).mean() < 6
        assert ("gt_mask" in naive) == ("gt_mask" in sample)
        if "gt_mask" in naive:
            assert (naive["gt_mask"] == sample["gt_mask"]).float().mean() > 0.93


def test_the_table_has_a_rate_for_each_way(
    patches: FixedPatches, mappers: dict[str, PatchMapper]
) -> None:
    table = comparison(patches, mappers)
    for name in ("sharpmask_d2", "naive"):
        row = re.search(rf"^{name} +(\d+) +([\d.]+) +([\d.]+)", table, re.MULTILINE)
        assert row, table
        rate, mask, score = (float(number) for number in row.groups())
        assert rate == pytest.approx(2000 / (mask + score), rel=0.05)
    assert re.search(r"^[\d.]+ x as fast$", table, re.MULTILINE)
