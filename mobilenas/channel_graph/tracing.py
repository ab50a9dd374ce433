"""Traces a model to a torch.fx graph with the shape of every value, for one image size.

torch.fx, not torch.export, because export records sizes that the code reads from a tensor as
numbers. Then `x.view(n, g, c // g)` could not be told from `x.view(n, 2, 29)`, which fits no other
size.
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
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from mobilenas.core.errors import MobileNASError, first_line
from mobilenas.core.settings import counted

BATCH = 2
"""Batch size in tracing: not 1, which would hide broadcasting over the batch."""

_TORCH = str(Path(torch.__file__).parent / "_")[:-1]  # ends in a slash, unlike torchvision
_KNOWN_LAYERS = (_ConvNd, nn.Linear, _NormBase)
_STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
LAYER_FUNCTIONS = ("conv1d", "conv2d", "conv3d", "linear")
"""Functions by which a layer's own code computes it."""

NodeValue = Any
"""Value of a node: a tensor, number or string, or a structure of these."""


@dataclass(frozen=True, kw_only=True)
class Traced:
    """The forward pass of a model in evaluation mode."""

    graph: fx.Graph
    """Nodes in the order they run; `node.meta["line"]` is (file, line number)."""
    modules: Mapping[str, nn.Module]
    """Modules of a copy of the model without data, by name."""
    names: Mapping[int, str]
    """Names of that copy's parameters and buffers, by id."""
    results: Mapping[fx.Node, NodeValue]
    """Value of each node: tensors without data, numbers, or tuples of these."""

    def layer(self, node: fx.Node) -> tuple[str, nn.Module] | None:
        """Return the layer that a node runs; None for other nodes.

        It is called as a module, or, in a subclass that does more, as a function.
        """
        if node.op == "call_module":
            return str(node.target), self.modules[str(node.target)]
        weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
        name = getattr(node.target, "__name__", "")
        if name not in LAYER_FUNCTIONS or not isinstance(weight, fx.Node):
            return None
        owner, _, own = str(weight.target).rpartition(".")
        module = self.modules.get(owner)
        kind = nn.Linear if name == "linear" else _ConvNd
        known = weight.op == "get_attr" and own == "weight" and isinstance(module, kind)
        return (owner, module) if known and module is not None else None


def trace(model: nn.Module, *, image_size: int, in_channels: int = 3) -> Traced:
    """Trace `model` for images [N, in_channels, image_size, image_size].

    MobileNASError names a line that cannot be traced, a layer that does not accept the image size,
    weights that the forward pass does not use, or an output other than one tensor [N, classes].
    """
    _check_plain(model)
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
    memo: dict[int, NodeValue] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        empty = tensor.detach().to("meta")
        empty = empty.float() if empty.is_floating_point() else empty  # as are the traced images
        memo[id(tensor)] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo).eval()


def where(node: fx.Node) -> str:
    """Return the module that computes a node, and the line."""
    stack = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    module = str(node.target) if node.op == "call_module" else (stack[-1] if stack else "")
    file, line = node.meta["line"]
    return f"{module or 'the model'} ({file}:{line})"


class _Tracer(fx.Tracer):
    def __init__(self, layers: set[nn.Module]) -> None:
        super().__init__()
        self._layers = layers

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        if isinstance(module, _KNOWN_LAYERS) and {*module._parameters} == {"weight", "bias"}:
            return module in self._layers
        return super().is_leaf_module(module, name)

    def create_node(self, *args: NodeValue, **kwargs: NodeValue) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and _is_inner(frame.f_code.co_filename):
            frame = frame.f_back
        # fx's own way to record this is far slower
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
    layers = {module for module in twin.modules() if _is_layer(module)}
    for module in twin.modules():
        if isinstance(module, _NormBase):
            # its check of the rank would break tracing of a subclass
            module._check_input_dim = lambda _: None  # type: ignore[method-assign]
    try:
        return _Tracer(layers).trace(twin, given)
    except Exception as error:  # the user's code
        file, line = last_line(error.__traceback__)
        raise MobileNASError(
            f"{type(twin).__name__} cannot be traced: {first_line(error).rstrip('.')}; it breaks "
            f"at {file}:{line}: {linecache.getline(file, line).strip()}"
        ) from error


def _check_plain(model: nn.Module) -> None:
    """Raise, with the name, for modules that can be neither copied nor traced."""
    for name, module in model.named_modules():
        named = name or "the model"
        wrapped = isinstance(module, torch.jit.ScriptModule | nn.DataParallel)
        if wrapped or hasattr(module, "_orig_mod"):  # torch.compile keeps the module there
            raise MobileNASError(
                f"{named} is a {type(module).__name__}; give the nn.Module that it was made from"
            )
        computed = [
            key
            for key, value in vars(module).items()
            if isinstance(value, Tensor) and value.grad_fn is not None
        ]
        if is_parametrized(module):
            computed += module.parametrizations
        if computed:
            raise MobileNASError(
                f"{computed[0]} of {named} is computed from other parameters (weight_norm, "
                "spectral_norm, pruning); remove that first, as with "
                "torch.nn.utils.remove_weight_norm or parametrize.remove_parametrizations"
            )


