"""`saccade export`: a trained model as a file for other programs, proved equal to the original."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config import height_width, parse_size
from saccade.errors import UsageError, how_to_install, suggest
from saccade.inference.trained import Trained, open_run
from saccade.machine.files import write_whole
from saccade.machine.paths import at_home
from saccade.models import model_module
from saccade.models.contract import compress, example_inputs, exported_forward
from saccade.tasks.table import find_task

ANY_SIZE = 256  # pixels a side, where the model takes images of any size
TOLERANCE = 1e-3  # largest difference, relative to the largest output, between the exported file and the original


class Network(nn.Module):
    """What is exported: images [b, 3, H, W] in [0, 1] to the outputs of the network.

    Classifiers give logits [b, classes], segmenters logits [b, classes, H, W], localizers logits [b, classes] and boxes
    (models/localizers/localizer.py). Detectors that offer `scored_boxes`
    (SSD) give scores [b, A, classes] and boxes [b, A, 4] in input pixels, before non-maximum suppression; others what
    their `forward` says.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        return exported_forward(self.model)(*inputs)


def export(
    run: str | Path,
    *,
    to: str = "onnx",
    out: str | Path | None = None,
    batch: int = 1,
    size: str | int | tuple[int, int] | None = None,
    svd: str | tuple[int, int] | None = None,
    weights: str | Path | None = None,
    names: str | Path | None = None,
) -> dict[str, Any]:
    """Write the network of a trained model, with its shapes fixed; see `Network` for the outputs.

    Args:
        run: run folder, checkpoint, or the `.cfg` of a detector of Darknet.
        to: "onnx" (needs the extra `deploy`) or "torch" (a torch.export archive, `.pt2`).
        out: the file; by default beside the checkpoint.
        batch: images a call.
        size: input pixels, a side or HxW; by default those of training, and 256 for models of any size.
        svd: ranks to which the two fully connected layers of Fast R-CNN are factorised before, such as "1024,256".
        weights, names: of a `.cfg`, as in `saccade.load`.

    Returns:
        `{file, format, input, outputs, suppression, largest_difference}`; see `_suppression`.

    Raises:
        UsageError: unknown format, the extra is not installed, or the model has operations that ONNX has no word for.
    """
    out = at_home(out)
    if to not in ("onnx", "torch"):
        raise UsageError(f"--to {to!r}: {suggest(to, ['onnx', 'torch'])}")
    trained = open_run(run, weights=weights, names=names)
    target = Path(out) if out is not None else trained.path.with_name("model.onnx" if to == "onnx" else "model.pt2")
    sides = _input_size(trained, size)
    inputs = example_inputs(model_module(trained.model), trained.network.config, *sides, batch)
    network = Network(_factorised(trained, svd)).eval()
    with torch.no_grad():
        expected = _outputs(network(*inputs))
        program = torch.export.export(network, inputs)
        if to == "onnx":
            _refuse_onnx(program, trained.model)
        if to == "torch":
            got = _write_torch(program, inputs, target)
        else:
            got = _write_onnx(program, inputs, target, trained)
    pairs = zip(got, expected, strict=True)
    difference = max(float((a - b).abs().max()) / max(1.0, float(b.abs().max())) for a, b in pairs)
    if not difference <= TOLERANCE:
        target.unlink()
        raise UsageError(
            f"the exported {trained.task} model differs by {difference:.2g} from the original; not written"
        )
    return {
        "file": str(target),
        "format": to,
        "input": list(inputs[0].shape),
        "outputs": [list(value.shape) for value in expected],
        "suppression": _suppression(trained.task),
        "largest_difference": difference,
    }


def _write_torch(program: Any, inputs: tuple[Tensor, ...], target: Path) -> list[Tensor]:
    """Write an archive of torch.export, and give what it answers."""
    archive = io.BytesIO()  # torch ends the whole process where the disk is full
    torch.export.save(program, archive)
    write_whole(target, archive.getvalue())
    return _outputs(torch.export.load(target).module()(*inputs))


def _suppression(task: str) -> str | None:
    """What an exported file has done about overlapping boxes; None for a task without them."""
    kind = find_task(task)
    if not kind.many_objects:
        return None
    return "hard, within each class" if kind.masks else "none: boxes and scores are those before suppression"


def _factorised(trained: Trained, svd: str | tuple[int, int] | None) -> nn.Module:
    """The network, or with ranks its compressed form."""
    if svd is None:
        return trained.network
    parts = svd.split(",") if isinstance(svd, str) else [str(rank) for rank in svd]
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--svd {svd!r}: two ranks are needed, such as 1024,256")
    return compress(model_module(trained.model), trained.network, (int(parts[0]), int(parts[1])))


def _refuse_onnx(program: torch.export.ExportedProgram, model: str) -> None:
    """Raises UsageError where the network has operations of our own, for which ONNX has no word, or the packages that
    write ONNX are missing; in this order, so that none is installed in vain."""
    targets = (node.target for part in program.graph_module.modules() for node in _nodes(part))
    own = sorted({str(target) for target in targets if getattr(target, "namespace", "") == "saccade"})
    if own:
        raise UsageError(
            f"{model} cannot be written as ONNX, which has no word for its {', '.join(own)}; use --to torch, or train "
            "atss_small, whose operations ONNX has"
        )
    if not all(importlib.util.find_spec(m) for m in ("onnx", "onnxscript", "onnxruntime")):
        raise UsageError(f"export to onnx needs more packages: {how_to_install('deploy')} (or use --to torch)")


def _nodes(part: nn.Module) -> list[torch.fx.Node]:
    return list(part.graph.nodes) if isinstance(part, torch.fx.GraphModule) else []


def _write_onnx(program: Any, inputs: tuple[Tensor, ...], target: Path, trained: Trained) -> list[Tensor]:
    """Write an ONNX file with classes and preprocessing as metadata; returns what onnxruntime computes with it."""
    import onnxruntime

    try:
        exported: Any = torch.onnx.export(program, inputs, dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"this model cannot be written as ONNX ({reason}); use --to torch") from error
    exported.model.metadata_props.update(
        {
            "classes": json.dumps(trained.classes),
            "task": trained.task,
            "preprocessing": json.dumps(trained.preprocessing.to_json()),
            "suppression": _suppression(trained.task) or "",
        }
    )
    write_whole(target, lambda temporary: exported.save(temporary))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    given = zip(session.get_inputs(), inputs, strict=True)
    answers = session.run(None, {place.name: tensor.numpy() for place, tensor in given})
    return [torch.from_numpy(answer) for answer in answers]


def _outputs(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _input_size(trained: Trained, size: str | int | tuple[int, int] | None) -> tuple[int, int]:
    if size is not None:
        return height_width(parse_size(size))
    return trained.preprocessing.size or (ANY_SIZE, ANY_SIZE)
