#!/usr/bin/env python
"""Run a SparseInst that tools/export.py wrote as ONNX: python tools/infer_onnx.py MODEL IMAGE ...

Needs onnxruntime, numpy and opencv, nothing else: copy this file to where the model is to run. With
--output DIR it draws the instances into DIR/NUMBER_NAME.png, with --json FILE it writes them down.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def resized(image: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """(h, w, 3) at the size that the network was trained for: shorter side, longest side."""
    height, width = image.shape[:2]
    scale = min(min_size / min(height, width), max_size / max(height, width)) if min_size else 1
    size = max(33, round(width * scale)), max(33, round(height * scale))  # a network's least side
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def predict(session: onnxruntime.InferenceSession, image: np.ndarray, threshold: float) -> list:
    """The instances of an image (h, w, 3) BGR: dicts with score, label, box (XYXY), mask (h, w)."""
    info = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    pixels = resized(image, info["min_size"], info["max_size"])[None, :, :, ::-1]
    outputs = session.run(None, {"images": np.ascontiguousarray(pixels)})
    boxes, scores, labels, masks = (output[0, : outputs[4][0]] for output in outputs[:4])
    (height, width), (seen_height, seen_width) = image.shape[:2], pixels.shape[1:3]
    scale = np.tile([width / seen_width, height / seen_height], 2)
    found = []
    for box, score, label, mask in zip(boxes, scores, labels, masks, strict=True):
        if score > threshold:
            whole = cv2.resize(mask.astype(np.float32), (width, height)) > 0.5
            entry = {"score": float(score), "label": info["class_names"][label]}
            found.append({**entry, "box": (box * scale).tolist(), "mask": whole})
    return found


def draw(image: np.ndarray, instances: list) -> np.ndarray:
    """A copy of the image (BGR) with masks, boxes and names."""
    image = image.copy()
    for index, found in enumerate(instances):
        hue = np.uint8([[[index * 67 % 180, 200, 255]]])
        color = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]
        image[found["mask"]] = image[found["mask"]] * 0.5 + color * 0.5
        left, top, right, bottom = (round(value) for value in found["box"])
        cv2.rectangle(image, (left, top), (right, bottom), color.tolist())
        text = f"{found['label']} {found['score']:.2f}"
        cv2.putText(image, text, (left, top + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255))
    return image


def main() -> None:
    """Parse the arguments; predict, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="ONNX file")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="folder for drawn images")
    parser.add_argument("--json", type=Path, help="file for score, label, box, pixels of the mask")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="default: 0.3")
    args = parser.parse_args()
    known = onnxruntime.get_available_providers()
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in known]
    session = onnxruntime.InferenceSession(args.model, providers=providers)
    results, unreadable = {}, []
    for path in args.images:
        image = cv2.imread(str(path))
        if image is None:
            unreadable.append(str(path))
            continue
        instances = predict(session, image, args.score_threshold)
        print(f"{path}: {len(instances)} instances")
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            drawn = args.output / f"{len(results):04d}_{path.stem}.png"  # names may be alike
            if not cv2.imwrite(str(drawn), draw(image, instances)):
                sys.exit(f"error: {drawn} cannot be written")
        results[str(path)] = [{**entry, "mask": int(entry["mask"].sum())} for entry in instances]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    if unreadable:
        sys.exit(f"error: cannot be read as images: {', '.join(unreadable)}")


if __name__ == "__main__":
    main()
