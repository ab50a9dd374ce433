"""The rules for channels of all supported operations, and the extraction of a model's graph.

The dependencies are those of DepGraph (Fang et al. 2023), section 3. Here they are between runs of
channels, so that resizing needs no special cases for concatenation, flattening and shuffles.
"""

import math
from collections.abc import Callable

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mobilenas.channel_graph import shapes
from mobilenas.channel_graph.extraction import NORM_TENSORS, Call, Extraction, Length, Value
from mobilenas.channel_graph.groups import Graph
from mobilenas.channel_graph.tracing import NodeValue, Traced, trace, where
from mobilenas.channel_graph.variables import Layout, Unsupported
from mobilenas.core.errors import MobileNASError

Rule = Callable[[Extraction, Call], NodeValue]


def extract(model: nn.Module, *, image_size: int, in_channels: int = 3) -> Graph:
    """Find which channel sizes of a classification model are tied.

    `model` maps images [N, in_channels, image_size, image_size] to logits [N, classes]. It is
    traced in evaluation mode and not changed. MobileNASError if it cannot be traced, or has an
    unsupported operation.
    """
    traced = trace(model, image_size=image_size, in_channels=in_channels)
    e = Extraction(traced)
    known: dict[fx.Node, NodeValue] = {}
    for node in traced.graph.nodes:
        try:
            known[node] = _visit(e, traced, node, known)
        except Unsupported as error:
            name = _name(traced, node)
            raise MobileNASError(
                f"channels cannot be followed through {name} in {where(node)}: {error}"
            ) from error
    return e.graph(image_size, in_channels)


def _visit(
    e: Extraction, traced: Traced, node: fx.Node, known: dict[fx.Node, NodeValue]
) -> NodeValue:
    result = traced.results[node]
    if node.op == "placeholder":
        return _image(e, result) if not known else result
    if node.op == "get_attr":
        return e.parameter(result) if id(result) in traced.names else _plain(result)
    if node.op == "output":
        (logits,) = (known[value] for value in node.all_input_nodes)
        return e.fixed(logits.layouts[1], "class logits")
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
    call = Call(
        node=node,
        name=_name(traced, node),
        args=tuple(args),
        kwargs=dict(kwargs),
        result=result,
        module=traced.modules[str(node.target)] if node.op == "call_module" else None,
    )
    inputs = [known[value] for value in node.all_input_nodes]
    if not any(isinstance(value, Value | Length | tuple | list) for value in inputs):
        return _plain(result)
    return _checked(e, _rule(call)(e, call))


def _image(e: Extraction, image: Tensor) -> Value:
    channels = e.variables.new(image.shape[1], "input")
    e.variables.fix(channels, "channels of the images")
    return Value(shape=tuple(image.shape), layouts=((), channels, (), ()))


def _plain(result: NodeValue) -> NodeValue:
    """Return a result whose sizes depend on no channel count."""
    if isinstance(result, Tensor):
        return Value(shape=tuple(result.shape), layouts=((),) * result.dim())
    return result


