"""A network made ready to predict: the same function of the image, in fewer and cheaper steps.

Batch norms become part of the convolution before them, or one of their own; activations and residual sums become part
of the convolution that feeds them; weights are cast once instead of at every call. What follows what is read from a
symbolic trace (torch.fx) of the largest parts that can be traced: the whole network where `forward` asks nothing of its
values, else its trunk, heads and blocks. What cannot be traced runs as it is written, its layers replaced one by one.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from saccade.layers.conv import refuse_small
from saccade.layers.frozen_norm import FrozenBatchNorm2d
from saccade.layers.normalize import Normalize
from saccade.ops.fused_conv import Activation, FusedConv2d, can_fuse

_PLAIN: dict[Any, Activation] = {  # activations without numbers of their own: modules, functions, methods
    nn.ReLU: ("relu", ()),
    F.relu: ("relu", ()),
    torch.relu: ("relu", ()),
    "relu": ("relu", ()),
    "relu_": ("relu", ()),
    nn.ReLU6: ("hardtanh", (0.0, 6.0)),
    F.relu6: ("hardtanh", (0.0, 6.0)),
    nn.Hardswish: ("hardswish", ()),
    F.hardswish: ("hardswish", ()),
    nn.SiLU: ("swish", ()),
    F.silu: ("swish", ()),
}
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
_CASTED = (nn.Linear, nn.ConvTranspose2d)


class RowNormalize(nn.Module):
    """`Normalize` for images that are channels last in memory, some ten times as fast on a CPU.

    Three channels are too short a row to be vectorised: here mean and deviation are repeated along a row of pixels.
    """

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        deviation = normalize.get_buffer("std").flatten().clone()
        self.scale = 1 / deviation
        self.shift = -normalize.get_buffer("mean").flatten() / deviation

    def forward(self, images: Tensor) -> Tensor:
        """[b, c, H, W] -> [b, c, H, W], channels last."""
        width = images.shape[3]
        last = images.permute(0, 2, 3, 1)
        rows = last.reshape(-1, width * last.shape[3])
        normal = torch.addcmul(self.shift.repeat(width), rows, self.scale.repeat(width))
        return normal.view(last.shape).permute(0, 3, 1, 2)


class OutputLinear(nn.Module):
    """The last layer of a classifier in float32 whatever the autocast type: logits rounded to bfloat16 would tie."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = layer.weight.detach().clone()
        self.bias = None if layer.bias is None else layer.bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """[..., features] of any floating type -> [..., outputs] float32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


def prepare_for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of `model` that predicts the same, faster; in evaluation mode, without gradients.

    `model` is not changed in any way; tensors that the copy keeps as they are it shares. With bfloat16,
    convolutions and linear layers hold weights of that type; call the copy under autocast, so that everything else
    chooses its type as it does for the model itself.

    Args:
        model: any network on any device, as trained.
        dtype: of the weights of convolutions and of linear layers but the last: float32 or bfloat16.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    network = copy.deepcopy(model, shared).eval()
    network = _replace(network, FrozenBatchNorm2d, _thawed)
    network = _replace(network, Normalize, RowNormalize)
    graphs: list[tuple[nn.Module, fx.Graph]] = []
    _trace(network, graphs)
    for module, graph in graphs:
        _skip_idle_layers(module, graph)
        _fold_norms(module, graph, dtype)
        if dtype != torch.float32:
            _keep_outputs_exact(module, graph)
    network = _replace(network, nn.Conv2d, lambda conv: FusedConv2d(conv, dtype) if can_fuse(conv) else conv)
    for layer in network.modules():
        if isinstance(layer, (*_CASTED, nn.Conv2d)):
            _cast(layer, dtype)
    for module, graph in graphs:
        overwritten = _overwritten(module, graph)
        if not any(len(node.users) > 1 for node in overwritten):
            _fuse_sums(module, graph)
        _fuse_activations(module, graph)
        _join_step_by_step(graph, overwritten)
        _call_directly(module, graph)
        graph.lint()
        # The module keeps its other methods and attributes: only what happens when it is called is new.
        module.forward = fx.GraphModule(module, graph).forward
    return network


def _trace(module: nn.Module, graphs: list[tuple[nn.Module, fx.Graph]]) -> None:
    """Add the graph of `module`, or of those of its parts that have one."""
    if _is_leaf(module) or not any(isinstance(part, nn.Conv2d | nn.Linear) for part in module.modules()):
        return
    tracer = fx.Tracer(autowrap_functions=(refuse_small,))
    tracer.is_leaf_module = lambda part, _: _is_leaf(part)  # type: ignore[assignment, method-assign]
    called: list[str] = []
    try:
        with torch.no_grad():  # what serves gradients alone (layers/layout.py) is no part of it
            graphs.append((module, tracer.trace(module)))
        called = [f"{node.target}." for node in graphs[-1][1].nodes if node.op == "call_module"]
    except Exception:  # whatever a forward raises that asks a symbol for its value: then it is not traced
        pass
    for name, child in module.named_children():
        if not any(target.startswith(f"{name}.") for target in called):  # left to other methods, such as a trunk's tail
            _trace(child, graphs)


def _is_leaf(module: nn.Module) -> bool:
    torchs_own = type(module).__module__.startswith("torch.nn.")
    return isinstance(module, RowNormalize) or (
        torchs_own and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    )


def _replace(network: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> nn.Module:
    """Every part of exactly this kind by what `make` makes of it; one that stands in two places stays one."""
    if type(network) is kind:
        return make(network)
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is kind:
                if child not in made:
                    made[child] = make(child)
                parent._modules[name] = made[child]
    return network


def _thawed(frozen: FrozenBatchNorm2d) -> nn.BatchNorm2d:
    """The ordinary batch norm that computes the same in evaluation mode."""
    mean, variance = frozen.get_buffer("running_mean"), frozen.get_buffer("running_var")
    norm = nn.BatchNorm2d(mean.numel(), frozen.eps, device=mean.device).eval()
    norm.weight = nn.Parameter(frozen.get_buffer("weight"), requires_grad=False)
    norm.bias = nn.Parameter(frozen.get_buffer("bias"), requires_grad=False)
    norm.running_mean, norm.running_var = mean, variance
    return norm


def _cast(layer: nn.Module, dtype: torch.dtype) -> None:
    """New parameters of this type, which leave alone those of the model.

    They are copies even where the type stays: a tensor of a file keeps the whole file in memory.
    """
    for name, value in layer.named_parameters(recurse=False):
        setattr(layer, name, nn.Parameter(value.detach().to(dtype, copy=True), requires_grad=False))


def _called(module: nn.Module, node: fx.Node) -> nn.Module | None:
    """The part that a node calls."""
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _drop(graph: fx.Graph, node: fx.Node, instead: fx.Node) -> None:
    node.replace_all_uses_with(instead)
    graph.erase_node(node)


def _skip_idle_layers(module: nn.Module, graph: fx.Graph) -> None:
    """Dropout and identities do nothing here."""
    for node in list(graph.nodes):
        part = _called(module, node)
        idle = isinstance(part, nn.Dropout | nn.Identity) or (
            node.op == "call_function" and node.target is F.dropout and not _argument(node, 2, "training", True)
        )
        if idle and isinstance(node.args[0], fx.Node):
            _drop(graph, node, node.args[0])


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _fold_norms(module: nn.Module, graph: fx.Graph, dtype: torch.dtype) -> None:
    """conv, batch norm -> conv, where nothing else sees what lies between and both are called once.

    A norm that stands elsewhere before an activation becomes a convolution of every channel with a single weight: one
    pass over the map for both.
    """
    calls = Counter(part for part in (_called(module, node) for node in graph.nodes) if part is not None)
    for node in list(graph.nodes):
        norm, before = _called(module, node), node.args[0] if node.args else None
        if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or not isinstance(before, fx.Node):
            continue
        conv = _called(module, before)
        alone = len(before.users) == 1 and calls[norm] == 1
        if alone and isinstance(conv, nn.Conv2d) and can_fuse(conv) and calls[conv] == 1:
            folded = fuse_conv_bn_eval(conv, norm)
            module.set_submodule(str(before.target), FusedConv2d(folded, dtype))
            module.set_submodule(str(node.target), nn.Identity())
            _drop(graph, node, before)
        elif len(node.users) == 1 and _activation(module, next(iter(node.users))) is not None:
            module.set_submodule(str(node.target), FusedConv2d(_depthwise(norm), dtype))


def _depthwise(norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The 1x1 convolution within each channel that computes what the norm does in evaluation mode."""
    channels, device = norm.num_features, norm.running_mean.device if norm.running_mean is not None else None
    same = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device=device).eval()
    nn.init.ones_(same.weight)
    return fuse_conv_bn_eval(same, norm)


