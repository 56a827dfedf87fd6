"""Many images and many iterations: memory stays flat, and nothing is left open or running.

The full load, with the environment variables INSTSEG_D2_LOAD_IMAGES=2000 and
INSTSEG_D2_LOAD_ITERATIONS=500; -s shows the figures.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from instseg_d2.batch_predictor import BatchPredictor
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.modeling import build_model
from instseg_d2.predictor import Predictor
from tests.processes import Usage, child_pids, usage

pytestmark = pytest.mark.slow

IMAGES = int(os.environ.get("INSTSEG_D2_LOAD_IMAGES", "200"))
ITERATIONS = int(os.environ.get("INSTSEG_D2_LOAD_ITERATIONS", "60"))
SAMPLES = 10
"""Moments at which memory is looked at, as many images or iterations apart."""
WARM_UP = 4
"""Of these."""
FLAT = 1.05
FLAT_TRAINING = 1.03
"""Training is steadier; a short run would not show a megabyte an iteration otherwise."""

SPARE = {"files": 16, "threads": 1, "children": 0}
"""Tensors on their way from a worker each are an open file."""

SMALL = ((1, 1), (1, 5), (3, 2), (40, 900), (64, 64), (65, 97))
"""(height, width)."""
MEDIUM = ((120, 160), (333, 500), (480, 640), (640, 480), (768, 1024), (1500, 1000))
LARGE = (4000, 6000)

BATCH, WORKERS = 2, 2
ON_THEIR_WAY = 4 * BATCH + BATCH + WORKERS
"""Images that may be in memory besides the one whose prediction is looked at."""


def assert_flat(found: list[Usage], what: str, factor: float = FLAT) -> None:
    """After the warm-up memory is below ``factor`` times, or 8 MB above, what it was at its end.

    Workers copy some of the pages that they share with this process sooner or later.
    """
    for name in ("memory", "of_children"):
        values = [getattr(one, name) for one in found]
        print(f"{what}, {name} in MB: " + ", ".join(f"{value:.0f}" for value in values))
        before = max(values[WARM_UP - 2 : WARM_UP])
        assert max(values[WARM_UP:]) <= max(factor * before, before + 8), (what, name, values)
    for name in ("files", "threads", "children"):
        counts = [getattr(one, name) for one in found[1:]]
        print(f"{what}, {name}: {min(counts)} to {max(counts)}")
        assert max(counts[WARM_UP:]) <= max(counts[:WARM_UP]) + SPARE[name], (what, name, counts)


# ----------------------------------------------------------------------------------- prediction


@pytest.fixture(scope="module")
def cfg(tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    cfg = load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides)
    cfg.MODEL.WEIGHTS = str(tmp_path_factory.mktemp("weights") / "model.pth")
    torch.save(build_model(cfg).state_dict(), cfg.MODEL.WEIGHTS)
    return cfg


class Images:
    """Files of mixed sizes, of which one in twenty cannot be used and one in a hundred is large.

    After each moment at which memory is looked at come small ones: what is on its way then is not
    what is looked for.

    Attributes:
        paths: the files; one in sixty is gone when it is to be read.
        failing: those that cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        good = {size: self._draw(folder, size, rng) for size in (*SMALL, *MEDIUM, LARGE)}
        (folder / "cut.jpg").write_bytes(good[MEDIUM[2]].read_bytes()[:900])
        (folder / "text.jpg").write_text("no image")
        bad = [folder / "cut.jpg", folder / "text.jpg", folder / "gone.jpg"]
        self.paths: list[Path] = []
        self.failing: list[str] = []
        for index in range(IMAGES):
            path = folder / f"{index:05}.jpg"
            content = good[SMALL[rng.integers(len(SMALL))]]
            if index % (IMAGES // SAMPLES) >= ON_THEIR_WAY:
                content = good[(*SMALL, *MEDIUM)[rng.integers(len(SMALL) + len(MEDIUM))]]
                if index % 100 == 15:
                    content = good[LARGE]
                if index % 20 == 17:
                    content = bad[len(self.failing) % 3]
                    self.failing.append(str(path))
            if content.exists():
                os.link(content, path)
            self.paths.append(path)

    def _draw(self, folder: Path, size: tuple[int, int], rng: np.random.Generator) -> Path:
        small = rng.integers(0, 256, (8, 12, 3), np.uint8)
        path = folder / f"{size[0]}x{size[1]}.jpg"
        cv2.imwrite(str(path), cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC))
        return path


