import os
import threading

import pytest

from instseg_d2.atomic_file import remove_leftovers, written_whole


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(path, parts):
    with written_whole(str(path)) as file:
        for part in parts:
            file.write(part)


def test_the_name_is_taken_when_all_is_written(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    with written_whole(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert content(tmp_path) == {"a.pth": b"new"}


def test_a_failure_leaves_everything_as_it_was(tmp_path):
    for name in ("a.pth", "a.pth.tmp", "b"):
        (tmp_path / name).write_bytes(b"precious")
    before = content(tmp_path)

    def parts():
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.pth", parts())
    assert content(tmp_path) == before


def test_files_of_the_user_that_look_temporary_stay(tmp_path):
    (tmp_path / "a.pth.tmp").write_bytes(b"precious")
    write(tmp_path / "a.pth", [b"new"])
    assert content(tmp_path) == {"a.pth": b"new", "a.pth.tmp": b"precious"}


def test_of_two_writers_each_writes_a_whole_file(tmp_path):
    path = tmp_path / "a.pth"
    both_began = threading.Barrier(2)

    def write_slowly(letter):
        with written_whole(str(path)) as file:
            file.write(letter * 1000)
            both_began.wait(timeout=60)
            file.write(letter * 1000)

    threads = [threading.Thread(target=write_slowly, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 2000, b"b" * 2000)
    assert list(content(tmp_path)) == ["a.pth"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o000])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "a.pth", [b"new"])
    finally:
        os.umask(before)
    assert (tmp_path / "a.pth").stat().st_mode & 0o777 == 0o666 & ~umask


def test_permissions_of_a_file_that_is_replaced_stay(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write(path, [b"new"])
    assert path.stat().st_mode & 0o777 == 0o640


def test_content_and_name_are_on_the_disk_before_it_goes_on(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def spy(descriptor):
        synced.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write(tmp_path / "a.pth", [b"new"])
    temporary, folder = synced
    assert temporary.startswith(str(tmp_path / "a.pth."))
    assert folder == str(tmp_path)


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    left = tmp_path / f"model_1.pth.{'0f' * 8}.tmp"
    others = ["model_1.pth", "model_1.pth.tmp", f"other.{'0f' * 8}.tmp", "model_1.pth.0f.tmp"]
    for name in [left.name, *others]:
        (tmp_path / name).write_bytes(b"x")
    assert remove_leftovers(str(tmp_path), r"model_\w+\.pth") == [str(left)]
    assert sorted(content(tmp_path)) == sorted(others)