def _is_layer(module: nn.Module) -> bool:
    """Whether a module treats channels as its class, convolution, linear layer or norm, does.

    That is true for a subclass that pads, standardizes its weights or applies an activation. Others
    are traced: those with inner layers or buffers, those that use their weights more than once, and
    those that behave differently at other sizes.
    """
    if not isinstance(module, _KNOWN_LAYERS):
        return False
    if type(module).__module__.startswith("torch.") or isinstance(module, _ConvTransposeNd):
        return True  # transposed convolutions, so that the error names them
    inner = [child for part in module.children() for child in (*part.parameters(), *part.buffers())]
    if inner or not {*module._buffers} <= _STATISTICS:
        return False
    return isinstance(module, _NormBase) or _scales(module)


class _LayerCalls(TorchFunctionMode):
    """Counts the convolutions and linear layers that run in its context."""

    count = 0

    def __torch_function__(
        self,
        func: NodeValue,
        types: NodeValue,
        args: NodeValue = (),
        kwargs: dict[str, NodeValue] | None = None,
    ) -> NodeValue:
        self.count += getattr(func, "__name__", "") in LAYER_FUNCTIONS
        return func(*args, **(kwargs or {}))


def _scales(layer: _ConvNd | nn.Linear) -> bool:
    """Whether a layer runs once and also works with other numbers of channels (without data)."""
    twin = copy.deepcopy(layer)
    if isinstance(twin, nn.Linear):
        inputs, outputs, blocks = 2 * twin.in_features, 3 * twin.out_features, 1
        twin.in_features, twin.out_features = inputs, outputs
    else:
        depthwise = twin.groups == twin.in_channels > 1
        inputs, outputs = 2 * twin.in_channels, (2 if depthwise else 3) * twin.out_channels
        blocks = inputs if depthwise else twin.groups
        twin.in_channels, twin.out_channels, twin.groups = inputs, outputs, blocks
    _, _, *kernel = layer.weight.shape
    twin.weight = nn.Parameter(layer.weight.new_empty(outputs, inputs // blocks, *kernel))
    if layer.bias is not None:
        twin.bias = nn.Parameter(layer.bias.new_empty(outputs))
    calls = _LayerCalls()
    try:
        with calls:
            result = twin(layer.weight.new_empty(BATCH, inputs, *(64 for _ in kernel)))
    except Exception:  # the user's code; tracing it will name the problem
        return False
    return calls.count == 1 and isinstance(result, Tensor) and result.shape[1:2] == (outputs,)


def last_line(traceback: TracebackType | None) -> tuple[str, int]:
    """Return the innermost line that is neither torch's nor this file's."""
    found = ("?", 0)
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not _is_inner(file):
            found = (file, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def _run(
    graph: fx.Graph, modules: Mapping[str, nn.Module], image: Tensor
) -> dict[fx.Node, NodeValue]:
    results: dict[fx.Node, NodeValue] = {}
    for node in graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), results.__getitem__)
        try:
            with image.device:  # tensors that the code creates have no data either
                results[node] = _result(node, modules, None if results else image, args, kwargs)
        except Exception as error:  # the user's code
            side = image.shape[-1]
            raise MobileNASError(
                f"the model does not take {side}x{side} images of "
                f"{counted(image.shape[1], 'channel')}: "
                f"{first_line(error)}, at {where(node)}"
            ) from error
    return results


def _result(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    image: Tensor | None,
    args: tuple[NodeValue, ...],
    kwargs: dict[str, NodeValue],
) -> NodeValue:
    target: NodeValue = node.target
    if node.op == "placeholder":
        # further inputs have their defaults
        return image if image is not None else (args[0] if args else None)
    if node.op == "get_attr":
        owner, _, name = target.rpartition(".")
        return getattr(modules[owner], name).to("meta")  # no-op except for constants in the code
    if node.op == "call_module":
        if isinstance(modules[target], _NormBase):
            return args[0]  # it keeps the shape, and is by far the slowest layer on the meta device
        return modules[target](*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return args[0] if node.op == "output" else target(*args, **kwargs)


def _check_output(traced: Traced) -> None:
    (last,) = (node for node in traced.graph.nodes if node.op == "output")
    result = traced.results[last]
    if not isinstance(result, Tensor):
        kind = type(result).__name__.removeprefix("immutable_")  # of torch.fx
        count = (
            f" of {counted(len(result), 'value')}"
            if isinstance(result, dict | tuple | list)
            else ""
        )
        raise MobileNASError(f"the model gives a {kind}{count}; it must give one tensor of logits")
    if result.dim() != 2 or len(result) != BATCH:
        shape = ", ".join(
            ["N" if len(result) == BATCH else str(len(result)), *map(str, result.shape[1:])]
        )
        raise MobileNASError(
            f"the model gives a tensor [{shape}]; it must give logits [N, classes]"
        )


def _tensor_names(twin: nn.Module) -> dict[int, str]:
    """Return names of all parameters and buffers; raise for weights shared by two modules."""
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
