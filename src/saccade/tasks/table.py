"""The tasks: what a model answers, which number ranks it, which fields hold the answer. Imports no torch.

What else there is to say of a kind of answer stands in the file of its name beside this one (`tasks/contract.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from saccade.errors import UsageError, suggest


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of answer that models give, and what it asks of data and metrics.

    `label` to `embedding` are the fields of `data.types.Annotation` and `Objects` that hold truth and answer.
    """

    name: str
    answers: str  # what the model says of an image
    metric: str  # the name in metrics.json that ranks checkpoints; higher is better
    needs: str  # what the labels must hold
    also: tuple[str, ...] = ()  # tasks that data of this task can serve as well
    label: bool = False  # one class
    tags: bool = False  # any number of classes
    objects: bool = False  # boxes with classes
    masks: bool = False  # of the objects
    keypoints: bool = False  # of the objects
    cuboids: bool = False  # of the objects, in pictures whose camera is known
    semantic: bool = False  # a class map
    embedding: bool = False  # a vector; the classes of new images (people, things) are not those of training

    @property
    def whole_image(self) -> bool:
        """Whether the answer holds for the image as a whole: wherever it is cropped, turned, or blended with others."""
        return not self.objects and not self.semantic

    @property
    def boxes_alone(self) -> bool:
        """Whether outlines, joints and depth are left aside, and images have any number of boxes."""
        return self.many_objects and not (self.masks or self.keypoints or self.cuboids)

    @property
    def one_object(self) -> bool:
        """Whether the image has exactly one object, whose class is that of the image."""
        return self.objects and self.label

    @property
    def many_objects(self) -> bool:
        """Whether an image has any number of objects, or none."""
        return self.objects and not self.label


TASKS: dict[str, Task] = {
    t.name: t
    for t in (
        Task("classify", "one class an image", "top1", "a class an image", also=("embed",), label=True),
        # Checkpoints are ranked by the area under the ROC curve, which all pairs decide: with a few dozen people held
        # out, rates at a fixed rate of false accepts hang on single pairs.
        Task(
            "embed",
            "a vector an image, near those of the same person or thing",
            "auc",
            "who or what each image shows, as its class",
            label=True,
            embedding=True,
        ),
        Task(
            "localize",
            "one class and its box an image",
            "localization_top1",
            "boxes with classes",
            label=True,
            objects=True,
        ),
        Task("tag", "several classes an image", "mean_ap", "any number of classes an image", tags=True),
        Task("detect", "boxes with classes", "ap", "boxes with classes", also=("tag", "localize"), objects=True),
        Task(
            "instances",
            "boxes with classes and masks",
            "mask_ap",
            "polygons or masks",
            also=("detect", "tag", "localize"),
            objects=True,
            masks=True,
        ),
        Task(
            "pose",
            "boxes with classes and joints",
            "oks_ap",
            "objects with named joints",
            also=("detect", "tag", "localize"),
            objects=True,
            keypoints=True,
        ),
        Task(
            "boxes3d",
            "boxes in three dimensions with classes",
            "iou_3d",
            "objects with sizes and places in metres, and cameras",
            also=("detect", "tag", "localize"),
            objects=True,
            cuboids=True,
        ),
        Task("segment", "a class for every pixel", "mean_iou", "a class map an image", semantic=True),
    )
}


def find_task(name: str) -> Task:
    """Raises UsageError with suggestions where there is no such task."""
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}: {suggest(name, TASKS)}")
    return TASKS[name]
