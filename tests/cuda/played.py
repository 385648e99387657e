"""CUDA devices played on the CPU: tensors that say `cuda:0`, refuse to meet those of another device, have no numpy and
no data pointer, and compute for real on the CPU underneath.

Import this before torch, in a process of its own (guard.py).
Inside `with PlayedCuda() as gpu:` the device "cuda" works everywhere, and `gpu.waits` counts, by place in the source,
what would make a program wait for a real GPU.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from guard import PACKAGE  # before torch

# isort: split
import torch
from torch import Tensor
from torch.optim import optimizer as optimizers
from torch.utils import _foreach_utils as foreach
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

aten = torch.ops.aten
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._unsafe_index.Tensor,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}
COPIES = {"_to_copy", "_copy_from", "copy", "copy_", "_foreach_copy_", "lift_fresh", "set_", "record_stream"}
# whose result, or its shape, the program looks at
WAITING = {
    "nonzero",
    "unique_consecutive",
    "_unique2",
    "_unique",
    "unique_dim",
    "equal",
    "masked_select",
    "bincount",
    "_local_scalar_dense",
    "is_nonzero",
    "histc",
    "one_hot",
    "_assert_async",
}
NUMBERS = {"equal", "_local_scalar_dense", "is_nonzero", "is_same_size", "is_pinned"}  # which give no tensors
PRODUCTS = {"convolution", "convolution_backward", "_convolution", "mm", "addmm", "bmm", "baddbmm"}
# with an atomic sum on CUDA, of torch 2.13 (documentation of `torch.use_deterministic_algorithms`)
NOT_DETERMINISTIC = {
    "upsample_bilinear2d_backward",
    "_upsample_bilinear2d_aa_backward",
    "upsample_bicubic2d_backward",
    "upsample_linear1d_backward",
    "reflection_pad2d_backward",
    "adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "nll_loss2d_forward",
    "put_",
    "histc",
    "median",
    "grid_sampler_2d_backward",
    "cumsum",
}


class PlayedTensor(Tensor):
    """Outside on a CUDA device; inside (`inside`) a plain tensor on the CPU."""

    inside: Tensor

    @staticmethod
    def __new__(cls, real: Tensor, device: torch.device) -> PlayedTensor:
        tensor = Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=device,
        )
        tensor.inside = real
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any) -> Any:
        return self.numpy()

    def __repr__(self, **_: Any) -> str:
        return f"PlayedTensor({self.inside!r}, {self.device})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a tensor of a device is pickled")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not PlayedCuda.now:
            raise RuntimeError("a played tensor is used after the play")
        return PlayedCuda.now[-1].play(func, args, kwargs or {})


class PlayedEvent:
    """A mark in the course of a device's work."""

    def record(self, stream: Any = None) -> None:
        """Nothing is ever on its way here."""

    def synchronize(self) -> None:
        PlayedCuda.now[-1].wait("event")


class PlayedStream:
    """The order of a device's work."""

    def synchronize(self) -> None:
        PlayedCuda.now[-1].wait("stream")


