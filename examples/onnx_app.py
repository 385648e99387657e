"""A detector in an app without Saccade or torch: the file of `saccade export RUN`, run by onnxruntime.

python examples/onnx_app.py RUN/model.onnx photo.jpg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(arguments: list[str]) -> None:
    """Print what a detector finds in pictures."""
    if len(arguments) < 2:
        sys.exit(__doc__)
    file, *pictures = arguments
    about = json.loads(Path(file).with_suffix(".json").read_text())
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    height, width = about["preprocessing"]["size"]
    for path in pictures:
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        scale = min(height / picture.height, width / picture.width)  # letterbox: the picture above and left
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        images = np.empty((1, 3, height, width), np.float32)
        images[:] = np.reshape(about["preprocessing"]["padding"], (3, 1, 1))
        images[0, :, : small.height, : small.width] = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
        given = {"images": images, "sizes": np.array([[small.height, small.width]])}
        boxes, labels, scores = session.run(["boxes", "labels", "scores"], given)
        boxes = (boxes[0] / scale).clip(0, 2 * [picture.width, picture.height])
        for box, label, score in zip(boxes, labels[0], scores[0], strict=True):
            if score >= about["thresholds"][label]:
                print(path, about["classes"][label], f"{score:.2f}", box.round().astype(int).tolist())


if __name__ == "__main__":
    main(sys.argv[1:])
