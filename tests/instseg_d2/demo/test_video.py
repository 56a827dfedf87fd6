from pathlib import Path

import cv2
import numpy as np
import pytest

from instseg_d2.demo import video
from instseg_d2.demo.video import CODECS, Camera, VideoOutput, video_info, working_codec
from instseg_d2.errors import ConfigError, DataError
from instseg_d2.image_sources import named_images


def frame(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


@pytest.fixture(scope="module")
def codec() -> str:
    try:
        return working_codec()
    except ConfigError:
        pytest.skip("this OpenCV writes no videos")


def test_what_is_written_can_be_read(tmp_path: Path, codec: str) -> None:
    path = tmp_path / f"clip.v1{CODECS[codec]}"
    with VideoOutput(path, codec, 12.5) as output:
        for level in (0, 80, 160):
            output.write(frame(level, (47, 63)))  # odd sides
        assert not path.exists()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    info = video_info(path)
    assert (info.rate, info.frames) == (12.5, 3)
    read = [named.read() for named in named_images(path)]
    assert [round(float(each.mean()) / 80) for each in read] == [0, 1, 2]


def test_frames_that_change_their_size_become_as_large_as_the_first(
    tmp_path: Path, codec: str
) -> None:
    path = tmp_path / f"clip{CODECS[codec]}"
    with VideoOutput(path, codec, 10) as output:
        output.write(frame(10))
        output.write(frame(20, (20, 20)))
    assert [each.read().shape for each in named_images(path)] == [(48, 64, 3)] * 2


def test_an_interrupted_video_leaves_the_old_one(tmp_path: Path, codec: str) -> None:
    path = tmp_path / f"clip{CODECS[codec]}"
    path.write_bytes(b"old")

    def write() -> None:
        with VideoOutput(path, codec, 10) as output:
            output.write(frame(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    with VideoOutput(path, codec, 10):
        pass  # no frame
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_a_live_video_lasts_as_long_as_its_making(tmp_path: Path, codec: str) -> None:
    now = iter([0.0, 0.0, 0.5, 0.52, 1.0]).__next__
    path = tmp_path / f"clip{CODECS[codec]}"
    with VideoOutput(path, codec, 10, is_live=True, clock=now) as output:
        written = []
        for level in (0, 50, 100, 150):
            output.write(frame(level))
            written.append(output.frames)
    assert written == [1, 6, 6, 11]


def test_a_codec_that_does_not_work_is_named_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video, "_can_write", lambda codec: codec in ("MJPG", "VP80"))
    assert working_codec() == "MJPG"
    with pytest.raises(ConfigError, match=r"codec mp4v; it can with MJPG, VP80$"):
        working_codec("mp4v")
    with pytest.raises(ConfigError, match="known are mp4v"):
        working_codec("h264")
    monkeypatch.setattr(video, "_can_write", lambda codec: False)
    with pytest.raises(ConfigError, match="can write no video"):
        working_codec()


def test_codecs_are_tried_in_earnest(capfd: pytest.CaptureFixture[str]) -> None:
    CODECS["XYZ1"] = ".mp4"
    try:
        assert not video._can_write("XYZ1")
    finally:
        del CODECS["XYZ1"]
    assert capfd.readouterr().err == ""


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("no video")
    with pytest.raises(DataError, match=r"clip\.mp4 cannot be read"):
        video_info(path)
    with pytest.raises(DataError, match="cannot be read"):
        video_info(tmp_path / "absent.mp4")


class FakeCapture:
    """A camera with three frames."""

    def __init__(self, source: int) -> None:
        self.left, self.is_there = 3, source == 1

    def isOpened(self) -> bool:
        return self.is_there

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, frame(self.left)) if self.left >= 0 else (False, None)

    def get(self, key: int) -> float:
        return 0.0  # as cameras do that do not know

    def release(self) -> None:
        self.is_there = False


def test_a_camera_gives_frames_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    camera = Camera(1)
    assert camera.rate == video.FALLBACK_RATE
    assert [int(each[0, 0, 0]) for each in camera] == [2, 1, 0]
    with pytest.raises(DataError, match="camera 0 cannot be opened"):
        Camera(0)