def _name(traced: Traced, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(traced.modules[str(node.target)]).__name__
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return str(node.target)


def _checked(e: Extraction, result: NodeValue) -> NodeValue:
    """Check a rule's result against the current sizes."""
    if isinstance(result, Value):
        said = [e.variables.entries(layout) if layout else None for layout in result.layouts]
        if len(said) != len(result.shape) or any(
            size not in (None, known) for size, known in zip(said, result.shape, strict=True)
        ):
            raise Unsupported("its arguments are of a kind there is no rule for")
    return result


def _rule(call: Call) -> Rule:
    if isinstance(call.module, _ConvTransposeNd):
        raise Unsupported("there is no rule for this layer")
    if call.module is not None:
        for kinds, rule in _LAYERS:
            if isinstance(call.module, kinds):
                return rule
        if type(call.module).__module__ in _KEEPING_LAYERS:
            return keep
        raise Unsupported("there is no rule for this layer")
    name = call.name if call.name.startswith("_") else call.name.rstrip("_")
    source = str(getattr(call.node.target, "__module__", None) or "torch").partition(".")[0]
    known = call.node.op == "call_method" or source in _SOURCES
    if not known or name not in _FUNCTIONS:
        raise Unsupported("there is no rule for this operation")
    return _FUNCTIONS[name]


def convolution(e: Extraction, call: Call) -> Value:
    """Input and output channels are different groups, or the same for a depthwise convolution."""
    name, conv = _layer(e, call)
    assert isinstance(conv, _ConvNd)
    x, kernel = call.x, math.prod(conv.kernel_size)
    _check_positions(x, 1)
    inputs, outputs = e.sides(name, conv, e.channels(x, 1))
    depthwise = conv.groups == conv.in_channels > 1
    if not depthwise:
        e.variables.divide(inputs, conv.groups)
        e.variables.divide(outputs, conv.groups)
    e.counts(name, call, kernel, conv.out_channels, None if depthwise else conv.groups)
    return Value(shape=call.shape, layouts=(x.layouts[0], outputs, *x.layouts[2:]))


def linear(e: Extraction, call: Call) -> Value:
    """Like a convolution, over the last dimension."""
    name, layer = _layer(e, call)
    assert isinstance(layer, nn.Linear)
    x = call.x
    _check_positions(x, len(x.shape) - 1)
    _, outputs = e.sides(name, layer, e.channels(x, -1))
    e.counts(name, call, 1, layer.out_features, 1)
    return Value(shape=call.shape, layouts=(*x.layouts[:-1], outputs))


def _layer(e: Extraction, call: Call) -> tuple[str, nn.Module]:
    """Return the called layer, or the one whose weights were passed to F.conv2d or F.linear."""
    found = e.traced.layer(call.node)
    if found is None:
        raise Unsupported("its weight is no parameter of a convolution or linear layer")
    name, layer = found
    if call.module is None:
        bias = call.get(2, "bias")
        foreign = isinstance(bias, Value) and bias.name != f"{name}.bias"
        if foreign or call.get(6, "groups", 1) != getattr(layer, "groups", 1):
            raise Unsupported(f"its bias or groups are not those of {name}")
    return name, layer


def _check_positions(x: Value, channels: int) -> None:
    if any(layout for place, layout in enumerate(x.layouts) if place != channels):
        raise Unsupported(f"it has channels outside dimension {channels}")


def norm(e: Extraction, call: Call) -> Value:
    """Batch, instance and group norm, PReLU: each tensor has one entry per channel."""
    channels = e.channels(call.x, 1)
    if not (isinstance(call.module, nn.PReLU) and call.module.num_parameters == 1):
        e.meets(str(call.node.target), "norm", channels, *NORM_TENSORS)
    e.variables.divide(channels, getattr(call.module, "num_groups", 1))
    return keep(e, call)


def layer_norm(e: Extraction, call: Call) -> Value:
    """nn.LayerNorm and nn.RMSNorm over the last dimension."""
    if len(getattr(call.module, "normalized_shape", ())) != 1:
        raise Unsupported("it runs over more than the last dimension")
    e.meets(str(call.node.target), "norm", e.channels(call.x, -1), ("weight", 0), ("bias", 0))
    return keep(e, call)


def norm_function(e: Extraction, call: Call) -> Value:
    """F.layer_norm, F.batch_norm and F.group_norm with parameters of any module."""
    x, *tensors = call.values()
    channels = e.channels(x, -1 if call.name == "layer_norm" else 1)
    for tensor in tensors:
        e.variables.tie(channels, tensor.layouts[0])
    if call.name == "group_norm":
        e.variables.divide(channels, call.get(1, "num_groups"))
    owners = [e.traced.modules[tensor.name.rpartition(".")[0]] for tensor in tensors if tensor.name]
    if call.name == "layer_norm" and not any(isinstance(owner, nn.LayerNorm) for owner in owners):
        # nn.LayerNorm has this shape as an attribute, others may have it anywhere
        e.variables.fix(channels, call.written(call.get(1, "normalized_shape")))
    return keep(e, call)


def keep(_: Extraction, call: Call) -> Value:
    """Activations, dropout, pooling and others that keep the channels."""
    x, shape = call.x, call.shape
    same = len(shape) == len(x.shape) and all(
        old == new for old, new, layout in zip(x.shape, shape, x.layouts, strict=True) if layout
    )
    if not same:
        raise Unsupported("it changes the number of channels")
    return Value(shape=shape, layouts=x.layouts)


def elementwise(e: Extraction, call: Call) -> NodeValue:
    """Sums and products of tensors tie their channels; those of lengths give lengths."""
    values = call.values()
    if not values:
        return shapes.arithmetic(call)
    layouts: list[Layout] = []
    for back in range(len(call.shape), 0, -1):
        met = [(x.shape[-back], x.layouts[-back]) for x in values if len(x.shape) >= back]
        layouts.append(shapes.meeting(e, met))
    return Value(shape=call.shape, layouts=tuple(layouts))


def reduce(_: Extraction, call: Call) -> Value:
    """Means and sums over dimensions, which are removed or reduced to a single entry."""
    x = call.x
    dims = call.get(1, "dim", call.kwargs.get("axis"))
    dims = range(len(x.shape)) if dims is None else (dims,) if isinstance(dims, int) else dims
    gone = {place % len(x.shape) for place in dims}
    layouts = [() if place in gone else layout for place, layout in enumerate(x.layouts)]
    if len(call.shape) < len(x.shape):
        layouts = [layout for place, layout in enumerate(layouts) if place not in gone]
    return Value(shape=call.shape, layouts=tuple(layouts))


def attribute(e: Extraction, call: Call) -> NodeValue:
    """x.shape; other attributes do not depend on channels."""
    if call.get(1, "name") == "shape":
        return shapes.size_of(e, call)
    if isinstance(call.result, Tensor):
        raise Unsupported(f"there is no rule for its attribute {call.get(1, 'name')!r}")
    return call.result


def nothing(_: Extraction, call: Call) -> NodeValue:
    """Properties that do not depend on channel counts: rank, device."""
    return call.result


_SOURCES = ("torch", "torchvision", "_operator", "builtins")
_KEEPING_LAYERS = tuple(
    f"torch.nn.modules.{name}"
    for name in ("activation", "dropout", "padding", "pooling", "upsampling")
)
_LAYERS: tuple[tuple[type | tuple[type, ...], Rule], ...] = (
    (_ConvNd, convolution),
    (nn.Linear, linear),
    ((_NormBase, nn.GroupNorm, nn.PReLU), norm),
    ((nn.LayerNorm, nn.RMSNorm), layer_norm),
    ((nn.Flatten,), shapes.view),
    ((nn.ChannelShuffle,), shapes.shuffle),
    ((nn.Identity, nn.LocalResponseNorm), keep),
)
_NAMES: dict[Rule, str] = {
    keep: """
        abs adaptive_avg_pool2d adaptive_max_pool2d alpha_dropout avg_pool2d celu clone contiguous
        detach dropout dropout2d elu exp feature_dropout float gelu hardsigmoid hardswish hardtanh
        interpolate leaky_relu log_softmax max_pool2d mish pad relu relu6 selu sigmoid silu softmax
        softplus sqrt square stochastic_depth tanh to type_as
    """,
    elementwise: """
        add clamp div expand_as floordiv iadd imul isub itruediv maximum minimum mul neg pow sub
        truediv
    """,
    reduce: "amax amin mean sum",
    convolution: "conv1d conv2d conv3d",
    linear: "linear",
    shapes.view: "flatten reshape squeeze unsqueeze view",
    shapes.transpose: "permute transpose",
    shapes.chunk: "chunk split",
    shapes.concatenate: "cat concat",
    shapes.shuffle: "channel_shuffle",
    norm_function: "batch_norm group_norm layer_norm",
    shapes.item: "getitem",
    shapes.size_of: "size",
    nothing: "dim",
    attribute: "getattr",
}
_FUNCTIONS = {name: rule for rule, names in _NAMES.items() for name in names.split()}