def _keep_outputs_exact(module: nn.Module, graph: fx.Graph) -> None:
    """Linear layers whose result is handed out as it is, or as float32, compute in float32."""
    for node in graph.nodes:
        last = all(user.op == "output" or user.target == "float" for user in node.users)
        layer = _called(module, node)
        if last and type(layer) is nn.Linear:
            module.set_submodule(str(node.target), OutputLinear(layer))


def _overwritten(module: nn.Module, graph: fx.Graph) -> set[fx.Node]:
    """Values that some step changes in place."""
    found = set()
    for node in graph.nodes:
        method = node.op == "call_method" and str(node.target).endswith("_")
        inplace = node.kwargs.get("inplace", False) or node.target is operator.iadd
        inplace = inplace or getattr(_called(module, node), "inplace", False)
        if (method or inplace) and isinstance(node.args[0], fx.Node):
            found.add(node.args[0])
    return found


def _fuse_sums(module: nn.Module, graph: fx.Graph) -> None:
    """conv(x) + y -> conv(x, y), computed where the sum stood."""
    for node in list(graph.nodes):
        if node.target not in _SUMS or len(node.args) != 2 or node.kwargs or node.args[0] is node.args[1]:
            continue
        if not all(isinstance(value, fx.Node) for value in node.args):
            continue
        for conv, other in (node.args, node.args[::-1]):
            if _open(module, conv) and len(conv.users) == 1:
                with graph.inserting_before(node):
                    fused = graph.call_module(str(conv.target), (conv.args[0], other))
                _drop(graph, node, fused)
                graph.erase_node(conv)
                break


