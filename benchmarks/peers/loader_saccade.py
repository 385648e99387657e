"""Saccade's side of loader.py: python loader_saccade.py FOLDER WORKERS BATCH; prints as train_speed_saccade.py does."""

from __future__ import annotations

import json
import sys
import time
from itertools import count
from pathlib import Path

from saccade.data.dataset import DataSet
from saccade.data.formats import read
from saccade.data.loader import Loader, Work
from saccade.data.orders import Shuffled
from saccade.data.transforms import Flip, RandomResizedCrop
from saccade.data.views import View

SMALLEST = 0.08  # share of the area, as torchvision's default


def main() -> None:
    folder, workers, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    data: DataSet = read(folder, "classify")
    side = round(224 / SMALLEST**0.5)  # the smallest crop is not enlarged from a reduced image
    view = View((RandomResizedCrop((224, 224), SMALLEST), Flip(0.5)), side)
    loader = Loader(data, data.records, "classify", view, Shuffled(drop_last=True), batch, Work(workers))
    print(json.dumps({"images": len(data.records)}), flush=True)
    images = 0
    for epoch in count():
        for found in loader.epoch(epoch):
            images += len(found)
            print(time.monotonic(), images, flush=True)


if __name__ == "__main__":
    main()
