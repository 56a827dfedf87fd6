"""A last checkpoint that cannot be read, and a disk that is full."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.errors import SavingError, UnreadableWeightsError, WeightsError
from instseg_d2.older_checkpoints import older_checkpoints
from tests.small_model import Model, same


def save(folder: Path, *names: str) -> dict[str, Model]:
    """Checkpoints of different weights, one after the other; by their names."""
    models = {}
    for number, name in enumerate(names):
        models[name] = Model()
        InstSegCheckpointer(models[name], str(folder)).save(name, iteration=number)
        os.utime(folder / f"{name}.pth", (number, number))
    return models


def resume(folder: Path, model: nn.Module | None = None) -> tuple[nn.Module, InstSegCheckpointer]:
    model = model or Model()
    checkpointer = InstSegCheckpointer(model, str(folder))
    checkpointer.resume_or_load("unused.pth", resume=True)
    return model, checkpointer


DAMAGES = {
    "no bytes": 0.0, "a few bytes": 0.01, "a tenth": 0.1, "half": 0.5, "almost all": 0.999,
    "absent": None,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    models = save(tmp_path, "model_0000001", "model_0000003", "model_0000005")
    newest, share = tmp_path / "model_0000005.pth", DAMAGES[damage]
    if share is None:
        newest.unlink()
    else:
        content = newest.read_bytes()
        newest.write_bytes(content[: int(len(content) * share)])
    model, checkpointer = resume(tmp_path)
    assert same(model, models["model_0000003"])
    assert checkpointer.resumed_from == str(tmp_path / "model_0000003.pth")
    (warning,) = [r.getMessage() for r in caplog.records if "Going on from" in r.getMessage()]
    assert str(newest) in warning
    assert str(tmp_path / "model_0000003.pth") in warning


def test_a_changed_byte_in_the_weights_is_damage(tmp_path: Path) -> None:
    models = save(tmp_path, "model_0000001", "model_0000003")
    newest = tmp_path / "model_0000003.pth"
    content = bytearray(newest.read_bytes())
    weights = models["model_0000003"].head.weight.detach().numpy().tobytes()
    content[content.index(weights)] ^= 0x55
    newest.write_bytes(content)
    assert same(resume(tmp_path)[0], models["model_0000001"])


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\0" * 30, b"\xff\xfe\x00rubbish", b"model_0000009.pth", b"x" * 9999]
)
def test_a_last_checkpoint_that_names_no_file_falls_back_to_the_newest(
    tmp_path: Path, content: bytes
) -> None:
    models = save(tmp_path, "model_0000001", "model_0000003")
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert same(resume(tmp_path)[0], models["model_0000003"])


def test_where_none_can_be_read_the_error_says_so(tmp_path: Path) -> None:
    save(tmp_path, "model_0000001", "model_0000003")
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnreadableWeightsError, match="The checkpoint to resume from") as error:
        resume(tmp_path)
    assert f"Nor can one before it: {tmp_path / 'model_0000001.pth'}" in str(error.value)
    assert "without --resume" in str(error.value)


def test_a_checkpoint_of_another_model_is_no_reason_to_go_back(tmp_path: Path) -> None:
    save(tmp_path, "model_0000001", "model_0000003")
    with pytest.raises(WeightsError, match="backbone"):
        resume(tmp_path, Model(width=5))
    checkpointer = InstSegCheckpointer(Model(), str(tmp_path), trainer=nn.Linear(1, 1))
    checkpointer.save("model_0000004")
    other = InstSegCheckpointer(Model(), str(tmp_path), trainer=nn.Linear(2, 2))
    with pytest.raises(WeightsError, match="training state 'trainer' does not fit this run"):
        other.resume_or_load("", resume=True)


def test_only_checkpoints_from_before_are_gone_back_to(tmp_path: Path) -> None:
    save(
        tmp_path,
        "model_0000009",
        "model_0000002",
        "model_final",
        "model_best",
        "weights",
        "model_0000004",
    )
    names = ["model_final", "model_0000002"]
    expected = [str(tmp_path / f"{name}.pth") for name in names]
    assert older_checkpoints(str(tmp_path), "model_0000004.pth") == expected
    assert len(older_checkpoints(str(tmp_path), "")) == 4


# --------------------------------------------------------------------------------- a full disk


@contextmanager
def short_files(most_bytes: int) -> Iterator[None]:
    """The system refuses to write more into one file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("width", [600, 1000], ids=["at a small tensor", "in a large one"])
def test_a_checkpoint_that_cannot_be_written_leaves_those_before(
    tmp_path: Path, width: int
) -> None:
    model = Model()
    checkpointer = InstSegCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    large = InstSegCheckpointer(Model(width=width), str(tmp_path))
    for name in ("model_0000001", "model_0000003"):
        with (
            short_files(5_000_000),
            pytest.raises(SavingError, match=r"\.pth cannot be written: File too large") as error,
        ):
            large.save(name, iteration=3)
        assert "\n" not in str(error.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert same(resume(tmp_path)[0], model)


def test_an_error_that_is_not_of_the_system_stays_what_it_is(tmp_path: Path) -> None:
    class Broken:
        def state_dict(self) -> None:
            raise RuntimeError("no state")

    with pytest.raises(RuntimeError, match="no state"):
        InstSegCheckpointer(Model(), str(tmp_path), broken=Broken()).save("model_0000001")


FILL = """
import sys
from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.errors import SavingError
from tests.small_model import Model
import os
checkpointer = InstSegCheckpointer(Model(width=300), "disk")
try:
    for number in range(100):
        checkpointer.save(f"model_{number:07d}", iteration=number)
except SavingError as error:
    print(number, error)
print(sorted(os.listdir("disk")))
print(checkpointer.resume_or_load("", resume=True)["iteration"])
"""


@pytest.mark.slow
def test_a_disk_that_fills_up(tmp_path: Path, repo: Path) -> None:
    """A file system of 10 MB, which takes the right to mount one."""
    (tmp_path / "disk").mkdir()
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    setup = "mount -t tmpfs -o size=10m none disk"
    try:
        allowed = subprocess.run([*mount, setup], cwd=tmp_path, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the program unshare")
    if allowed.returncode:
        pytest.skip("needs the right to mount a file system")
    done = subprocess.run(
        [*mount, f'{setup} && exec "$0" -c "$1"', sys.executable, FILL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    error, files, iteration = done.stdout.splitlines()[-3:]
    number = int(error.split()[0])
    assert number > 2
    assert f"model_{number:07d}.pth cannot be written: No space left on device" in error
    names = ["last_checkpoint", *(f"model_{i:07d}.pth" for i in range(number))]
    assert files == str(names)
    assert iteration == str(number - 1)
