"""Train, evaluate and predict from Python: `python examples/train_and_predict.py [--images 400] [--epochs 20]`.

The pictures are made on the spot, a handwritten digit on a photograph each, as class folders with the parts train and
val. A folder of your own in their place is all that has to be changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import saccade
from saccade.data.scenes import write_scenes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/from-python"), help="where pictures and run are left")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(arguments)
    data, run = options.out / "digits", options.out / "run"
    if not data.exists():
        write_scenes(data, "classify", options.images, seed=0, size=32)

    # Settings are keywords: those of `saccade settings resnet20`, fields of the network among them.
    trained = saccade.train(
        "resnet20", data, out=run, overwrite=True, epochs=options.epochs, batch=32, lr=0.05, flip=0, progress=False
    )
    print(f"best checkpoint: {trained['checkpoint']}")

    top1 = saccade.evaluate(run, data, split="val")["metrics"]["top1"]
    print(f"top-1 {top1['value']:.3f}, with 95 % confidence between {top1['low']:.3f} and {top1['high']:.3f}")

    predictor = saccade.load(run)  # opened once, it answers for any number of pictures
    for picture in sorted((data / "val").rglob("*.jpg"))[:5]:
        answer = predictor.predict(picture)
        print(f"{picture.parent.name}/{picture.name}: {answer.label_name} ({answer.scores[0]:.0%})")


if __name__ == "__main__":
    main()
