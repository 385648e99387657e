"""Faces of pictures and their embeddings: found by any detector, aligned by landmarks, described by an embedder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from saccade import checkpoint
from saccade.data.alignment import TEMPLATE, Landmarks, align, read_landmarks
from saccade.data.image import decode
from saccade.data.loader import collate
from saccade.data.types import Objects
from saccade.errors import DataError, UsageError
from saccade.inference.predictor import Predictor, load
from saccade.machine.paths import at_home
from saccade.tasks.table import find_task

FOUND = 0.5  # score from which a box of a detector is taken for a face
SEEN = 0.3  # confidence from which a joint of a pose is taken for a landmark
BATCH = 32  # faces a forward pass
_JOINTS = {"mouth_left": "left_mouth", "mouth_right": "right_mouth"}  # other names that joints have


@dataclass(frozen=True)
class Picture:
    """A file, or the box of its upright picture (x1 y1 x2 y2, whole pixels) in which the one who is named stands."""

    path: Path
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Seen:
    """The face of a picture, or why there is none to use."""

    path: Path
    face: np.ndarray | None = None  # [H, W, 3] uint8
    embedding: np.ndarray | None = None  # [d] float32 of length 1
    fault: str = ""


class FaceCutter:
    """The one face of each picture, cut out.

    Args:
        detector: run of a detector whose boxes are faces: one of its classes is called "face", or it has one alone. By
            default the picture is the face. Where a picture has a box, that is the face.
        landmarks: a file (`data.alignment.read_landmarks`), or the run of a model of poses with eyes among its joints.
        device: where to compute.

    Raises:
        UsageError: a detector that knows no faces, joints without eyes.
    """

    def __init__(
        self, detector: str | Path | None = None, landmarks: str | Path | None = None, device: str | None = None
    ) -> None:
        self._finder = None if detector is None else FaceFinder(detector, device)
        self._aligner = None if landmarks is None else _Aligner(Path(at_home(landmarks)), device)

    def face(self, picture: Picture) -> np.ndarray:
        """The face of a picture, [H, W, 3] uint8, aligned where there are landmarks.

        Raises:
            DataError: the picture cannot be read; no face in it, or several; no landmarks for it.
        """
        path, box, pixels = picture.path, picture.box, decode(picture.path)
        if box is None and self._finder is not None:
            box = self._finder.one_box(path, pixels)
        if self._aligner is not None:
            return align(pixels, self._aligner.landmarks(path, pixels, box))
        if box is None:
            return pixels
        x1, y1, x2, y2 = box
        return np.ascontiguousarray(pixels[y1:y2, x1:x2])


class FaceReader:
    """Pictures to embeddings. Each picture is to show one face.

    Args:
        run: of a model to embed.
        detector, landmarks: as in `FaceCutter`.
        device: where to compute.

    Raises:
        UsageError: a model of another task, and as `FaceCutter`.
    """

    def __init__(
        self,
        run: str | Path,
        detector: str | Path | None = None,
        landmarks: str | Path | None = None,
        device: str | None = None,
    ) -> None:
        self.predictor = load(run, device, "fp32")  # the same numbers on every machine: databases outlive machines
        if not find_task(self.predictor.task).embedding:
            raise UsageError(f"{run}: a model to {self.predictor.task}; faces are compared by one that embeds")
        own = callable(getattr(self.predictor.network, "similarity", None))
        self.compare = self.predictor.similarity if own else None  # None: by the cosine
        self._cutter = FaceCutter(detector, landmarks, device)

    def read(self, pictures: Iterable[Picture]) -> Iterator[Seen]:
        """Faces and embeddings of pictures, in order; what cannot be used comes with its fault."""
        waiting: list[Seen] = []
        for picture in pictures:
            try:
                waiting.append(Seen(picture.path, self._cutter.face(picture)))
            except DataError as error:
                waiting.append(Seen(picture.path, fault=str(error)))
            if len(waiting) == BATCH:
                yield from self._described(waiting)
                waiting = []
        yield from self._described(waiting)

    def read_one(self, path: Path) -> Seen:
        """`read` of one picture. Raises DataError where it cannot be used."""
        seen = next(iter(self.read([Picture(path)])))
        if seen.embedding is None:
            raise DataError(seen.fault)
        return seen

    def _described(self, seen: list[Seen]) -> list[Seen]:
        faces = [each.face for each in seen if each.face is not None]
        if not faces:
            return seen
        batch = collate([self.predictor.see(face) for face in faces])
        answers = iter([answer for _, answer in self.predictor.predict_batches([batch])])
        described = []
        for each in seen:
            if each.face is None:
                described.append(each)
                continue
            embedding = next(answers).embedding
            assert embedding is not None
            described.append(Seen(each.path, each.face, embedding.float().cpu().numpy()))
        return described


class FaceFinder:
    """Boxes of faces by a detector."""

    def __init__(self, run: str | Path, device: str | None = None) -> None:
        self.predictor = load(run, device)
        if not find_task(self.predictor.task).many_objects or self.predictor.preprocessing.one_person:
            raise UsageError(f"--detector {run}: a model to {self.predictor.task}; one that finds boxes is needed")
        classes = [name.casefold() for name in self.predictor.classes]
        if "face" not in classes and len(classes) > 1:
            raise UsageError(f"--detector {run}: none of its {len(classes)} classes is called 'face'")
        self.label = classes.index("face") if "face" in classes else 0

    def one_box(self, path: Path, pixels: np.ndarray) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 of the one face, whole pixels inside the picture. Raises DataError where there is none, or
        several."""
        objects = self.predictor.answer(pixels).objects
        assert objects is not None
        assert objects.scores is not None
        boxes = objects.boxes[(objects.labels == self.label) & (objects.scores >= FOUND)]
        if len(boxes) != 1:
            found = "no face" if not len(boxes) else f"{len(boxes)} faces"
            raise DataError(f"{path}: {found} found where one is expected; give a picture of one face")
        limits = torch.tensor([pixels.shape[1], pixels.shape[0]] * 2)
        x1, y1, x2, y2 = (int(v) for v in torch.minimum(boxes[0].round().clamp(min=0), limits))
        if x2 - x1 < 2 or y2 - y1 < 2:
            raise DataError(f"{path}: a face of {x2 - x1} x {y2 - y1} pixels")
        return x1, y1, x2, y2


