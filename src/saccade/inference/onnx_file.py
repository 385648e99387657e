"""ONNX: our operations in its standard ones, the file written, and what onnxruntime answers by it.

Needs the extra `deploy`; what is imported of it is imported where it is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.errors import UsageError, how_to_install
from saccade.machine.files import write_whole
from saccade.ops import nms, roi_align, roi_pool
from saccade.ops.ps_roi_pool import ps_roi_pool_reference

DEFINED = (nms, roi_align, roi_pool)  # the files that register our operations
ABSENT = -3.0e38  # scores below are of boxes that are not there
DIMENSIONS = {"images": {0: "batch", 2: "height", 3: "width"}, "proposals": {1: "boxes"}}


def check_packages() -> None:
    """Raises UsageError where a package of the extra is missing."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        raise UsageError(f"export to onnx needs more packages: {how_to_install('deploy')} (or use --to torch)")


def write_onnx(
    program: Any, inputs: Sequence[str], outputs: Sequence[str], path: Path, facts: Mapping[str, str]
) -> None:
    """Write an exported program (torch.export) as ONNX, with `facts` among its metadata.

    Raises:
        UsageError: it has an operation for which ONNX has none.
    """
    operations: Any = torch.ops.saccade
    table: dict[Any, Any] = {
        operations.nms_padded.default: _nms,
        operations.roi_align_levels.default: _roi_align,
        operations.roi_pool.default: _roi_pool,
        torch.ops.aten.sort.stable: _sort,
    }
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": list(outputs)}
    try:
        with quiet():
            program = program.run_decompositions({operations.ps_roi_pool.default: ps_roi_pool_reference})
            made: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, custom_translation_table=table, opset_version=18, **names
            )
    except torch.onnx.errors.OnnxExporterError as error:
        first: BaseException = error
        while first.__cause__ is not None:  # what could not be translated; the others say how to ask for help
            first = first.__cause__
        reason = str(first).strip().partition("\n")[0]
        raise UsageError(f"this model cannot be written as ONNX ({reason}); use --to torch") from error
    _name_dimensions(made.model)
    made.model.metadata_props.update(facts)
    write_whole(path, lambda temporary: made.save(temporary))


def run_onnx(path: Path, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What onnxruntime answers on the CPU, by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and a size that cannot stay open is tried as a fixed one
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    answers = session.run(None, {name: tensor.contiguous().numpy() for name, tensor in given.items()})
    return {each.name: torch.from_numpy(value) for each, value in zip(session.get_outputs(), answers, strict=True)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What other packages print and warn of stays off the screen; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _name_dimensions(model: Any) -> None:
    """Give the sides that are free their names in inputs and outputs."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for place, word in DIMENSIONS.get(value.name, {}).items():
            if not isinstance(value.shape[place], int):
                names[str(value.shape[place])] = word
    for value in [*model.graph.inputs, *model.graph.outputs]:
        for place, side in enumerate(value.shape or ()):
            if str(side) in names:
                value.shape[place] = names[str(side)]


def _standard() -> Any:
    from onnxscript import opset18

    return opset18


def _nms(boxes: Any, scores: Any, iou_threshold: Any, limit: Any) -> Any:
    """`ops/nms.py: nms_padded` by NonMaxSuppression: the scores that stay in place, of which the best are taken."""
    op = _standard()
    each = op.Shape(scores, start=2, end=3)
    if boxes.shape[1] == 1:  # one table of boxes for all groups, as the operator has it
        own, rows = op.Squeeze(boxes, op.Constant(value_ints=[1])), scores
    else:  # every group an image of its own
        own = op.Reshape(boxes, op.Concat(_ints(op, -1), each, _ints(op, 4), axis=0))
        rows = op.Reshape(scores, op.Concat(_ints(op, -1), _ints(op, 1), each, axis=0))
    floor = op.Constant(value_floats=[ABSENT])
    chosen = op.NonMaxSuppression(own, rows, _ints(op, limit), op.Constant(value_floats=[iou_threshold]), floor)
    nothing = op.Expand(floor, op.Shape(rows))
    kept = op.ScatterND(nothing, chosen, op.GatherND(rows, chosen))
    flat = op.Reshape(kept, op.Concat(op.Shape(scores, start=0, end=1), _ints(op, -1), axis=0))
    padded = op.Pad(flat, _ints(op, 0, 0, 0, limit), op.Constant(value_float=ABSENT))
    best, places = op.TopK(padded, _ints(op, limit), axis=1, largest=1, sorted=1)
    return op.Where(op.Greater(best, op.Constant(value_float=ABSENT)), places, _ints(op, -1))


def _roi_align(
    features: Any,
    rois: Any,
    levels: Any,
    spatial_scales: Any,
    height: Any,
    width: Any,
    sampling_ratio: Any,
    aligned: Any,
) -> Any:
    """`ops/roi_align.py: roi_align_levels` by RoIAlign: each region from the map that it is read from."""
    op = _standard()
    number = op.Cast(op.Squeeze(_columns(op, rois, 0, 1), _ints(op, 1)), to=7)
    corners = _columns(op, rois, 1, 5)

    def pooled(level: int, corners: Any, number: Any) -> Any:
        return op.RoiAlign(
            features[level],
            corners,
            number,
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            mode="avg",
            output_height=height,
            output_width=width,
            sampling_ratio=max(sampling_ratio, 0),
            spatial_scale=spatial_scales[level],
        )

    if len(features) == 1:
        return pooled(0, corners, number)
    channels = op.Shape(features[0], start=1, end=2)
    shape = op.Concat(op.Shape(rois, start=0, end=1), channels, _ints(op, height, width), axis=0)
    out = op.Expand(op.Constant(value_float=0.0), shape)
    for level in range(len(features)):
        rows = op.Transpose(op.NonZero(op.Equal(levels, op.Constant(value_int=level))), perm=[1, 0])  # [k, 1]
        mine = op.Squeeze(rows, _ints(op, 1))
        part = pooled(level, op.Gather(corners, mine, axis=0), op.Gather(number, mine, axis=0))
        out = op.ScatterND(out, rows, part)
    return out


def _roi_pool(
    features: Any, rois: Any, height: Any, width: Any, spatial_scale: Any, overlapping: Any, places: Any
) -> Any:
    """`ops/roi_pool.py: roi_pool` by MaxRoiPool, which divides a region as the released Caffe code does."""
    if not overlapping:
        raise UsageError("this model cannot be written as ONNX, whose MaxRoiPool knows no bins without overlap")
    op = _standard()
    rois = op.CastLike(rois, features)  # SPP-net's windows come in float64
    out = op.MaxRoiPool(features, rois, pooled_shape=[height, width], spatial_scale=spatial_scale)
    return out, _ints(op, -1)  # where the maxima lie is asked in training alone


def _sort(values: Any, stable: Any, dim: Any = -1, descending: Any = False) -> Any:
    """A stable sort by TopK, of whose equal values the one of the lower index comes first."""
    op = _standard()
    count = op.Gather(op.Shape(values), _ints(op, dim))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


for _translation in (_nms, _roi_align, _roi_pool, _sort):
    _translation.__annotations__.clear()  # the exporter would read them as types of ONNX


def _columns(op: Any, table: Any, first: int, last: int) -> Any:
    return op.Slice(table, _ints(op, first), _ints(op, last), _ints(op, 1))


def _ints(op: Any, *numbers: int) -> Any:
    return op.Constant(value_ints=list(numbers))
