"""The peers' side of loader.py: python loader_peer.py io|pil FOLDER WORKERS BATCH, in the peers' environment.

`io` decodes by torchvision.io, `pil` by Pillow; both crop, resize (antialiased) and mirror by torchvision's v2
transforms, and give uint8 batches as Saccade's loader does.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2 as T


class Crops(torch.utils.data.Dataset):
    def __init__(self, folder: Path, kind: str) -> None:
        self.files = sorted(folder.rglob("*.jpg"))
        self.classes = sorted({file.parent.name for file in self.files})
        self.kind = kind
        self.transform = T.Compose(
            [T.RandomResizedCrop((224, 224), antialias=True), T.RandomHorizontalFlip(), T.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        file = self.files[i]
        label = self.classes.index(file.parent.name)
        if self.kind == "io":
            return self.transform(decode_jpeg(read_file(str(file)), ImageReadMode.RGB)), label
        return self.transform(Image.open(file).convert("RGB")), label


def main() -> None:
    kind, folder, workers, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    data = Crops(folder, kind)
    loader = torch.utils.data.DataLoader(
        data, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    print(json.dumps({"images": len(data)}), flush=True)
    images = 0
    for _ in count():
        for found, _ in loader:
            images += len(found)
            print(time.monotonic(), images, flush=True)


if __name__ == "__main__":
    main()
