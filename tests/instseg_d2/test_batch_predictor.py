"""Batches against one image at a time."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from instseg_d2.batch_predictor import BatchPredictor, Prediction
from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError, DataError, NonFiniteError, WeightsError
from instseg_d2.modeling import build_model
from instseg_d2.predictor import Predictor

SHAPES = ((50, 70), (64, 64), (70, 50), (50, 71), (40, 90), (120, 160))
"""(height, width); the first and the fourth are padded to the same size."""


@pytest.fixture(scope="module")
def cfg(tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    cfg = load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides)
    cfg.MODEL.WEIGHTS = str(tmp_path_factory.mktemp("weights") / "model.pth")
    torch.manual_seed(0)
    model = build_model(cfg)
    # What an untrained model gives hardly depends on the image; this one's does.
    for name, parameter in model.decoder.inst_branch.named_parameters():
        if name.startswith(("iam_conv", "mask_kernel", "cls_score", "objectness")):
            torch.nn.init.normal_(parameter, std=0.2 if name.startswith("iam_conv") else 1.0)
    torch.save(model.state_dict(), cfg.MODEL.WEIGHTS)
    return cfg


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Of several sizes, in no order."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (*SHAPES[index], 3), np.uint8)
        for index in rng.integers(0, len(SHAPES), 21)
    ]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def assert_same(found: Instances, wanted: Instances) -> None:
    assert found.image_size == wanted.image_size
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-3)
    assert torch.equal(found.pred_classes, wanted.pred_classes)
    differing = (found.pred_masks != wanted.pred_masks).float().mean()
    assert differing < 1e-3  # rounding decides over pixels on the threshold


class Watched:
    """A source of pictures that counts how many are on their way."""

    def __init__(self, images: list[Any]) -> None:
        self.images, self.read, self.given, self.most = images, 0, 0, 0

    def __iter__(self) -> Iterator[Any]:
        for image in self.images:
            self.read += 1
            self.most = max(self.most, self.read - self.given)
            yield image


# --------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (4, 0), (4, 2), (8, 1)])
def test_results_are_those_of_single_images_in_order(
    cfg: CfgNode, pictures: list[np.ndarray], batch_size: int, num_workers: int
) -> None:
    single = Predictor(cfg)
    with BatchPredictor(cfg, batch_size=batch_size, num_workers=num_workers) as predictor:
        found = list(predictor(pictures))
    assert [prediction.index for prediction in found] == list(range(len(pictures)))
    for prediction, picture in zip(found, pictures, strict=True):
        assert prediction.error is None
        assert prediction.image is None
        assert_same(prediction.output["instances"], single(picture)["instances"])


def test_results_are_worth_comparing(cfg: CfgNode) -> None:
    """In a batch with a larger image they would be others."""
    model = Predictor(cfg).model
    image = torch.randint(256, (3, 64, 90))
    alone = model([{"image": image}])[0]["instances"]
    padded = model([{"image": image}, {"image": torch.zeros(3, 96, 96)}])[0]["instances"]
    assert len(alone) > 2
    assert 0 < alone.pred_masks.float().mean() < 1
    assert len(alone) != len(padded) or (alone.scores - padded.scores).abs().max() > 1e-2


def test_images_share_a_batch_if_they_are_padded_alike(cfg: CfgNode) -> None:
    predictor = BatchPredictor(cfg, batch_size=4, num_workers=0)
    batches: list[list[tuple[int, ...]]] = []
    predictor.model.register_forward_pre_hook(
        lambda _, args: batches.append([tuple(each["image"].shape) for each in args[0]])
    )
    images = [np.zeros((*SHAPES[index], 3), np.uint8) for index in (0, 1, 3, 1, 0, 1)]
    list(predictor(images))
    assert batches == [[(3, 64, 90), (3, 64, 91), (3, 64, 90)], [(3, 64, 64)] * 3]


def test_folders_lists_and_videos(cfg: CfgNode, tmp_path: Path) -> None:
    images = [np.full((50, 70, 3), 60 * number, np.uint8) for number in range(3)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image)
    predictor = BatchPredictor(cfg)
    expected = [prediction.output["instances"] for prediction in predictor(images)]
    for source in (tmp_path, paths, (str(path) for path in paths), np.stack(images)):
        found = list(predictor(source))
        assert len(found) == 3
        for prediction, wanted in zip(found, expected, strict=True):
            assert_same(prediction.output["instances"], wanted)
    assert [prediction.name for prediction in predictor(tmp_path)] == [str(path) for path in paths]
    (one,) = predictor(paths[1])
    assert_same(one.output["instances"], expected[1])


def test_proposals_of_images_at_their_own_size(tiny_overrides: list[str], tmp_path: Path) -> None:
    cfg = load_config("sharpmask/sharpmask_r50", [*tiny_overrides, "INPUT.MIN_SIZE_TEST", "0"])
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save(build_model(cfg).state_dict(), cfg.MODEL.WEIGHTS)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((90, 70), (64, 100))]
    predictor = BatchPredictor(cfg)
    for prediction, image in zip(predictor(images), images, strict=True):
        pixels = torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy())  # RGB
        with torch.no_grad():
            wanted = predictor.model([{"image": pixels}])[0]["proposals"]
        found = prediction.output["proposals"]
        assert found.image_size == image.shape[:2]
        assert len(found) == len(wanted) > 0
        torch.testing.assert_close(found.objectness_logits, wanted.objectness_logits)
        torch.testing.assert_close(found.proposal_boxes.tensor, wanted.proposal_boxes.tensor)


def test_images_can_be_kept(cfg: CfgNode, pictures: list[np.ndarray]) -> None:
    for prediction in BatchPredictor(cfg)(pictures[:5], keep_images=True):
        np.testing.assert_array_equal(prediction.image, pictures[prediction.index])


def test_no_images(cfg: CfgNode) -> None:
    assert list(BatchPredictor(cfg)([])) == []


def test_a_predictor_can_be_used_again(cfg: CfgNode, pictures: list[np.ndarray]) -> None:
    with BatchPredictor(cfg, batch_size=2) as predictor:
        first, second = predictor(pictures[:4]), predictor(pictures[4:8])
        pairs = list(zip(first, second, strict=True))
    assert [a.index for a, _ in pairs] == [b.index for _, b in pairs] == [0, 1, 2, 3]
    assert pairs[0][1].output["instances"].image_size == pictures[4].shape[:2]


def test_gradients_are_off_in_the_model_alone(cfg: CfgNode, pictures: list[np.ndarray]) -> None:
    for prediction in BatchPredictor(cfg)(pictures[:2]):
        assert torch.is_grad_enabled()
        assert not prediction.output["instances"].scores.requires_grad


# ---------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_slow_consumer_bounds_the_images_on_their_way(cfg: CfgNode, num_workers: int) -> None:
    sizes = [SHAPES[index] for index in np.random.default_rng(0).integers(0, 6, 40)]
    source = Watched([np.zeros((*size, 3), np.uint8) for size in sizes])
    predictor = BatchPredictor(cfg, batch_size=2, num_workers=num_workers, window=5)
    for _ in predictor(source):
        source.given += 1
        time.sleep(0.005)
    assert source.given == 40
    assert source.most <= 5 + 2 + num_workers


def test_an_endless_stream_can_be_left(cfg: CfgNode) -> None:
    def stream() -> Iterator[np.ndarray]:
        while True:
            yield np.zeros((64, 64, 3), np.uint8)

    predictor = BatchPredictor(cfg, batch_size=2)
    for prediction in predictor(stream()):
        if prediction.index == 6:
            break


def test_leaving_the_context_ends_the_threads(cfg: CfgNode, pictures: list[np.ndarray]) -> None:
    with BatchPredictor(cfg, batch_size=2) as predictor:
        predictions = predictor(pictures)
        next(predictions)
    with pytest.raises(StopIteration):
        next(predictions)


def test_an_interruption_ends_the_threads(cfg: CfgNode, pictures: list[np.ndarray]) -> None:
    predictor = BatchPredictor(cfg, batch_size=2)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    predictor.model.register_forward_pre_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(predictor(pictures))


def test_no_file_stays_open(cfg: CfgNode, tmp_path: Path) -> None:
    def open_files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    for number in range(8):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((50, 70, 3), np.uint8))
    predictor = BatchPredictor(cfg, batch_size=2)
    list(predictor(tmp_path))
    before = open_files()
    for _ in range(3):
        for prediction in predictor(tmp_path):
            if prediction.index == 3:
                break
    assert open_files() == before


# ---------------------------------------------------------------------------------------- errors


@pytest.fixture
def faulty(tmp_path: Path) -> list[Any]:
    """Eight images; the second, fourth and fifth cannot be used."""
    good = np.zeros((50, 70, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "good.png"), good)
    (tmp_path / "broken.png").write_bytes(b"no image")
    narrow, flat = np.zeros((1, 2000, 3), np.uint8), np.zeros((5, 5), np.uint8)
    return [good, tmp_path / "broken.png", good, narrow, flat, tmp_path / "good.png", good, good]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_cannot_be_used_is_named(
    cfg: CfgNode, faulty: list[Any], num_workers: int
) -> None:
    predictor = BatchPredictor(cfg, num_workers=num_workers)
    with pytest.raises(DataError, match=r"broken\.png"):
        list(predictor(faulty))
    with pytest.raises(DataError, match=r"image 1: .*2000 x 1"):
        list(predictor([faulty[0], faulty[3]]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_that_cannot_be_used_can_be_passed_over(
    cfg: CfgNode, faulty: list[Any], num_workers: int
) -> None:
    predictor = BatchPredictor(cfg, batch_size=2, num_workers=num_workers)
    found: list[Prediction] = list(predictor(faulty, on_error="skip", keep_images=True))
    assert [prediction.index for prediction in found] == list(range(8))
    failed = [prediction for prediction in found if prediction.error is not None]
    assert [prediction.index for prediction in failed] == [1, 3, 4]
    for prediction, message in zip(
        failed, (r"broken.png", "2000 x 1", r"image 4: .*\(5, 5\)"), strict=True
    ):
        assert prediction.output == {}
        with pytest.raises(DataError, match=message):
            raise prediction.error
    assert all("instances" in prediction.output for prediction in found if not prediction.error)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_whatever_a_worker_raises_is_reported_with_its_image(
    cfg: CfgNode, pictures: list[np.ndarray], num_workers: int
) -> None:
    predictor = BatchPredictor(cfg, batch_size=2, num_workers=num_workers)
    preprocess = predictor.preprocess

    def fail_once(image: np.ndarray, name: str) -> dict[str, Any]:
        if name == "image 3":
            raise cv2.error("an assertion of OpenCV")
        return preprocess(image, name)

    predictor.preprocess = fail_once
    found = list(predictor(pictures[:6], on_error="skip"))
    assert [prediction.index for prediction in found if prediction.error] == [3]
    assert str(found[3].error).startswith("image 3 cannot be prepared (error: an assertion")
    with pytest.raises(DataError, match="image 3 cannot be prepared") as caught:
        list(predictor(pictures[:6]))
    assert isinstance(caught.value.__cause__, cv2.error)


@pytest.mark.parametrize("kind", [MemoryError, NonFiniteError])
def test_an_image_that_the_model_fails_on_is_named_and_its_batch_goes_on(
    cfg: CfgNode, kind: type[Exception]
) -> None:
    predictor = BatchPredictor(cfg, batch_size=4, num_workers=0)
    images = [np.full((64, 64, 3), 20 * number, np.uint8) for number in range(6)]
    wanted = list(predictor(images))

    def fail(_: torch.nn.Module, args: Any) -> None:
        if any((inputs["image"] == 40).all() for inputs in args[0]):
            raise kind("too much")

    predictor.model.register_forward_pre_hook(fail)
    found = list(predictor(images, on_error="skip", keep_images=True))
    assert [prediction.index for prediction in found] == list(range(6))
    assert [prediction.index for prediction in found if prediction.error] == [2]
    assert isinstance(found[2].error, DataError)
    assert str(found[2].error).startswith("image 2")
    assert found[2].image is None
    for index in (0, 1, 3, 4, 5):
        assert_same(found[index].output["instances"], wanted[index].output["instances"])
    with pytest.raises(DataError, match=r"image 2.*too much"):
        list(predictor(images))


def test_an_error_of_the_source_comes_through(cfg: CfgNode) -> None:
    def stream() -> Iterator[np.ndarray]:
        yield np.zeros((64, 64, 3), np.uint8)
        raise ConnectionError("the camera is gone")

    with pytest.raises(ConnectionError, match="camera"):
        list(BatchPredictor(cfg)(stream(), on_error="skip"))


@pytest.mark.parametrize(
    "options", [{"batch_size": 0}, {"num_workers": -1}, {"batch_size": 4, "window": 3}]
)
def test_numbers_out_of_range(cfg: CfgNode, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{list(options)[-1]} is {list(options.values())[-1]}"):
        BatchPredictor(cfg, **options)


def test_sources_and_settings_that_are_wrong_are_told_at_once(cfg: CfgNode, tmp_path: Path) -> None:
    predictor = BatchPredictor(cfg)
    with pytest.raises(ConfigError, match="'ignore'"):
        predictor([], on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no images"):
        predictor(tmp_path)
    changed = cfg.clone()
    changed.MODEL.WEIGHTS = "nowhere.pth"
    with pytest.raises(WeightsError, match=r"nowhere\.pth"):
        BatchPredictor(changed)
