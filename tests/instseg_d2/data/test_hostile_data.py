"""Annotations, proposals and images that would take the memory, the time or the process."""

import contextlib
import json
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from instseg_d2.data.annotation_checks import instance_problem
from instseg_d2.data.coco_json import check_coco_json, read_coco_json
from instseg_d2.data.image_guard import image_file_problem
from instseg_d2.data.image_reading import read_image
from instseg_d2.data.proposal_checks import check_precomputed_proposals
from instseg_d2.data.proposal_files import read_proposal_file
from instseg_d2.data.segmentation_checks import MAX_OUTLINE, polygon_problem, rle_problem
from instseg_d2.errors import DataError
from tests.coco_sample import SQUARE, coco


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[" + "9" * 5000 + "]"])
def test_json_that_is_nested_deeply_or_has_endless_numbers(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.json cannot be read as JSON"):
        read_coco_json(str(path))
    with pytest.raises(DataError, match=r"a\.json"):
        list(read_proposal_file(path))


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("images", {"id": [1]}, r"image number 0: 'id' is \[1\], expected a number or text"),
        ("images", {"id": float("nan")}, "'id' is nan"),
        ("images", {"height": "10"}, "'height' is '10', expected a whole number below 65536"),
        ("images", {"width": -1}, "'width' is -1"),
        ("images", {"width": 10**400}, "'width' is a very long number"),
        ("images", {"file_name": 3}, "'file_name' is 3, expected text"),
        ("images", {"file_name": "a\0.png"}, r"'file_name' is 'a\\x00.png'"),
        ("categories", {"name": None}, "'name' is None, expected text"),
        ("annotations", {"image_id": {}}, r"annotation number 0: 'image_id' is \{\}"),
        ("annotations", {"category_id": []}, r"'category_id' is \[\]"),
        ("annotations", {"bbox": 5}, "annotation id 101 of image id 11: 'bbox' is 5"),
        ("annotations", {"segmentation": "text"}, "'segmentation' is a str"),
        ("annotations", {"segmentation": [5]}, "must be a list of polygons"),
        ("annotations", {"segmentation": [[1e9, 0] * 4 + [0, 1e9]]}, "longer than 1000000 pixels"),
        ("annotations", {"segmentation": [[10**400] * 6]}, "coordinate that is too large"),
        ("annotations", {"area": "64"}, "'area' is '64', expected a number"),
        ("annotations", {"iscrowd": [1]}, r"'iscrowd' is \[1\], expected 0 or 1"),
    ],
)
def test_values_of_another_kind_are_named(tmp_path, kind, change, said):
    content = coco()
    content[kind][0].update(change)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=said) as error:
        check_coco_json(str(path), "evaluation")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ({"size": [10, 12], "counts": [-30, 75, 75]}, "cannot be read"),
        ({"size": [10, 12], "counts": [0, 2**70]}, "covers 1180591620717411303424 pixels"),
        ({"size": [10, 12], "counts": [0.5, 10**400]}, "cannot be read"),
        ({"size": [2**31, 2**31], "counts": [2**62]}, "'size' is"),
        ({"size": [-10, -12], "counts": [120]}, "'size' is"),
        ({"size": "ab", "counts": "o1"}, "'size' is 'ab'"),
        ({"size": 5, "counts": "o1"}, "'size' is 5"),
        ({"size": [10, 12], "counts": 2**40}, "cannot be read"),
        ({"size": [10, 12], "counts": "\ud800"}, "cannot be read"),
        ({"size": [10, 12], "counts": "P" * 40 + "0"}, "cannot be read"),
        ({"size": [10, 12], "counts": {"a": 1}}, "cannot be read"),
    ],
)
def test_run_length_codes_that_pycocotools_must_not_see(code, said):
    assert said in rle_problem(code, 10 if code["size"] == [10, 12] else None, 12)