class _Aligner:
    """Landmarks of pictures, from a file or by a model of poses."""

    def __init__(self, source: Path, device: str | None) -> None:
        self.source = source
        self.stated: dict[str, Landmarks] = {}
        self.pose: Predictor | None = None
        if source.is_file() and source.suffix.lower() in (".json", ".csv"):
            self.stated = read_landmarks(source)
            return
        self.pose = load(source, device)
        joints = self.pose.preprocessing.joints
        names = [] if joints is None else [_JOINTS.get(name, name) for name in joints.names]
        if not {"left_eye", "right_eye"} <= set(names):
            raise UsageError(f"--landmarks {source}: a file .json or .csv, or a model of poses whose joints have eyes")
        self.names = names

    def landmarks(self, path: Path, pixels: np.ndarray, box: tuple[int, int, int, int] | None = None) -> Landmarks:
        """Those of one picture, by a model for one person those of the face in the box. Raises DataError where there
        are none."""
        if self.pose is None:
            parts = path.parts
            for start in range(len(parts)):  # the longest end of the path that the file names
                found = self.stated.get("/".join(parts[start:]).replace("//", "/"))
                if found is not None:
                    return found
            raise DataError(f"{path}: {self.source} has no landmarks for it")
        given = None
        if box is not None and self.pose.preprocessing.one_person:
            given = Objects(torch.tensor([box], dtype=torch.float32), torch.zeros(1, dtype=torch.int64))
        objects = self.pose.answer(pixels, given).objects
        people = 0 if objects is None or objects.keypoints is None else len(objects)
        if people != 1:
            raise DataError(f"{path}: {people} poses found where one is expected; landmarks come from one")
        assert objects is not None
        assert objects.keypoints is not None
        rows = zip(self.names, objects.keypoints[0].tolist(), strict=True)
        return {name: (x, y) for name, (x, y, sure) in rows if name in TEMPLATE and sure >= SEEN}


def model_of(run: str | Path) -> str:
    """SHA-256 of all that decides what an embedding means: model, configuration, preprocessing and weights."""
    state = checkpoint.load(checkpoint.find(at_home(run)))
    facts = [state.model, state.config, state.preprocessing, checkpoint.digest(state.weights)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
