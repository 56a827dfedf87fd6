from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instseg_d2.demo.inputs import find_inputs, refuse_to_overwrite_inputs, result_names
from instseg_d2.errors import ConfigError


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


def test_files_folders_patterns_and_videos(tmp_path: Path) -> None:
    files(tmp_path, "a/2.png", "a/1.JPG", "a/notes.txt", "a/in/3.png", "clip.MP4", "other")
    inputs = find_inputs(
        [f"{tmp_path}/a", f"{tmp_path}/**/*", f"{tmp_path}/other", f"{tmp_path}/clip.MP4"], []
    )
    names = [str(path.relative_to(tmp_path)) for path in inputs.images]
    assert names == ["a/1.JPG", "a/2.png", "a/in/3.png", "other"]
    assert inputs.videos == [tmp_path / "clip.MP4"]
    assert inputs.problems == []


def test_a_name_with_the_characters_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    odd, _ = files(tmp_path, "é [1]*.png", "é 1x.png")
    assert find_inputs([str(odd)], []).images == [odd]
    (tmp_path / "[ab]").mkdir()
    (inside,) = files(tmp_path, "[ab]/x.png")
    assert find_inputs([str(tmp_path / "[ab]")], []).images == [inside]


def test_a_file_counts_once_however_it_is_reached(tmp_path: Path) -> None:
    (image,) = files(tmp_path, "x.png")
    (tmp_path / "link.png").symlink_to(image)
    inputs = find_inputs([str(image), f"{tmp_path}/../{tmp_path.name}/x.png", str(tmp_path)], [])
    assert inputs.images == [image]


def test_what_gives_nothing_is_named_and_the_rest_stays(tmp_path: Path) -> None:
    (image,) = files(tmp_path, "x.png")
    (tmp_path / "empty").mkdir()
    wanted = [f"{tmp_path}/empty", f"{tmp_path}/no.png", f"{tmp_path}/*.gif", str(image)]
    inputs = find_inputs(wanted, [])
    assert inputs.images == [image]
    first, second, third = inputs.problems
    assert "empty has no images" in first
    assert second == f"{tmp_path}/no.png does not exist"
    assert third == f"no image or video matches {tmp_path}/*.gif"


def test_results_of_an_earlier_run_are_no_inputs_unless_named(tmp_path: Path) -> None:
    image, old = files(tmp_path, "x.png", "out/overlays/x.jpg")
    results = [tmp_path / "out" / "overlays"]
    inputs = find_inputs([f"{tmp_path}/**/*"], results)
    assert (inputs.images, inputs.left_out) == ([image], 1)
    assert find_inputs([str(old)], results).images == [old]


def names(*paths: str) -> list[str]:
    return [str(name) for name in result_names([Path(path) for path in paths])]


def test_names_stay_where_they_differ() -> None:
    assert names("/a/x.png", "/b/y.tar.png", "z.jpg") == ["x", "y.tar", "z"]
    assert names() == []


def test_same_names_in_several_folders_keep_their_folders() -> None:
    assert names("/d/a/x.png", "/d/b/x.png", "/d/y.png") == ["a/x", "b/x", "y"]


def test_same_names_in_one_folder_get_their_ending() -> None:
    assert names("/a/x.png", "/a/x.jpg", "/a/y.jpg") == ["x_png", "x_jpg", "y"]
    assert names("/a/X.png", "/a/x.png") == ["X_png", "x_png_2"]
    assert names("/a/x.png", "/a/x.jpg", "/a/x_png.jpg") == ["x_png", "x_jpg", "x_png_2"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["/d", "/d/a", "/d/b", "/d/A"]),
            st.sampled_from(["x", "X", "x_png", "x_png_2", "x_2", "x.y"]),
            st.sampled_from([".png", ".PNG", ".jpg"]),
        ),
        unique=True,
    )
)
def test_no_two_results_share_a_name(parts: list[tuple[str, str, str]]) -> None:
    found = names(*(f"{folder}/{stem}{suffix}" for folder, stem, suffix in parts))
    assert len({name.casefold() for name in found}) == len(parts)
    assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in found)


def test_an_input_is_not_overwritten(tmp_path: Path) -> None:
    (image,) = files(tmp_path, "overlays/x.jpg")
    with pytest.raises(ConfigError, match="would overwrite an input"):
        refuse_to_overwrite_inputs([tmp_path / "a" / ".." / "overlays" / "x.jpg"], [image])
    refuse_to_overwrite_inputs([tmp_path / "overlays" / "y.jpg"], [image])
