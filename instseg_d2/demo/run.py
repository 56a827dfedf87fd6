"""The demo: everything that was asked for is predicted, drawn and written."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.structures import Instances
from tqdm import tqdm

from ..batch_predictor import BatchPredictor, Prediction
from ..errors import DataError
from ..visualize import draw_instances, save_picture
from .detections import Wanted
from .inputs import Inputs, refuse_to_overwrite_inputs, result_names
from .report import OVERLAYS, Output, Report, Seen
from .results import ResultFiles
from .video import CODECS, Camera, VideoInfo, VideoOutput, video_info, working_codec

MAX_EXPLAINED_PIXELS = 2**20
"""Explanations have many small pictures; images beyond this are reduced for them."""

MAX_JPEG_SIDE = 65500
"""Pixels; longer pictures become PNG files."""


class Demo:
    """Predicts images, videos and a camera with one model, and writes what it finds."""

    def __init__(self, predictor: BatchPredictor, wanted: Wanted, output: Output) -> None:
        """
        Args:
            predictor: made for the images that come.
            wanted: which detections are kept.
            output: what is written and where; its folder exists.
        """
        self.predictor, self.wanted, self.output = predictor, wanted, output
        self.report = Report()
        self._results: ResultFiles | None = None
        self._first_run: tuple[float, int] | None = None
        self._start = 0.0

    def run(self, inputs: Inputs, camera: Camera | None = None, limit: int | None = None) -> Report:
        """Work through everything.

        Args:
            inputs: files.
            camera: predicted after them, until it ends or Ctrl-C is pressed.
            limit: the most frames of each video and of the camera; None: all.

        Raises:
            ConfigError: a file of results would overwrite an input, or no codec works. Nothing has
                been predicted then.
        """
        paths = [*inputs.images, *inputs.videos]
        names = dict(zip(paths, result_names(paths), strict=True))
        codec = self._codec(inputs, camera)
        self._refuse_overwriting(inputs, names, codec)
        self.report.problems += inputs.problems
        with contextlib.ExitStack() as stack:
            if self.output.json:
                self._results = stack.enter_context(self._result_files())
            self._start = time.perf_counter()
            if inputs.images:
                self._predict_images(inputs.images, names)
            for path in inputs.videos:
                self._predict_video(path, names[path], codec, limit)
            if camera is not None:
                self._predict_camera(camera, codec, limit)
            self.report.seconds = time.perf_counter() - self._start
        return self.report

    # ---- before ----------------------------------------------------------------------------------

    def _codec(self, inputs: Inputs, camera: Camera | None) -> str:
        writes_video = self.output.overlays and (inputs.videos or camera is not None)
        return working_codec(self.output.codec) if writes_video else next(iter(CODECS))

    def _refuse_overwriting(self, inputs: Inputs, names: dict[Path, Path], codec: str) -> None:
        targets = []
        for path in names:
            suffix = CODECS[codec] if path in inputs.videos else self.output.suffix
            targets += [
                _with_suffix(folder / names[path], suffix) for folder in self.output.folders()
            ]
        refuse_to_overwrite_inputs(targets, names)

    def _result_files(self) -> ResultFiles:
        metadata = self.predictor.metadata
        get = (lambda key: None) if metadata is None else metadata.get
        ids = get("thing_dataset_id_to_contiguous_id")
        by_class = None if ids is None else [key for key, _ in sorted(ids.items(), key=_second)]
        return ResultFiles(self.output.folder, get("thing_classes") or (), by_class)

    # ---- predicting ------------------------------------------------------------------------------

    def _predict_images(self, paths: list[Path], names: dict[Path, Path]) -> None:
        for prediction in self._predictions(paths, "image", len(paths)):
            if prediction.error is not None:
                self.report.problems.append(str(prediction.error))
                continue
            path = paths[prediction.index]
            found = self._take(prediction)
            target = self.output.folder / OVERLAYS / names[path]
            if self.output.overlays:
                self._save(self._overlay(prediction, found), target)
                self.report.pictures += 1
            self._explain(prediction, names[path])

    def _predict_video(self, path: Path, name: Path, codec: str, limit: int | None) -> None:
        try:
            info = video_info(path)
        except DataError as error:
            self.report.problems.append(str(error))
            return
        target = _with_suffix(self.output.folder / OVERLAYS / name, CODECS[codec])
        frames = self._predict_frames(path, info, target, name, codec, limit)
        if info.frames and limit is None and frames < 0.9 * info.frames:
            self.report.problems.append(
                f"the video {path} ended after {frames} of its {info.frames} frames: it is damaged"
            )

    def _predict_camera(self, camera: Camera, codec: str, limit: int | None) -> None:
        name = Path("webcam")
        target = _with_suffix(self.output.folder / OVERLAYS / name, CODECS[codec])
        info = VideoInfo(camera.rate, None)
        self._predict_frames(camera, info, target, name, codec, limit)

    def _predict_frames(
        self,
        source: Path | Camera,
        info: VideoInfo,
        target: Path,
        name: Path,
        codec: str,
        limit: int | None,
    ) -> int:
        """Returns how many frames there were. Ctrl-C ends a camera, and what it gave is kept."""
        is_live = isinstance(source, Camera)
        replaces = target.exists()
        if self.output.overlays:
            target.parent.mkdir(parents=True, exist_ok=True)
        frames = 0
        total = min(filter(None, (info.frames, limit)), default=None)
        with VideoOutput(target, codec, info.rate, is_live=is_live) as video:
            predictions = self._predictions(source, "frame", total, limit)
            with closing(predictions), _noting_ctrl_c(is_live) as is_over:
                for prediction in predictions:
                    if prediction.error is not None:  # the other frames are as this one
                        self.report.problems.append(str(prediction.error))
                        break
                    found = self._take(prediction)
                    if self.output.overlays:
                        video.write(self._overlay(prediction, found)[:, :, ::-1])
                    self._explain(prediction, name / f"frame_{frames:06}")
                    frames += 1
                    if is_over.is_set():
                        break
        if video.frames:
            self.report.videos.append(target)
            self.report.replaced += replaces
        return frames

    def _predictions(
        self, source: Any, unit: str, total: int | None, limit: int | None = None
    ) -> Any:
        """Predictions, with a progress bar that tells the model's pace from that of everything."""
        predictions = self.predictor(source, on_error="skip", keep_images=True)
        bar = tqdm(
            total=total, unit=f" {unit}s", dynamic_ncols=True, file=sys.stderr, mininterval=0.2
        )
        with closing(predictions), bar:
            for prediction in predictions:
                yield prediction
                self._measure()
                if self.report.model_seconds:
                    bar.set_postfix_str(
                        f"model alone {self.report.model_images / self.report.model_seconds:.1f}/s",
                        refresh=False,
                    )
                bar.update()
                if limit is not None and prediction.index + 1 >= limit:
                    return

    def _measure(self) -> None:
        seconds = self.predictor.clock.seconds.get("model", 0.0)
        images = self.predictor.num_predicted
        if self._first_run is None and images:
            self._first_run = seconds, images
        if self._first_run is not None and images > self._first_run[1]:
            seconds, images = seconds - self._first_run[0], images - self._first_run[1]
        self.report.model_seconds, self.report.model_images = seconds, images

    def _take(self, prediction: Prediction) -> Instances:
        """The wanted detections; they are counted, and written to the JSON files."""
        assert prediction.full_size is not None
        found = self.wanted.of(prediction.output, prediction.full_size)
        self.report.images += 1
        self.report.detections += len(found)
        self.report.empty += not len(found)
        self.report.reduced += found.image_size != tuple(prediction.full_size)
        if self._results is not None:
            self._results.add(prediction.name, found, prediction.full_size)
        return found

    # ---- drawing ---------------------------------------------------------------------------------

    def _overlay(self, prediction: Prediction, found: Instances) -> np.ndarray:
        assert prediction.image is not None
        image = np.ascontiguousarray(prediction.image[:, :, ::-1])
        return draw_instances(image, found, self.predictor.metadata, min_score=0.0)

    def _explain(self, prediction: Prediction, name: Path) -> None:
        if self.output.explain is None:
            return
        assert prediction.image is not None
        assert prediction.full_size is not None
        inputs = dict(self.predictor.preprocess(prediction.image, prediction.name))
        image = _fitted(prediction.image, MAX_EXPLAINED_PIXELS)
        inputs["height"], inputs["width"] = image.shape[:2]
        picture = self.output.explain(
            Seen(
                self.predictor.model,
                inputs,
                np.ascontiguousarray(image[:, :, ::-1]),
                self.predictor.metadata,
                partial(self.wanted.of, full_size=prediction.full_size),
            )
        )
        self._save(picture, self.output.folder / self.output.explanations / name)
        self.report.explanations += 1

    def _save(self, picture: np.ndarray, target: Path) -> None:
        suffix = ".png" if max(picture.shape) > MAX_JPEG_SIDE else self.output.suffix
        target = _with_suffix(target, suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.report.replaced += target.exists()
        save_picture(str(target), picture)


def _fitted(image: np.ndarray, max_pixels: int) -> np.ndarray:
    height, width = image.shape[:2]
    factor = (max_pixels / (height * width)) ** 0.5
    if factor >= 1:
        return image
    size = max(1, int(width * factor)), max(1, int(height * factor))
    fitted: np.ndarray = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return fitted


@contextlib.contextmanager
def _noting_ctrl_c(is_wanted: bool) -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that nothing is half written; the next is as ever."""
    is_pressed = threading.Event()
    if not is_wanted or threading.current_thread() is not threading.main_thread():
        yield is_pressed
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        is_pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield is_pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _with_suffix(path: Path, suffix: str) -> Path:
    """The path with the ending added; a dot in the name is no ending."""
    return path.with_name(path.name + suffix)


def _second(pair: Iterable[Any]) -> Any:
    return tuple(pair)[1]