def test_predictions(cfg: CfgNode, tmp_path: Path) -> None:
    images = Images(tmp_path)
    single = Predictor(cfg)
    found: list[Usage] = []
    failed: list[str] = []
    before = usage()
    start = time.perf_counter()
    with BatchPredictor(cfg, batch_size=BATCH, num_workers=WORKERS) as predictor:
        predictions = predictor(iter(images.paths), on_error="skip", keep_images=True)
        for index, prediction in enumerate(predictions):
            assert (prediction.index, prediction.name) == (index, str(images.paths[index]))
            if prediction.error is not None:
                assert prediction.name in str(prediction.error)
                failed.append(prediction.name)
            elif index % 29 == 0:
                instances = prediction.output["instances"]
                wanted = single(images.paths[index])["instances"]
                assert instances.image_size == wanted.image_size
                torch.testing.assert_close(instances.scores, wanted.scores, rtol=0, atol=1e-3)
            if (index + 1) % (IMAGES // SAMPLES) == 0:
                found.append(usage())
    seconds = time.perf_counter() - start
    assert index + 1 == len(images.paths) == IMAGES
    assert failed == images.failing
    assert len(failed) == IMAGES // 20
    print(f"\n{IMAGES} images, {len(failed)} of them failed, in {seconds:.0f} s")
    assert_flat(found, "prediction")
    after = usage()
    assert (after.files, after.threads, after.children) == (
        before.files, before.threads, before.children,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- training


class Watch(HookBase):
    """Looks at memory from time to time, and fails at an iteration if that is wanted."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.found: list[Usage] = []
        self.fail_at = fail_at

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % (ITERATIONS // SAMPLES) == 0:
            self.found.append(usage())
        if self.trainer.iter == self.fail_at:
            raise RuntimeError("planted")


def trained(overrides: list[str], config: str, folder: Path, watch: Watch) -> None:
    """A training of its own, which nothing refers to afterwards."""
    own = {
        "OUTPUT_DIR": folder,
        "DATALOADER.NUM_WORKERS": 2,
        "SOLVER.MAX_ITER": ITERATIONS,
        "SOLVER.CHECKPOINT_PERIOD": ITERATIONS // 3,
        "DATASETS.TEST": "()",
        "DATASETS.SHAPES.NUM_TRAIN": 24,
        "DATASETS.SHAPES.SEED": 6,
        "SEED": 1,
    }
    pairs = [str(part) for pair in own.items() for part in pair]
    cfg = load_config(config, [*overrides, *pairs])
    register_config_datasets(cfg)
    folder.mkdir()
    trainer = Trainer(cfg)
    trainer.register_hooks([watch])
    trainer.train()


def wait_until(settled: Callable[[], bool]) -> None:
    """Or half a minute: workers end when they notice that nobody takes their batches, and the
    threads that were talking to them after that."""
    deadline = time.monotonic() + 30
    while not settled() and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.fixture
def _no_worker_is_left() -> Iterator[None]:
    before = usage()
    yield

    def nothing_is_left() -> bool:
        now = usage()
        return now.children <= before.children and now.files <= before.files

    wait_until(nothing_is_left)
    after = usage()
    assert after.children <= before.children
    assert after.files <= before.files


@pytest.mark.usefixtures("_no_worker_is_left")
@pytest.mark.parametrize("config", ["sparseinst/sparse_inst_r50_giam", "sharpmask/sharpmask_r50"])
def test_training(tiny_overrides: list[str], tmp_path: Path, config: str) -> None:
    watch = Watch()
    start = time.perf_counter()
    trained(tiny_overrides, config, tmp_path / "out", watch)
    print(f"\n{config}: {ITERATIONS} iterations in {time.perf_counter() - start:.0f} s")
    assert len(watch.found) == SAMPLES
    assert watch.found[0].children == 2
    assert_flat(watch.found, f"training of {config}", FLAT_TRAINING)


@pytest.mark.usefixtures("_no_worker_is_left")
def test_a_training_that_fails_leaves_no_worker(tiny_overrides: list[str], tmp_path: Path) -> None:
    """Though somebody keeps the error, as an interactive Python does."""
    with pytest.raises(RuntimeError, match="planted") as caught:
        trained(tiny_overrides, "sparseinst/sparse_inst_r50_giam", tmp_path / "out", Watch(2))
    assert caught.traceback
    wait_until(lambda: child_pids() == [])
    assert child_pids() == []