def test_runs_whose_sum_is_right_only_by_overflow():
    """From the third on, runs are differences: these are 60, 120 and -60 long."""
    assert rle_problem({"size": [10, 12], "counts": "l1h3T^O"}, 10, 12) is not None


def test_outlines_may_be_long_but_not_endless():
    rng = np.random.default_rng(0)
    assert polygon_problem(rng.uniform(0, 4000, 400).tolist()) is None
    assert "longer than" in polygon_problem([0.0, 0.0, MAX_OUTLINE, 0.0, 5.0, 5.0])
    circle = np.linspace(0, 2 * np.pi, 20_000)
    round_trip = 10_000 + 9000 * np.stack([np.cos(circle), np.sin(circle)], 1)
    assert polygon_problem(round_trip.reshape(-1).tolist()) is None
    assert polygon_problem(round_trip.reshape(-1)) is None


@pytest.mark.parametrize("box", [["a", 1, 2, 3], [1, 2, 3, float("nan")], [1, 2, 3, 10**400], 7])
def test_boxes_that_are_no_numbers(box):
    annotation = {"category_id": 0, "bbox": box, "segmentation": [SQUARE]}
    assert instance_problem(annotation, 10, 12, 6).startswith("'bbox' is ")


def png_header(width, height):
    """A PNG file that says its size and has no pixels."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (png_header(60_000, 60_000), "DecompressionBombError"),
        (png_header(2**31 - 1, 2**31 - 1), "cannot be read"),
        (png_header(100, 100), "cannot be read"),
        (png_header(0, 0), "cannot be read"),
        (b"BM" + b"\xff" * 60, "cannot be read"),
        (b"II*\0\x08\0\0\0" + b"\xff" * 60, "cannot be read"),
        (b"P6 60000 60000 255\n", "DecompressionBombError"),
        (b"GIF89a" + b"\xff" * 60, "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is PostScript"),
        (b"\xc5\xd0\xd3\xc6" + b"\0" * 60, "is PostScript"),
        (b"", "cannot be read"),
    ],
)
def test_images_that_are_refused(tmp_path, raw, said):
    path = tmp_path / "a.png"
    path.write_bytes(raw)
    started = time.monotonic()
    with pytest.raises(DataError, match=said) as error:
        read_image({"file_name": str(path)}, "BGR")
    assert "a.png" in str(error.value)
    assert time.monotonic() - started < 30


def test_a_wrong_suffix_does_not_matter_and_a_lost_end_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.jpg").write_bytes(raw)
    read = read_image({"file_name": str(tmp_path / "a.jpg")}, "RGB")
    assert np.array_equal(read, pixels)
    (tmp_path / "b.png").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"b\.png .* cannot be read"):
        read_image({"file_name": str(tmp_path / "b.png")}, "RGB")


def test_ghostscript_is_not_started(tmp_path, monkeypatch):
    """Pillow would, for a file that begins like PostScript, whatever its suffix."""
    trap = tmp_path / "sprung"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {trap}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "a.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n9 9 moveto\n"
    )
    with pytest.raises(DataError, match="is PostScript"):
        read_image({"file_name": str(path)}, "RGB")
    assert not trap.exists()
    with contextlib.suppress(OSError), Image.open(path) as image:
        image.load()
    assert trap.exists()  # else the test above could not fail


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_pipes_and_folders_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(DataError, match=f"{name} .* is no file"):
            read_image({"file_name": str(tmp_path / name)}, "RGB")
    assert "is no file" in image_file_problem("/dev/zero")


@pytest.mark.parametrize("url", ["https://example.com/../../.bashrc", "detectron2://a/../../b.pkl"])
def test_addresses_that_lead_out_of_the_cache_are_not_fetched(url):
    with pytest.raises(DataError, match="is not fetched"):
        check_precomputed_proposals("own", [], url)
    with pytest.raises(DataError, match=r"is not fetched|does not exist"):
        read_image({"file_name": url}, "RGB")
