#!/usr/bin/env python
"""Run a SparseInst that tools/export.py wrote as ONNX: a line of JSON an image, and drawings."""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def predict(session: onnxruntime.InferenceSession, image: np.ndarray, threshold: float) -> list:
    """Of (h, w, 3) BGR the instances, best first: score, label, box (XYXY), mask (h, w) bool."""
    facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    whole = image.shape[1::-1]
    scale = min(facts["min_size"] / min(whole), facts["max_size"] / max(whole)) or 1
    size = [max(33, round(side * scale)) for side in whole]  # the network takes no less than 33
    seen = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    outputs = session.run(None, {"images": np.ascontiguousarray(seen[None, ..., ::-1])})
    boxes, scores, labels, masks = (each[0][outputs[1][0] > threshold] for each in outputs[:4])
    names = [facts["class_names"][label] for label in labels]
    boxes = np.round(boxes * np.tile(np.divide(whole, size), 2), 2)
    masks = [cv2.resize(mask.astype(np.float32), whole) > 0.5 for mask in masks]
    return list(zip(scores.tolist(), names, boxes.tolist(), masks, strict=True))


def main() -> None:
    """Parse the arguments; print and draw what is in the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="ONNX file")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--output", default="drawn", help="folder (drawn); replaces older drawings")
    parser.add_argument("--score-threshold", type=float, default=0.3, help="default: 0.3")
    args, unreadable = parser.parse_args(), []
    providers = [p for p in onnxruntime.get_available_providers() if p.startswith(("CUDA", "CPU"))]
    try:
        session = onnxruntime.InferenceSession(args.model, providers=providers)
        Path(args.output).mkdir(parents=True, exist_ok=True)
    except Exception as error:  # onnxruntime's have no other base
        sys.exit(f"error: {error}")
    if "class_names" not in session.get_modelmeta().custom_metadata_map:
        sys.exit(f"error: {args.model} is no SparseInst that tools/export.py wrote")
    for number, path in enumerate(args.images):
        if (image := cv2.imread(str(path))) is None:
            unreadable.append(str(path))
            continue
        found = predict(session, image, args.score_threshold)
        print(json.dumps({"file": str(path), "instances": [one[:3] for one in found]}))
        for index, (score, name, (x, y, *_), mask) in enumerate(found):
            image[mask] = image[mask] // 2 + np.random.default_rng(index).integers(32, 128, 3)
            cv2.putText(image, f"{name} {score:.2f}", (int(x), int(y) + 12), 0, 0.4, [255] * 3)
        if not cv2.imwrite(f"{args.output}/{number:04d}_{path.stem}.png", image):
            sys.exit(f"error: the folder {args.output} cannot be written to")
    sys.exit(f"error: cannot be read as images: {', '.join(unreadable)}" if unreadable else 0)


if __name__ == "__main__":
    main()
