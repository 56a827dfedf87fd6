"""Rules for every test: the random state is restored, hardware and data that are absent skip."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Of several processes each has one core, and so have the programs that they start: more threads
    # than cores wait for each other. To be said before PyTorch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"

# Property tests draw the same cases in every run, and a busy machine may take its time. New cases:
# pytest --hypothesis-profile search
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "needs_cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none is here"))
    # Each file is one process's: those that take minutes come first, not last and alone.
    slow = Counter(item.path for item in items if "slow" in item.keywords)
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _fixed_random_state() -> Iterator[None]:
    """Every test starts from the same seeds and leaves the generators as it found them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden values and real data that lies beside some checkouts."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip("golden values and real data (`shared` beside the checkout) are absent")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _cache_of_embedded_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Embedded data is drawn into a folder of this run, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTSEG_D2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def no_own_data_left() -> Iterator[None]:
    """Afterwards Detectron2's catalogues have no ``own_train`` and ``own_val``."""
    from detectron2.data import DatasetCatalog, MetadataCatalog  # takes seconds

    yield
    for name in ("own_train", "own_val"):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def clean_catalogs() -> Iterator[None]:
    """Afterwards Detectron2's catalogues have no data set that they had not before."""
    from detectron2.data import DatasetCatalog, MetadataCatalog  # takes seconds

    before = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog.list()) - names:
            catalog.pop(name)


@pytest.fixture(scope="session")
def tiny_overrides() -> list[str]:
    """Config overrides that make any model small enough for seconds of training on a CPU."""
    pairs = {
        "SEED": 1,  # else what is found and drawn differs from run to run
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.SPARSE_INST.ENCODER.NUM_CHANNELS": 16,
        "MODEL.SPARSE_INST.DECODER.NUM_CLASSES": 6,
        "MODEL.SPARSE_INST.DECODER.NUM_MASKS": 10,
        "MODEL.SPARSE_INST.DECODER.KERNEL_DIM": 8,
        "MODEL.SPARSE_INST.DECODER.INST.DIM": 16,
        "MODEL.SPARSE_INST.DECODER.INST.CONVS": 1,
        "MODEL.SPARSE_INST.DECODER.MASK.DIM": 16,
        "MODEL.SPARSE_INST.DECODER.MASK.CONVS": 1,
        "MODEL.VGG.CHANNELS": "(8, 8, 8, 16, 16)",
        "MODEL.SHARP_MASK.WINDOW_SIZE": 64,
        "MODEL.SHARP_MASK.TRUNK.CHANNELS": 8,
        "MODEL.SHARP_MASK.HEAD.ENCODING_DIM": 16,
        "MODEL.SHARP_MASK.HEAD.SCORE_DIM": 16,
        "MODEL.SHARP_MASK.HEAD.MASK_SIZE": 16,
        "MODEL.SHARP_MASK.LOSS.MASK_SIZE": 32,
        "MODEL.SHARP_MASK.REFINEMENT.CHANNELS": 16,
        "MODEL.SHARP_MASK.REFINEMENT.HORIZONTAL_CHANNELS": "(8, 8, 8, 8)",
        "MODEL.SHARP_MASK.SAMPLING.TEST_PATCHES": 12,
        "DATASETS.TRAIN": "('shapes_train',)",
        "DATASETS.TEST": "('shapes_val',)",
        "DATASETS.SHAPES.NUM_TRAIN": 12,
        "DATASETS.SHAPES.NUM_VAL": 6,
        "DATASETS.SHAPES.IMAGE_SIZE": 64,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MAX_SIZE_TRAIN": 96,
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.MAX_SIZE_TEST": 96,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 4,
        "SOLVER.STEPS": "()",
        "SOLVER.STEP_FACTORS": "()",
        "SOLVER.WARMUP_ITERS": 1,
        "TEST.EVAL_PERIOD": 0,
        "DATALOADER.NUM_WORKERS": 0,
    }
    return [str(part) for pair in pairs.items() for part in pair]
