from dataclasses import fields
from typing import Any

import pytest

from instseg_d2.errors import ConfigError
from sharpmask_d2.proposal_options import ProposalOptions
from tests.sharpmask_d2.small_networks import small_config

HALF = 2**0.5


def test_presets_are_those_of_the_paper() -> None:
    default = ProposalOptions().scales_of(480, 640)
    assert default == pytest.approx([2**-2.5, 1 / 4, 2**-1.5, 1 / 2, 1 / HALF, 1, HALF])
    zoom = ProposalOptions(preset="zoom").scales_of(480, 640)
    assert zoom == pytest.approx([*default, 2])
    zoom2 = ProposalOptions(preset="zoom2").scales_of(480, 640)
    assert zoom2 == pytest.approx([*default, 2, 2 * HALF])


def test_scales_replace_the_preset_and_ascend() -> None:
    options = ProposalOptions(preset="zoom", scales=(1, 0.25, 3))
    assert options.scales_of(480, 640) == (0.25, 1, 3)


@pytest.mark.parametrize("size", [(480, 640), (3000, 1000), (5, 2)])
def test_relative_scales_give_the_longer_side(size: tuple[int, int]) -> None:
    options = ProposalOptions(scales=(0.5, 1), reference_size=640)
    assert [scale * max(size) for scale in options.scales_of(*size)] == pytest.approx([320, 640])


def test_every_key_is_an_option_and_is_read() -> None:
    values: dict[str, Any] = {
        "num": 7, "score_threshold": 0.1, "preset": "zoom", "scales": (0.5, 2.0),
        "reference_size": 320, "mask_threshold": 0.3, "nms_threshold": 0.9, "batch": 3,
    }  # fmt: skip
    keys = set(small_config().MODEL.SHARP_MASK.PROPOSALS)
    assert {field.name.upper() for field in fields(ProposalOptions)} == keys
    cfg = small_config(**{f"PROPOSALS__{key.upper()}": value for key, value in values.items()})
    assert vars(ProposalOptions.from_config(cfg)) == values
    assert ProposalOptions.from_config(small_config()) == ProposalOptions()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"num": 0}, r"PROPOSALS\.NUM is 0; it must be at least 1"),
        ({"batch": 0}, r"PROPOSALS\.BATCH is 0; it must be at least 1"),
        ({"preset": "zoom3"}, r"PRESET is 'zoom3'.*default, zoom, zoom2"),
        ({"scales": (1, 0)}, r"SCALES is \(1, 0\); it must be numbers above 0"),
        ({"scales": (float("nan"),)}, r"SCALES is \(nan,\)"),
        ({"scales": (float("inf"),)}, r"SCALES is \(inf,\)"),
        ({"scales": ("1",)}, r"SCALES is \('1',\)"),
        ({"scales": (1, 0.5, 1)}, r"SCALES.*different"),
        ({"reference_size": -1}, r"REFERENCE_SIZE is -1; it must be at least 0"),
        ({"mask_threshold": 0.0}, r"MASK_THRESHOLD is 0\.0; it must be above 0 and below 1"),
        ({"mask_threshold": 1.0}, r"MASK_THRESHOLD is 1\.0"),
        ({"mask_threshold": float("nan")}, r"MASK_THRESHOLD is nan"),
        ({"score_threshold": 1.0}, r"SCORE_THRESHOLD is 1\.0; it must be at least 0 and below 1"),
        ({"score_threshold": -0.1}, r"SCORE_THRESHOLD is -0\.1"),
        ({"nms_threshold": 1.1}, r"NMS_THRESHOLD is 1\.1; it must be from 0 to 1"),
    ],
)
def test_impossible_values_name_the_key(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ProposalOptions(**values)
