"""A model as a torch.fx graph with the shape of every value, for images of one size.

torch.fx and not torch.export: export writes sizes that the code reads from a tensor as numbers, so
`x.view(n, g, c // g)` could no longer be told from `x.view(n, 2, 29)`, which no other size fits.
"""

import copy
import inspect
import linecache
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mobilenas.errors import MobileNASError

BATCH = 2
"""Images in the traced batch: not 1, which would hide what is broadcast over the batch."""

_TORCH = str(Path(torch.__file__).parent / "_")[:-1]  # with a slash: torchvision is another folder
_KNOWN_LAYERS = (_ConvNd, nn.Linear, _NormBase)


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What one forward pass in evaluation mode computes."""

    graph: fx.Graph
    """Nodes in the order they run; `node.meta["line"]` is (file, line number)."""
    modules: Mapping[str, nn.Module]
    """Modules of a copy without data, by name."""
    names: Mapping[int, str]
    """Name of each parameter and buffer of that copy by its id."""
    results: Mapping[fx.Node, Any]
    """What each node gives: tensors without data, numbers, or tuples of them."""


def trace(model: nn.Module, *, image_size: int, in_channels: int = 3) -> Traced:
    """Trace `model` for images [N, in_channels, image_size, image_size].

    MobileNASError names the line that breaks the trace, what refuses the image size, weights that
    the forward pass does not use, and an output that is no single tensor [N, classes].
    """
    twin = without_data(model)
    names = _tensor_names(twin)
    graph = _graph(twin)
    modules = dict(twin.named_modules())
    image = torch.empty(BATCH, in_channels, image_size, image_size, device="meta")
    traced = Traced(graph=graph, modules=modules, names=names, results=_run(graph, modules, image))
    _check_output(traced)
    _check_all_used(traced)
    return traced


def without_data(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose tensors have shapes and no data (meta device)."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        empty = tensor.detach().to("meta")
        empty = empty.float() if empty.is_floating_point() else empty  # as the traced images
        memo[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo).eval()


def where(node: fx.Node) -> str:
    """Say which module computes a node, and on which line."""
    stack = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    module = str(node.target) if node.op == "call_module" else (stack[-1] if stack else "")
    file, line = node.meta["line"]
    return f"{module or 'the model'} ({file}:{line})"


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        # A subclass of a convolution is still one: it pads, or standardizes its weights.
        known = isinstance(module, _KNOWN_LAYERS) and {*module._parameters} == {"weight", "bias"}
        return known or super().is_leaf_module(module, name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and _is_inner(frame.f_code.co_filename):
            frame = frame.f_back
        # fx has a far slower way to note this
        node.meta["line"] = (
            ("?", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
        )
        return node


def _is_inner(file: str) -> bool:
    return file.startswith(_TORCH) or file == __file__


def _graph(twin: nn.Module) -> fx.Graph:
    inputs = list(inspect.signature(twin.forward).parameters.values())
    needed = [item.name for item in inputs if item.default is item.empty]
    if len(needed) != 1:
        raise MobileNASError(
            f"{type(twin).__name__}.forward takes {', '.join(needed) or 'nothing'}; "
            "it must take one batch of images"
        )
    given = {item.name: item.default for item in inputs if item.default is not item.empty}
    try:
        return _Tracer().trace(twin, given)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        file, line = _last_line(error.__traceback__)
        raise MobileNASError(
            f"{type(twin).__name__} cannot be traced: {reason.rstrip('.')}; it breaks at "
            f"{file}:{line}: {linecache.getline(file, line).strip()}"
        ) from error


def _last_line(traceback: TracebackType | None) -> tuple[str, int]:
    """Innermost line that is neither torch's nor this file's."""
    found = ("?", 0)
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not _is_inner(file):
            found = (file, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def _run(graph: fx.Graph, modules: Mapping[str, nn.Module], image: Tensor) -> dict[fx.Node, Any]:
    results: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), results.__getitem__)
        try:
            with image.device:  # tensors that the code makes have no data either
                results[node] = _result(node, modules, None if results else image, args, kwargs)
        except Exception as error:
            side, reason = image.shape[-1], str(error).partition("\n")[0]
            raise MobileNASError(
                f"the model does not take {side}x{side} images of {image.shape[1]} channels: "
                f"{reason or type(error).__name__}, at {where(node)}"
            ) from error
    return results


def _result(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    image: Tensor | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    target: Any = node.target
    if node.op == "placeholder":
        # every further input stands at its default
        return image if image is not None else (args[0] if args else None)
    if node.op == "get_attr":
        owner, _, name = target.rpartition(".")
        return getattr(modules[owner], name).to("meta")  # as it is, but for a constant of the code
    if node.op == "call_module":
        if isinstance(modules[target], _NormBase):
            return args[0]  # keeps its shape; on the meta device it is by far the slowest layer
        return modules[target](*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return args[0] if node.op == "output" else target(*args, **kwargs)


def _check_output(traced: Traced) -> None:
    (last,) = (node for node in traced.graph.nodes if node.op == "output")
    result = traced.results[last]
    if not isinstance(result, Tensor):
        kind = type(result).__name__.removeprefix("immutable_")  # of torch.fx
        count = f" of {len(result)} values" if isinstance(result, dict | tuple | list) else ""
        raise MobileNASError(f"the model gives a {kind}{count}; it must give one tensor of logits")
    if result.dim() != 2 or len(result) != BATCH:
        shape = ", ".join(
            ["N" if len(result) == BATCH else str(len(result)), *map(str, result.shape[1:])]
        )
        raise MobileNASError(
            f"the model gives a tensor [{shape}]; it must give logits [N, classes]"
        )


def _tensor_names(twin: nn.Module) -> dict[int, str]:
    """Names of all parameters and buffers; refuse weights that two modules share."""
    names: dict[int, str] = {}
    for prefix, module in twin.named_modules():
        for key, tensor in _own_tensors(module):
            name = f"{prefix}.{key}" if prefix else key
            if id(tensor) in names:
                raise MobileNASError(
                    f"{name} is the same tensor as {names[id(tensor)]}; to share weights, "
                    "call one module twice"
                )
            names[id(tensor)] = name
    return names


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None:
            yield key, tensor


def _check_all_used(traced: Traced) -> None:
    unused = {traced.names[id(parameter)]: None for parameter in traced.modules[""].parameters()}
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            unused.pop(traced.names.get(id(traced.results[node]), ""), None)
        elif node.op == "call_module":
            for parameter in traced.modules[str(node.target)].parameters():
                unused.pop(traced.names[id(parameter)], None)
    for name in unused:
        raise MobileNASError(
            f"{name} takes no part in the forward pass in evaluation mode, so its size "
            "cannot follow; build the model without it (auxiliary classifiers off)"
        )
