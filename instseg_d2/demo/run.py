"""The demo: everything that was asked for is predicted, drawn and written."""

from __future__ import annotations

import sys
import time
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
from ..image_sources import frame_name
from ..part_file import Stamp, file_stamp
from ..picture_files import save_picture
from ..run_settings import Settings
from ..visualize import draw_instances
from .detections import Wanted
from .inputs import Inputs, refuse_to_overwrite_inputs, result_names
from .progress import Progress
from .report import OVERLAYS, Output, Report, Seen
from .results import classes_of, entry_of, write_result_files
from .video import (
    CODECS,
    Camera,
    VideoInfo,
    VideoOutput,
    noting_ctrl_c,
    video_info,
    working_codec,
)

MAX_EXPLAINED_PIXELS = 2**20
"""Explanations have many small pictures; images beyond this are reduced for them."""

MAX_JPEG_SIDE = 65500
"""Pixels; longer pictures become PNG files."""


class Demo:
    """Predicts images, videos and a camera with one model, and writes what it finds.

    What is finished is noted in ``demo.part`` until everything is, so that another run with the
    same settings goes on from there.
    """

    def __init__(
        self, predictor: BatchPredictor, wanted: Wanted, output: Output, settings: Settings
    ) -> None:
        """
        Args:
            predictor: made for the images that come.
            wanted: which detections are kept.
            output: what is written and where; its folder exists.
            settings: what the results depend on, see :func:`.demo_settings`.
        """
        self.predictor, self.wanted, self.output = predictor, wanted, output
        self.report = Report()
        self._settings = settings
        self._progress: Progress
        self._finished: list[str] = []  # the names of images and frames, in order
        self._class_names, self._category_ids = classes_of(predictor.metadata)
        self._first_run: tuple[float, int] | None = None
        self._start = 0.0

    def run(self, inputs: Inputs, camera: Camera | None = None, limit: int | None = None) -> Report:
        """Work through everything.

        Args:
            inputs: files.
            camera: predicted after them, until it ends or Ctrl-C is pressed.
            limit: the most frames of each video and of the camera; None: all.

        Raises:
            ConfigError: a file of results would overwrite an input, no codec works, or another run
                is writing into the folder. Nothing has been predicted then.
        """
        paths = [*inputs.images, *inputs.videos]
        names = dict(zip(paths, result_names(paths), strict=True))
        codec = self._codec(inputs, camera)
        self._refuse_overwriting(inputs, names, codec)
        self.report.problems += inputs.problems
        self._progress = Progress(self.output.folder, self._settings)
        with self._progress:
            if self._progress.differences:
                _say_what_differs(self._progress)
            self._start = time.perf_counter()
            if inputs.images:
                self._predict_images(inputs.images, names)
            for path in inputs.videos:
                self._predict_video(path, names[path], codec, limit)
            if camera is not None:
                self._predict_camera(camera, codec, limit)
            if self.output.json:
                entries = ((name, self._progress[name]) for name in self._finished)
                write_result_files(
                    self.output.folder, self._class_names, self._category_ids, entries
                )
            self._progress.remove()
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

    # ---- predicting ------------------------------------------------------------------------------

    def _predict_images(self, paths: list[Path], names: dict[Path, Path]) -> None:
        finished = {path for path in paths if self._has_image(path, names[path])}
        self.report.before += len(finished)
        todo = [path for path in paths if path not in finished]
        stamps = [file_stamp(path) for path in todo]
        for prediction in self._predictions(todo, "image", len(todo)):
            if prediction.error is not None:
                self.report.problems.append(str(prediction.error))
                continue
            path = todo[prediction.index]
            found = self._take(prediction)
            target = self.output.folder / OVERLAYS / names[path]
            if self.output.overlays:
                self._save(self._overlay(prediction, found), target)
                self.report.pictures += 1
            self._explain(prediction, names[path])
            self._note(prediction, found, stamps[prediction.index])
            finished.add(path)
        self._finished += [str(path) for path in paths if path in finished]

    def _has_image(self, path: Path, name: Path) -> bool:
        """Whether a run that did not end has finished it."""
        folders = [self.output.folder / OVERLAYS] if self.output.overlays else []
        if self.output.explain is not None:
            folders.append(self.output.folder / self.output.explanations)
        suffixes = (self.output.suffix, ".png")
        return self._progress.has(
            path,
            [tuple(_with_suffix(folder / name, each) for each in suffixes) for folder in folders],
        )

    def _predict_video(self, path: Path, name: Path, codec: str, limit: int | None) -> None:
        target = _with_suffix(self.output.folder / OVERLAYS / name, CODECS[codec])
        if self._progress.has(path, [(target,)] if self.output.overlays else []):
            frames = self._progress[str(path)]["frames"]
            self.report.before += frames
            self._finished += [frame_name(path, number) for number in range(frames)]
            return
        stamp, problems = file_stamp(path), len(self.report.problems)
        try:
            info = video_info(path)
        except DataError as error:
            self.report.problems.append(str(error))
            return
        frames = self._predict_frames(path, info, target, name, codec, limit)
        if info.frames and limit is None and frames < 0.9 * info.frames:
            self.report.problems.append(
                f"the video {path} ended after {frames} of its {info.frames} frames: it is damaged"
            )
        if len(self.report.problems) == problems:
            self._progress.add(str(path), {"stamp": stamp, "frames": frames})

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
            with closing(predictions), noting_ctrl_c(is_live) as is_over:
                for prediction in predictions:
                    if prediction.error is not None:  # the other frames are as this one
                        self.report.problems.append(str(prediction.error))
                        break
                    found = self._take(prediction)
                    if self.output.overlays:
                        video.write(self._overlay(prediction, found)[:, :, ::-1])
                    self._explain(prediction, name / f"frame_{frames:06}")
                    self._note(prediction, found)
                    self._finished.append(prediction.name)
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
        """The wanted detections; they are counted."""
        assert prediction.full_size is not None
        found = self.wanted.of(prediction.output, prediction.full_size)
        self.report.images += 1
        self.report.detections += len(found)
        self.report.empty += not len(found)
        self.report.reduced += found.image_size != tuple(prediction.full_size)
        return found

    def _note(self, prediction: Prediction, found: Instances, stamp: Stamp | None = None) -> None:
        """Everything of this image or frame is written, but for the JSON files."""
        assert prediction.full_size is not None
        entry = {"stamp": stamp}
        if self.output.json:
            entry |= entry_of(found, prediction.full_size, self._category_ids)
        self._progress.add(prediction.name, entry)

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


def _with_suffix(path: Path, suffix: str) -> Path:
    """The path with the ending added; a dot in the name is no ending."""
    return path.with_name(path.name + suffix)


def _say_what_differs(progress: Progress) -> None:
    print(
        f"An earlier run that did not end was made in another way, so what {progress.path} had "
        "noted does not count. Then and now:\n  " + "\n  ".join(progress.differences),
        file=sys.stderr,
    )