def _open(module: nn.Module, node: fx.Node) -> bool:
    """Whether a node is a convolution to which nothing has been added yet."""
    return isinstance(_called(module, node), FusedConv2d) and len(node.args) == 1 and not node.kwargs


def _fuse_activations(module: nn.Module, graph: fx.Graph) -> None:
    """activation(conv(x)) -> conv(x, activation=...)."""
    for node in list(graph.nodes):
        activation = _activation(module, node)
        conv = node.args[0] if node.args else None
        if activation is None or not isinstance(conv, fx.Node) or len(conv.users) > 1:
            continue
        if isinstance(_called(module, conv), FusedConv2d) and not conv.kwargs:
            conv.kwargs = {"activation": activation}
            _drop(graph, node, conv)


def _activation(module: nn.Module, node: fx.Node) -> Activation | None:
    """The activation that a node is, in the words of `FusedConv2d`."""
    part = _called(module, node)
    if isinstance(part, nn.LeakyReLU):
        return "leaky_relu", (part.negative_slope,)
    if node.op == "call_function" and node.target is F.leaky_relu:
        return "leaky_relu", (_argument(node, 1, "negative_slope", 0.01),)
    if part is not None:
        return _PLAIN.get(type(part))
    return _PLAIN.get(node.target) if node.op in ("call_function", "call_method") else None


def _call_directly(module: nn.Module, graph: fx.Graph) -> None:
    """self.block.conv(x) -> conv.forward(x): without the ways to the part and through its hooks, 8 us a layer."""
    for node in list(graph.nodes):
        part = _called(module, node)
        if isinstance(part, FusedConv2d):
            with graph.inserting_before(node):
                call = graph.call_function(part.forward, node.args, node.kwargs)
            _drop(graph, node, call)


def _join_step_by_step(graph: fx.Graph, overwritten: set[fx.Node]) -> None:
    """cat(a, b, c) -> cat(ab, c) where ab = cat(a, b) has been made already, as in dense blocks."""
    made: dict[tuple[fx.Node, ...], fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not torch.cat or _argument(node, 1, "dim", 0) != 1:
            continue
        maps = node.args[0]
        if not isinstance(maps, list | tuple) or not all(isinstance(m, fx.Node) for m in maps):
            continue
        if len(maps) == 1 and not overwritten & {maps[0], node}:
            _drop(graph, node, maps[0])
            continue
        made[tuple(maps)] = node
        start = next((tuple(maps[:n]) for n in range(len(maps) - 1, 1, -1) if tuple(maps[:n]) in made), None)
        if start is not None and not overwritten & {*start, made[start]}:
            node.args = ([made[start], *maps[len(start) :]], 1)
            node.kwargs = {}
