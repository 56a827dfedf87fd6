"""The program as a user runs it, on small networks with random weights."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from instseg_d2.config import load_config
from instseg_d2.demo import video
from instseg_d2.image_sources import named_images
from tests.tools.demo_runs import (
    arguments,
    content,
    error_of,
    load,
    network,
    pixels,
    run,
    save,
)
from tools.demo import main, parse, settings

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / "tools" / "demo.py"


@pytest.fixture(scope="module")
def sparseinst(tiny_overrides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparseinst")
    return network(folder, "sparseinst/sparse_inst_r50_giam", tiny_overrides)


@pytest.fixture(scope="module")
def sharpmask(tiny_overrides, tmp_path_factory):
    few = ["MODEL.SHARP_MASK.PROPOSALS.SCALES", "(1.0,)", "INPUT.MIN_SIZE_TEST", "0"]
    folder = tmp_path_factory.mktemp("sharpmask")
    return network(folder, "sharpmask/sharpmask_r50", [*tiny_overrides, *few])


# ------------------------------------------------------------------------------------ whole runs


@pytest.mark.slow
def test_a_folder_with_good_and_bad_files_as_a_user_runs_it(sparseinst, tmp_path):
    folder = tmp_path / "in put"
    save(folder / "a.png")
    save(folder / "ü [1]*.jpg")
    save(folder / "grey.png", pixels()[..., 0])
    save(folder / "deep.png", pixels()[..., 0].astype(np.uint16) * 257)
    save(folder / "rgba.png", np.dstack([pixels(), pixels()[..., 0]]))
    save(folder / "one.png", pixels()[:1, :1])
    Image.fromarray(pixels()).convert("P").save(folder / "palette.png")
    Image.fromarray(pixels()).convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(folder / "turned.jpg", exif=exif)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:500])
    (folder / "text.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    options = [folder, tmp_path / "empty"], folder / "out" / "new"
    command = arguments(sparseinst, *options, "--write", "overlay,json", "--save-iam",
                        "--score-threshold", "0")  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(TOOL), *command], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "9 images, " in done.stdout
    assert "by the model alone" in done.stdout
    assert "model alone" in done.stderr, "the bar tells both paces"
    assert "3 inputs could not be used" in done.stderr
    for name in ("cut.png", "text.jpg", "empty"):
        assert name in done.stderr
    out = folder / "out" / "new"
    good = ["a", "cmyk", "deep", "grey", "one", "palette", "rgba", "turned", "ü [1]*"]
    assert content(out) == [
        *(f"activation_maps/{name}.jpg" for name in good),
        "images.json",
        *(f"overlays/{name}.jpg" for name in good),
        "predictions.json",
    ]
    images = {image["id"]: image for image in load(out / "images.json")["images"]}
    assert len(images) == 9
    (turned,) = (each for each in images.values() if "turned" in each["file_name"])
    assert (turned["height"], turned["width"]) == (64, 48)
    results = load(out / "predictions.json")
    assert results
    for result in results:
        image = images[result["image_id"]]
        assert result["segmentation"]["size"] == [image["height"], image["width"]]
    # Small pictures are enlarged for their labels.
    assert Image.open(out / "overlays" / "turned.jpg").size == (336, 448)


def test_a_video(sparseinst, tmp_path, capsys):
    path = tmp_path / "clip.avi"
    with video.VideoOutput(path, "MJPG", 10) as clip:
        for seed in range(5):
            clip.write(pixels(seed=seed))
    run(sparseinst, [path], tmp_path / "out", "--limit", "3", "--write", "overlay,json")
    drawn = list(named_images(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert [each.read().shape for each in drawn] == [(336, 448, 3)] * 3
    assert video.video_info(tmp_path / "out" / "overlays" / "clip.mp4").rate == 10
    names = [image["file_name"] for image in load(tmp_path / "out" / "images.json")["images"]]
    assert names == [f"{path}, frame {number}" for number in range(3)]
    assert f"Video: {tmp_path}/out/overlays/clip.mp4" in capsys.readouterr().out

    run(sparseinst, [path], tmp_path / "json", "--write", "json")
    assert sorted(path.name for path in (tmp_path / "json").iterdir()) == [
        "images.json", "predictions.json",
    ]  # fmt: skip
    assert len(load(tmp_path / "json" / "images.json")["images"]) == 5


class FakeCapture:
    """A camera; Ctrl-C is pressed after three frames."""

    def __init__(self, source):
        self.count = 0

    def isOpened(self):
        return True

    def read(self):
        self.count += 1
        if self.count == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return True, pixels(seed=self.count)

    def get(self, key):
        return 25.0

    def release(self):
        pass


def test_a_camera_until_ctrl_c(sparseinst, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("instseg_d2.demo.video.cv2.VideoCapture", FakeCapture)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
    config, overrides = sparseinst
    out = tmp_path / "out"
    main(["--config-file", config, "--webcam", "--output", str(out), "--write", "overlay,json",
          *overrides])  # fmt: skip
    count = int(re.match(r"(\d+) images", capsys.readouterr().out)[1])
    assert 1 <= count < 20
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(load(out / "images.json")["images"]) == count
    assert content(out) == ["images.json", "overlays/webcam.mp4", "predictions.json"]
    monkeypatch.undo()
    assert video.video_info(out / "overlays" / "webcam.mp4").rate == 25


def test_sharpmask_shows_coarse_and_sharp_masks(sharpmask, tmp_path):
    image = save(tmp_path / "a.png")
    run(sharpmask, [image], tmp_path / "out", "--top", "4", "--write", "json", "--save-iam")
    results = load(tmp_path / "out" / "predictions.json")
    assert 0 < len(results) <= 4
    assert {result["category_id"] for result in results} == {1}
    picture = Image.open(tmp_path / "out" / "coarse_and_sharp" / "a.jpg")
    assert picture.size[0] == 3 * (300 + 8) + 8
    coarse = (sharpmask[0], [*sharpmask[1], "MODEL.SHARP_MASK.OUTPUT", "coarse"])
    assert "has no activation maps" in error_of(coarse, [image], tmp_path, "--save-iam")


def test_fast_rcnn_on_the_proposals_of_another_model(sharpmask, tiny_overrides, tmp_path):
    small = ["MODEL.FPN.OUT_CHANNELS", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
             "MODEL.ROI_HEADS.NUM_CLASSES", "6"]  # fmt: skip
    detector = network(tmp_path, "sharpmask/fast_rcnn_r50_fpn_sharpmask", [*tiny_overrides, *small])
    image = save(tmp_path / "a.png", pixels(96, 150))
    assert "--proposals-from CONFIG WEIGHTS" in error_of(detector, [image], tmp_path / "out")
    proposer = tmp_path / "proposer.yaml"
    keys = dict(zip(sharpmask[1][::2], sharpmask[1][1::2], strict=True))
    weights = keys.pop("MODEL.WEIGHTS")
    cfg = load_config(sharpmask[0], [part for pair in keys.items() for part in pair])
    proposer.write_text(cfg.dump())
    run(detector, [image], tmp_path / "out", "--write", "json", "--top", "5",
        "--proposals-from", str(proposer), weights)  # fmt: skip
    results = load(tmp_path / "out" / "predictions.json")
    assert len(results) == 5
    for result in results:
        x, y, width, height = result["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 150.01
        assert y + height <= 96.01
    assert max(x["bbox"][0] + x["bbox"][2] for x in results) > 96, "boxes are in the image's frame"


def test_a_detector_of_detectron2(tiny_overrides, tmp_path):
    (tmp_path / "mask_rcnn.yaml").write_text(
        "VERSION: 2\nMODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n  MASK_ON: True\n"
        "  RPN: {PRE_NMS_TOPK_TEST: 50, POST_NMS_TOPK_TEST: 10}\n"
        "  ROI_HEADS: {NAME: StandardROIHeads, NUM_CLASSES: 6, IN_FEATURES: [res4]}\n"
        "  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16}\n"
        "  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 8}\n"
    )
    net = network(tmp_path, str(tmp_path / "mask_rcnn.yaml"), tiny_overrides)
    run(net, [save(tmp_path / "a.png")], tmp_path / "out", "--write", "overlay,json")
    results = load(tmp_path / "out" / "predictions.json")
    assert results
    assert results[0]["segmentation"]["size"] == [48, 64]
    assert "GeneralizedRCNN has no activation maps" in error_of(
        net, [tmp_path / "a.png"], tmp_path / "out", "--save-iam"
    )


# -------------------------------------------------------------------------------------- results


def test_huge_images_are_reduced_and_their_results_are_not(sparseinst, tmp_path, capsys):
    image = save(tmp_path / "huge.jpg", pixels(900, 1200))
    options = ["--write", "overlay,json", "--max-pixels", "120000"]
    run(sparseinst, [image], tmp_path / "out", *options)
    assert "1 images were reduced" in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "overlays" / "huge.jpg").size == (400 * 2, 300 * 2)
    results = load(tmp_path / "out" / "predictions.json")
    assert results
    for result in results:
        x, y, width, height = result["bbox"]
        inside = mask_util.toBbox(result["segmentation"])
        assert np.abs(inside - (x, y, width, height)).max() <= 3
        assert result["segmentation"]["size"] == [900, 1200]


def test_nothing_found_is_drawn_as_the_image_itself(sparseinst, tmp_path, capsys):
    image = save(tmp_path / "a.png")
    main(arguments(sparseinst, [image], tmp_path / "out", "--score-threshold", "1",
                   "--write", "overlay,json", "--save-iam", "--format", "png"))  # fmt: skip
    assert "1 images, 0 detections, 1 images without any" in capsys.readouterr().out
    assert load(tmp_path / "out" / "predictions.json") == []
    drawn = np.asarray(Image.open(tmp_path / "out" / "overlays" / "a.png"))
    wanted = cv2.resize(pixels(), None, fx=7, fy=7, interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(drawn, wanted)
    assert (tmp_path / "out" / "activation_maps" / "a.png").is_file()


def test_options_that_choose(sparseinst, tmp_path):
    image = save(tmp_path / "a.png")

    def found(*options):
        run(sparseinst, [image], tmp_path / "out", "--write", "json", *options)
        return load(tmp_path / "out" / "predictions.json")

    everything = found()
    assert len(everything) > 3
    assert [each["score"] for each in everything] == sorted(
        (each["score"] for each in everything), reverse=True
    )
    assert found("--top", "2") == everything[:2]
    areas = [mask_util.area(each["segmentation"]) for each in everything]
    least = int(np.median(areas)) + 1
    large = [each for each, area in zip(everything, areas, strict=True) if area >= least]
    assert found("--min-area", str(least)) == large
    assert found("--min-area", str(least), "--top", "1") == large[:1]
    assert len(found("--mask-nms", "0")) < len(everything)


def test_files_of_earlier_runs_are_replaced_and_counted(sparseinst, tmp_path, capsys):
    save(tmp_path / "x" / "a.png")
    save(tmp_path / "y" / "a.png", pixels(seed=1))
    inputs = [tmp_path / "x", tmp_path / "y"]
    for _ in range(2):
        run(sparseinst, inputs, tmp_path / "out")
    said = capsys.readouterr().out
    assert said.count("2 of these files took the place of older ones") == 1
    assert content(tmp_path / "out") == ["overlays/x/a.jpg", "overlays/y/a.jpg"]
    first, second = (tmp_path / "out" / "overlays" / name / "a.jpg" for name in "xy")
    assert first.read_bytes() != second.read_bytes()


def test_the_output_may_lie_in_the_input(sparseinst, tmp_path, capsys):
    image = save(tmp_path / "a.png")
    before = image.read_bytes()
    run(sparseinst, [tmp_path], tmp_path, "--format", "png")
    run(sparseinst, [f"{tmp_path}/**/*.png"], tmp_path, "--format", "png")
    assert "1 files in" in capsys.readouterr().out
    assert content(tmp_path) == ["a.png", "overlays/a.png"]
    assert image.read_bytes() == before
    message = error_of(sparseinst, [tmp_path / "overlays" / "a.png"], tmp_path, "--format", "png")
    assert "would overwrite an input" in message


def test_the_models_threshold_leaves_out_what_is_not_wanted(sparseinst, sharpmask):
    def made(net, *options):
        return settings(parse(arguments(net, ["a.png"], "out", *options)))

    cfg, wanted = made(sparseinst)
    assert cfg.MODEL.SPARSE_INST.SCORE_THRESHOLD == wanted.score_threshold == 0.4
    cfg, wanted = made(sparseinst, "--score-threshold", "0.7", "--top", "3")
    assert cfg.MODEL.SPARSE_INST.SCORE_THRESHOLD == wanted.score_threshold == 0.7
    assert cfg.MODEL.SPARSE_INST.MAX_DETECTIONS == wanted.top == 3
    key = ["MODEL.SPARSE_INST.SCORE_THRESHOLD", "0.2"]
    assert made((sparseinst[0], [*sparseinst[1], *key]))[1].score_threshold == 0.2
    cfg, wanted = made(sharpmask)
    assert cfg.MODEL.SHARP_MASK.PROPOSALS.SCORE_THRESHOLD == 0.4
    assert cfg.MODEL.SHARP_MASK.PROPOSALS.NUM == wanted.top == 10
    cfg, wanted = made(sharpmask, "--mask-nms", "0.8")
    assert cfg.MODEL.SHARP_MASK.PROPOSALS.NUM == 1000, "the best may be duplicates"
    assert wanted.top == 10


@pytest.mark.parametrize("first", [["TEST.AUG", "1"], ["SEED", "3"], ["OUTPUT_DIR", "out"]])
def test_overrides_right_behind_the_inputs_are_overrides(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("A.JPG", "VERSION"):
        Path(name).touch()
    line = ["--config-file", "x", "--output", "y", "--input", "a.png", "A.JPG", "VERSION"]
    args = parse([*line, *first, "MODEL.WEIGHTS", "w.pth"])
    assert args.input == ["a.png", "A.JPG", "VERSION"]
    assert args.opts == [*first, "MODEL.WEIGHTS", "w.pth"]


# ------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_told_before_anything_is_predicted(sparseinst, tmp_path, monkeypatch):
    image = save(tmp_path / "a.png")
    assert "nix.png does not exist" in error_of(sparseinst, ["nix.png"], tmp_path / "out")
    assert "is a file; it must name a folder" in error_of(sparseinst, [image], image)
    untrained = (sparseinst[0], [*sparseinst[1], "MODEL.WEIGHTS", ""])
    assert "name a trained checkpoint" in error_of(untrained, [image], tmp_path / "out")
    assert "reads no proposals" in error_of(
        sparseinst, [image], tmp_path / "out", "--proposals-from", "x", "y"
    )
    clip = tmp_path / "clip.avi"
    clip.write_bytes(b"")
    monkeypatch.setattr(video, "_can_write", lambda codec: codec == "MJPG")
    message = error_of(sparseinst, [image, clip], tmp_path / "out", "--codec", "mp4v")
    assert "cannot write videos with the codec mp4v; it can with MJPG" in message
    assert content(tmp_path) == ["a.png", "clip.avi"]


def test_a_video_of_frames_that_are_too_narrow(sparseinst, tmp_path, capsys):
    with video.VideoOutput(tmp_path / "clip.avi", "MJPG", 10) as clip:
        for _ in range(3):
            clip.write(pixels(2, 640))
    assert error_of(sparseinst, [tmp_path / "clip.avi"], tmp_path / "out") == "1"
    said = capsys.readouterr().err
    assert said.count("are too narrow") == 1
    assert content(tmp_path / "out") == []


def test_a_damaged_video_is_passed_over(sparseinst, tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    image = save(tmp_path / "a.png")
    assert error_of(sparseinst, [tmp_path / "clip.mp4", image], tmp_path / "out") == "1"
    assert "clip.mp4 cannot be read" in capsys.readouterr().err
    assert content(tmp_path / "out") == ["overlays/a.jpg"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--input", "a", "--write", "xml"], "is not overlay, json or overlay,json"),
        (["--input", "a", "--score-threshold", "40"], "is not a number from 0 to 1"),
        ([], "nothing to look at"),
    ],
)
def test_options_that_are_none(options, said, capsys):
    with pytest.raises(SystemExit):
        parse(["--config-file", "x", "--output", "y", *options])
    assert said in capsys.readouterr().err