class PlayedCuda(TorchDispatchMode):
    """The play. `touched`: the functions of torch.cuda that were called, of those that would start up the driver."""

    now: list[PlayedCuda] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.devices: set[torch.device] = set()  # on which something was made
        self.touched: set[str] = set()

    def __enter__(self) -> Any:
        self.stack = contextlib.ExitStack()
        self._stand_in_for_torch()
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        self.stack.callback(torch.__future__.set_swap_module_params_on_conversion, before)
        lift = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self.stack.callback(torch._C._set_only_lift_cpu_tensors, lift)
        self.now.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.now.pop()
        self.stack.close()

    def _stand_in_for_torch(self) -> None:
        seeds = [torch.arange(16, dtype=torch.uint8), torch.arange(16, dtype=torch.uint8)]

        def index(device: Any) -> int:
            return torch.device("cuda" if device is None else device).index or 0

        def restore(state: Tensor, device: Any = None) -> None:
            assert (type(state), state.dtype) == (Tensor, torch.uint8)
            seeds[index(device)] = state.clone()

        calls: dict[str, Any] = {
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "is_bf16_supported": lambda including_emulation=True: True,
            "get_device_name": lambda device=None: "a played GPU",
            "get_device_capability": lambda device=None: (9, 0),
            "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
            "mem_get_info": lambda device=None: (8 << 30, 8 << 30),
            "get_rng_state": lambda device=None: seeds[index(device)].clone(),
            "set_rng_state": restore,
            "synchronize": lambda device=None: self.wait("synchronize"),
            "empty_cache": lambda: None,
            "current_stream": lambda device=None: PlayedStream(),
            "Event": lambda *_, **__: PlayedEvent(),
        }

        def noted(name: str) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                self.touched.add(name)
                return calls[name](*args, **kwargs)

            return call

        free = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "is_initialized": lambda: bool(self.devices),
        }
        for name, value in (free | {name: noted(name) for name in calls}).items():
            self.stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for place in (optimizers, foreach):
            types = [*place._foreach_supported_types, PlayedTensor]
            self.stack.enter_context(mock.patch.object(place, "_foreach_supported_types", types))

    def wait(self, what: str) -> None:
        """The program would wait here until the device has done all it was asked."""
        self.waits[f"{what} at {_where()}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return self.play(func, args, kwargs or {})

    def play(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Run one operation of torch as the device would: refused, or on the CPU tensors inside."""
        if func is torch.ops.prim.device.default:
            return args[0].device
        flat, spec = tree_flatten((args, kwargs))
        played = [x for x in flat if isinstance(x, PlayedTensor)]
        wanted = kwargs.get("device")
        if not played and (wanted is None or torch.device(wanted).type != "cuda"):
            return func(*args, **kwargs)
        name = func._schema.name.split("::")[-1]
        if func.namespace == "saccade":  # the Python body of a custom operator, on the device's tensors
            from torch._library.custom_ops import OPDEFS

            with _again(self):
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with _again(self):
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        _refuse_mixtures(func, name, args, flat)
        _refuse_what_has_no_deterministic_form(name, args)
        place = _place_of_result(func, name, args, kwargs, played)
        self._count_waits(func, name, args, kwargs, place.type == "cuda")
        inner = [x.inside if isinstance(x, PlayedTensor) else x for x in flat]
        real_args, real_kwargs = tree_unflatten(inner, spec)
        if wanted is not None:
            real_kwargs["device"] = torch.device("cpu")
        real_kwargs.pop("pin_memory", None)
        out = _compute(func, name, real_args, real_kwargs)
        if place.type != "cuda" or name in NUMBERS:
            return out
        self.devices.add(place)
        return _wrapped(func, args, kwargs, out, place, flat)

    def _count_waits(self, func: Any, name: str, args: tuple, kwargs: dict, on_device: bool) -> None:
        from_device = isinstance(args[0], PlayedTensor) if args else False
        if name == "_to_copy" and from_device != on_device and not kwargs.get("non_blocking"):
            self.wait("copy")
        elif name in ("copy_", "copy"):
            blocking = not (len(args) > 2 and args[2]) and not kwargs.get("non_blocking")
            if from_device != isinstance(args[1], PlayedTensor) and blocking:
                self.wait("copy")
        elif name in WAITING or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
            self.wait(name)
        elif func in INDEXED:
            rows = [row for row in args[1] if isinstance(row, Tensor)]
            if any(row.dtype in (torch.bool, torch.uint8) for row in rows):
                self.wait("boolean index")
            if any(not isinstance(row, PlayedTensor) for row in rows):
                self.wait("index from the CPU")


@contextlib.contextmanager
def _again(mode: TorchDispatchMode) -> Iterator[None]:
    TorchDispatchMode.__enter__(mode)
    try:
        yield
    finally:
        TorchDispatchMode.__exit__(mode, None, None, None)


def _where() -> str:
    """The innermost line of the package that led here; of torch or accelerate where they were not called by one."""
    frame, other = sys._getframe(2), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return f"{file.removeprefix(PACKAGE)}:{frame.f_lineno}"
        if not other and any(part in file for part in ("/accelerate/", "/amp/", "/optim/", "/clip_grad")):
            other = f"{file.rpartition('/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return other or "?"


def _refuse_mixtures(func: Any, name: str, args: tuple, flat: Sequence[Any]) -> None:
    """Tensors of two devices, but where torch allows it: copies, indices from the CPU, numbers (without dimensions)."""
    if name in COPIES:
        return
    tensors = [x for x in flat if isinstance(x, Tensor)]
    if func in INDEXED:
        base = args[0]
        rows = [row for row in args[1] if row is not None]
        if not isinstance(base, PlayedTensor) and any(isinstance(row, PlayedTensor) for row in rows):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        tensors = [base, *(x for x in args[2:3] if isinstance(x, Tensor))]
    places = {tensor.device for tensor in tensors if tensor.device.type != "cpu"}
    lone = [t for t in tensors if t.device.type == "cpu" and t.dim() > 0]
    if len(places) > 1 or (places and lone):
        found = ", ".join(f"{list(t.shape)} on {t.device}" for t in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two: {func}: {found}")


def _refuse_what_has_no_deterministic_form(name: str, args: tuple) -> None:
    if name not in NOT_DETERMINISTIC or not torch.are_deterministic_algorithms_enabled():
        return
    if name == "nll_loss2d_forward" and args[3] == 0:  # without reduction there is nothing to add up
        return
    if name == "cumsum" and not args[0].is_floating_point():
        return
    raise RuntimeError(
        f"{name} does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms(True)'."
    )


def _place_of_result(func: Any, name: str, args: tuple, kwargs: dict, played: Sequence[PlayedTensor]) -> torch.device:
    wanted = kwargs.get("device")
    if wanted is not None:
        device = torch.device(wanted)
        return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
    if func in INDEXED or name == "copy_":
        return args[0].device
    return played[0].device


def _compute(func: Any, name: str, args: tuple, kwargs: dict) -> Any:
    """On the CPU; in float32 what it has no kernels for in half precision."""
    flat, spec = tree_flatten((args, kwargs))
    kinds = {x.dtype for x in flat if isinstance(x, Tensor)}
    low = kinds & {torch.float16, torch.bfloat16}
    if name in PRODUCTS and len(kinds) > 1:
        raise RuntimeError(f"{name} of {kinds}: expected scalar types to be the same")
    try:
        if not (low and name in PRODUCTS):
            return func(*args, **kwargs)
    except (RuntimeError, NotImplementedError) as error:
        if not low or "not implemented for" not in str(error):
            raise
    kind = low.pop()
    exact = [x.float() if isinstance(x, Tensor) and x.dtype == kind else x for x in flat]
    args, kwargs = tree_unflatten(exact, spec)
    return tree_map_only(Tensor, lambda t: t.to(kind) if t.dtype == torch.float32 else t, func(*args, **kwargs))


def _wrapped(func: Any, args: tuple, kwargs: dict, out: Any, place: torch.device, flat: Sequence[Any]) -> Any:
    """The results as tensors of the device; those that were written into are the arguments themselves."""
    written = {}
    for i, argument in enumerate(func._schema.arguments):
        value = kwargs.get(argument.name, args[i] if i < len(args) else None)
        if argument.alias_info is not None and argument.alias_info.is_write:
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if isinstance(tensor, PlayedTensor) and tensor.inside.shape != tensor.shape:
                    raise NotImplementedError(f"{func} changes the shape of {list(tensor.shape)} in place")
            written |= dict.fromkeys(argument.alias_info.before_set, value)
    returns = func._schema.returns
    view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    ordinary = view and not flat[0].is_inference()  # a view of an ordinary tensor is one, in inference mode too
    with torch.inference_mode(False) if ordinary else contextlib.nullcontext():
        made = tree_map_only(Tensor, lambda t: t if isinstance(t, PlayedTensor) else PlayedTensor(t, place), out)
    if not any(r.alias_info is not None and r.alias_info.is_write for r in returns):
        return made
    each = made if isinstance(made, tuple | list) else (made,)
    results = [
        written[next(iter(r.alias_info.before_set))] if r.alias_info is not None and r.alias_info.is_write else one
        for r, one in zip(returns, each, strict=True)
    ]
    return results[0] if len(returns) == 1 else tuple(results)


def real(tensor: Tensor) -> Tensor:
    """The CPU tensor inside, for comparisons."""
    return tensor.inside if isinstance(tensor, PlayedTensor) else tensor
