from pathlib import Path

import cv2
import numpy as np
import pytest

from instseg_d2.errors import DataError
from instseg_d2.image_sources import images_in, named_images


def picture(number: int = 0) -> np.ndarray:
    return np.full((20, 30, 3), 10 * number, np.uint8)


def names(source: object) -> list[str]:
    return [named.name for named in named_images(source)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "c.bmp"):
        cv2.imwrite(str(tmp_path / name), picture(5))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inner.png").mkdir()
    return tmp_path


def test_a_folder_is_its_images_by_name(folder: Path) -> None:
    expected = [str(folder / name) for name in ("a.JPG", "b.png", "c.bmp")]
    assert names(folder) == names(str(folder)) == expected
    assert [str(path) for path in images_in(folder)] == expected
    assert all((named.read() == 50).all() for named in named_images(folder))


def test_links_to_nothing_are_named_and_links_to_folders_passed_over(folder: Path) -> None:
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "link.png").symlink_to(folder / "inner.png")
    assert [path.name for path in images_in(folder)] == ["a.JPG", "b.png", "c.bmp", "gone.png"]
    *_, last = named_images(folder)
    with pytest.raises(DataError, match=r"gone\.png"):
        last.read()


def test_one_image_by_path_or_as_an_array(folder: Path) -> None:
    file = folder / "b.png"
    assert names(file) == names(str(file)) == [str(file)]
    (named,) = named_images(picture(3))
    assert named.name == "image 0"
    np.testing.assert_array_equal(named.read(), picture(3))


def test_any_iterable_of_paths_and_arrays(folder: Path) -> None:
    mixed = (item for item in (folder / "b.png", picture(1), str(folder / "c.bmp"), picture(2)))
    assert names(mixed) == [str(folder / "b.png"), "image 1", str(folder / "c.bmp"), "image 3"]


def test_an_array_of_frames() -> None:
    frames = np.stack([picture(number) for number in range(3)])
    found = list(named_images(frames))
    assert [named.name for named in found] == ["image 0", "image 1", "image 2"]
    np.testing.assert_array_equal(found[2].read(), picture(2))


def test_nothing_is_taken_before_it_is_asked_for() -> None:
    taken = []

    def frames():
        for number in range(5):
            taken.append(number)
            yield picture(number)

    images = named_images(frames())
    assert taken == []
    next(images)
    assert taken == [0]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    for number in range(6):
        writer.write(np.full((24, 32, 3), 40 * number, np.uint8))
    writer.release()
    return path


def test_frames_of_a_video_in_their_order(video: Path) -> None:
    found = list(named_images(video))
    assert [named.name for named in found] == [f"{video}, frame {number}" for number in range(6)]
    for number, named in enumerate(found):
        assert named.read().shape == (24, 32, 3)
        assert abs(float(named.read().mean()) - 40 * number) < 4


def test_a_video_that_is_not_read_to_its_end_is_closed(video: Path) -> None:
    def open_files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = open_files()
    frames = named_images(video)
    next(frames)
    assert open_files() > before
    frames.close()
    assert open_files() == before


# ---------------------------------------------------------------------------------------- errors


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images.*\.jpg"):
        named_images(tmp_path)


def test_videos_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.mp4 does not exist"):
        named_images(tmp_path / "nowhere.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"broken\.mp4 cannot be opened"):
        named_images(broken)


def test_files_that_cannot_be_read_are_named_when_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for name, message in (("broken.jpg", "cannot be read"), ("nowhere.jpg", "does not exist")):
        (named,) = named_images([tmp_path / name])
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            named.read()


def test_what_is_neither_path_nor_array_is_named() -> None:
    _, named = named_images([picture(), None])
    with pytest.raises(DataError, match="image 1 is a NoneType"):
        named.read()
