"""A demo that is ended at any image goes on from there, and what it writes is the same."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instseg_d2.demo import run as demo_run
from instseg_d2.demo import video
from instseg_d2.demo.run import Demo
from tests.tools.demo_runs import arguments, content, error_of, load, network, pixels, run, save
from tools.demo import main

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / "tools" / "demo.py"
NUM = 5
BOTH = ("--write", "overlay,json", "--top", "3")


@pytest.fixture(scope="module")
def sparseinst(tiny_overrides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparseinst")
    return network(folder, "sparseinst/sparse_inst_r50_giam", tiny_overrides)


@pytest.fixture
def folder(tmp_path):
    for number in range(NUM):
        save(tmp_path / "in" / f"{number}.png", pixels(48, 64 + number, seed=number))
    return tmp_path / "in"


def files(path):
    return {name: (path / name).read_bytes() for name in content(path)}


def interrupt_at(monkeypatch, count, owner, name):
    """Press Ctrl-C when a function is called for the n-th time, from 1."""
    function, calls = getattr(owner, name), iter(range(1, 10**9))

    def called(*args, **kwargs):
        if next(calls) == count:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def interrupted(net, inputs, output, *options):
    with pytest.raises(SystemExit) as error:
        run(net, inputs, output, *options)
    assert error.value.code == 130


@pytest.mark.parametrize(("count", "options"), [(1, ()), (4, ("--save-iam",))])
def test_images_are_gone_on_with(sparseinst, folder, tmp_path, capsys, monkeypatch, count, options):
    options = (*BOTH, *options)
    run(sparseinst, [folder], tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, count, demo_run, "draw_instances")
        interrupted(sparseinst, [folder], tmp_path / "out", *options)
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.json"))
    run(sparseinst, [folder], tmp_path / "out", *options)
    said = capsys.readouterr().out
    assert said.count(f"{NUM - count + 1} images, ") == 1
    assert (f"{count - 1} images and frames were finished" in said) == (count > 1)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert len(load(tmp_path / "out" / "predictions.json")) > NUM


def test_only_what_is_as_it_was_counts(sparseinst, folder, tmp_path, capsys, monkeypatch):
    """A file of another content, one whose picture is gone, and one that had failed."""
    good = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(b"no image")
    with monkeypatch.context() as patch:
        interrupt_at(patch, NUM - 1, demo_run, "draw_instances")
        interrupted(sparseinst, [folder], tmp_path / "out", *BOTH)
    (folder / "0.png").write_bytes(good)
    save(folder / "1.png", pixels(50, 50, seed=9))
    (tmp_path / "out" / "overlays" / "2.jpg").unlink()
    capsys.readouterr()
    run(sparseinst, [folder], tmp_path / "out", *BOTH)
    assert "1 images and frames were finished" in capsys.readouterr().out
    run(sparseinst, [folder], tmp_path / "whole", *BOTH)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_other_settings_begin_anew(sparseinst, folder, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, Demo, "_take")
        interrupted(sparseinst, [folder], tmp_path / "out", "--write", "json")
    capsys.readouterr()
    run(sparseinst, [folder], tmp_path / "out", "--write", "json", "--top", "2")
    said = capsys.readouterr()
    assert "was made in another way" in said.err
    assert "top: None and 2" in said.err
    assert f"{NUM} images, {2 * NUM} detections" in said.out


def test_a_video_is_begun_again_and_a_finished_one_is_not(
    sparseinst, folder, tmp_path, capsys, monkeypatch
):
    for name in ("a.avi", "b.avi"):
        with video.VideoOutput(folder / name, "MJPG", 10) as clip:
            for seed in range(4):
                clip.write(pixels(seed=seed))
    inputs, options = [f"{folder}/0.png", f"{folder}/*.avi"], ("--write", "overlay,json")
    run(sparseinst, inputs, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1 + 4 + 3, demo_run, "draw_instances")
        interrupted(sparseinst, inputs, tmp_path / "out", *options)
    assert content(tmp_path / "out") == ["demo.part", "overlays/0.jpg", "overlays/a.mp4"]
    capsys.readouterr()
    run(sparseinst, inputs, tmp_path / "out", *options)
    said = capsys.readouterr().out
    assert "5 images and frames were finished" in said
    assert said.count("4 images, ") == 1
    for name in ("predictions.json", "images.json"):
        assert files(tmp_path / "out")[name] == files(tmp_path / "whole")[name]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_full_disk(sparseinst, folder, tmp_path, capsys, monkeypatch):
    """What is written beyond the limit fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run(sparseinst, [folder], tmp_path / "whole", "--write", "json")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, Demo, "_take")
        interrupted(sparseinst, [folder], tmp_path / "two", "--write", "json")
    of_two_images = (tmp_path / "two" / "demo.part").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (of_two_images + 50, limits[1]))
        message = error_of(
            sparseinst, [folder], tmp_path / "out", "--score-threshold", "0", "--write", "json"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert message.startswith("error: [Errno 27] File too large; what was written stays")
    assert content(tmp_path / "out") == ["demo.part"]
    capsys.readouterr()
    run(sparseinst, [folder], tmp_path / "out", "--write", "json")
    assert "2 images and frames were finished" in capsys.readouterr().out
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_run_goes_on(sparseinst, tmp_path, capsys):
    for number in range(60):
        save(tmp_path / "in" / f"{number:02}.png", pixels(200, 300, seed=number))
    options = ("--write", "overlay,json")
    run(sparseinst, [tmp_path / "in"], tmp_path / "whole", *options)
    out = tmp_path / "out"
    command = arguments(sparseinst, [tmp_path / "in"], out, "--score-threshold", "0", *options)
    process = subprocess.Popen(
        [sys.executable, str(TOOL), *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    part = out / "demo.part"
    try:
        start = time.monotonic()
        while time.monotonic() - start < 400:
            if part.exists() and part.read_bytes().count(b"\n") > 4:
                break
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it was not done
    kept = part.read_bytes().count(b"\n") - 1
    assert 4 <= kept < 60
    assert [name for name in content(out) if name.endswith(".json")] == []
    capsys.readouterr()
    main(command)
    assert f"{kept} images and frames were finished" in capsys.readouterr().out
    left = {name: data for name, data in files(out).items() if not name.endswith(".tmp")}
    assert left == files(tmp_path / "whole")
    assert json.loads(left["predictions.json"])
